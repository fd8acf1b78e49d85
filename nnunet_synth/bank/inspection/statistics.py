"""What is measured on samples and on real patches alike: classes shown, areas, pieces, places, intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_synth.bank.inspection.two_sides import Neighbours
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.mask_statistics import describe_masks, mask_distances
from stylegan2_cond.progress_bar import ProgressBar

TITLES = {  # by group
    "area": "Area, % of the patch",
    "components": "Components",
    "holes": "Holes",
    "boundary": "Boundary, faces per 100 voxels of the patch",
    "z": "Centre along the first axis, 0 to 1",
    "y": "Centre along the second-last axis, 0 to 1",
    "x": "Centre along the last axis, 0 to 1",
    "intensity": "Intensity of all voxels, in nnU-Net’s units",
    "class intensity": "Intensity by class, in nnU-Net’s units",
    "position": "Position of the nearest real slice in its volume, 0 to 1",
    "nearest": "Correlation with the nearest real patch of another case",
}
VOXELS = 200  # of each patch, for the distribution of intensities
FACTORS = {"area": 100.0, "boundary": 100.0}

Sides = Sequence[SampleSet]  # samples of the bank; where there are real patches, also these and further ones


@dataclass(frozen=True)
class Measure:
    """One quantity of many patches.

    Attributes:
        group: a key of `TITLES`.
        of: name of the class or channel.
        generated: a number for each sample, or voxel, that has one.
        real, again: the same of real patches, and of further ones; None where there are none.
    """

    group: str
    of: str
    generated: np.ndarray
    real: np.ndarray | None = None
    again: np.ndarray | None = None

    @property
    def sides(self) -> list[np.ndarray]:
        """Real where there are any, then generated; without NaN."""
        return [side[~np.isnan(side)] for side in (self.real, self.generated) if side is not None]

    @property
    def distance(self) -> float:
        """Wasserstein distance in pooled standard deviations; NaN where one side has nothing."""
        return float(mask_distances([self.real], [self.generated])[0]) if self.real is not None else np.nan

    @property
    def noise(self) -> float:
        """The same between real and real patches: what a perfect bank would reach."""
        return float(mask_distances([self.real], [self.again])[0]) if self.again is not None else np.nan


def count_class_sets(sides: Sides, labels: Sequence[int]) -> dict[tuple[int, ...], list[float]]:
    """For each set of classes shown together, the share of each side's patches; the most frequent real sets first."""
    shares: dict[tuple[int, ...], list[float]] = {}
    for place, side in enumerate(sides):
        flat = side.label.reshape(len(side), -1)
        shown = np.array([(flat == label).any(axis=1) for label in labels]).T.reshape(len(flat), -1)
        for row, count in zip(*np.unique(shown, axis=0, return_counts=True), strict=True):
            names = tuple(label for label, there in zip(labels, row, strict=True) if there)
            shares.setdefault(names, [0.0] * len(sides))[place] = count / len(flat)
    return dict(sorted(shares.items(), key=lambda item: (*(-share for share in item[1][1:2]), -item[1][0])))


def measure(
    sides: Sides,
    neighbours: Neighbours | None,
    classes: Mapping[int, str],
    channels: Sequence[str],
    rng: np.random.Generator,
) -> list[Measure]:
    """All measures, group by group; those of masks over the patches that show the class.

    Args:
        sides: samples, real patches, further real patches; or the samples alone.
        neighbours: of the samples; None where there are no real patches.
        classes: names of the foreground labels.
        channels: names.
        rng: chooses the voxels whose intensities are compared.
    """
    measures = []
    for label, name in ProgressBar(classes.items(), desc="Measuring masks", unit="class", leave=False, delay=1):
        described = [describe_masks(side.label, label) for side in sides]
        shown = [side.pop("presence") > 0 for side in described]
        for key in described[0]:
            values = (FACTORS.get(key, 1.0) * side[key][where] for side, where in zip(described, shown, strict=True))
            measures.append(Measure(key, name, *values))
    measures += _intensities(sides, classes, channels, rng)
    if neighbours and neighbours.real:
        found = (neighbours.generated, neighbours.real)
        if neighbours.positions is not None:
            measures.append(Measure("position", "", *(neighbours.positions[side.index] for side in found)))
        measures.append(Measure("nearest", "", *(side.nearness for side in found)))
    return sorted(measures, key=lambda one: [*TITLES].index(one.group))


def _intensities(
    sides: Sides, classes: Mapping[int, str], channels: Sequence[str], rng: np.random.Generator
) -> list[Measure]:
    """Of as many voxels of each patch, together and by class; voxels outside of the image are left out."""
    voxels = []  # intensities [V, C] and labels [V] of each side
    for side in sides:
        flat, mask = side.image.reshape(len(side), side.channels, -1), side.label.reshape(len(side), -1)
        places = rng.integers(mask.shape[1], size=(len(side), VOXELS))
        labels = np.take_along_axis(mask, places, axis=1)
        values = np.take_along_axis(flat, places[:, None], axis=2).swapaxes(1, 2)
        voxels.append((values[labels != OUTSIDE], labels[labels != OUTSIDE]))
    found = [Measure("intensity", name, *(image[:, n] for image, _ in voxels)) for n, name in enumerate(channels)]
    for label, class_name in classes.items():
        for channel, name in enumerate(channels):
            of = class_name if len(channels) == 1 else f"{class_name}, {name}"
            found.append(Measure("class intensity", of, *(image[mask == label, channel] for image, mask in voxels)))
    return found
