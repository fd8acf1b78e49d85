"""What is measured on samples and on real patches alike: classes shown, areas, pieces, places, intensities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_synth.bank.inspection.neighbours import Neighbours
from nnunet_synth.bank.inspection.real_side import RealSide
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.mask_statistics import describe_masks, mask_distances
from stylegan2_cond.progress_bar import ProgressBar

OF_MASKS = ("area", "components", "holes", "boundary", "z", "y", "x")
GROUPS = (*OF_MASKS, "intensity", "class intensity", "position", "nearest")
COUNTED = ("components", "holes")
VOXELS = 200  # drawn from each patch for the distribution of intensities
FACTORS = {"area": 100.0, "boundary": 100.0}


@dataclass(frozen=True)
class Measure:
    """One figure of many patches.

    Attributes:
        group: one of `GROUPS`.
        of: the class or channel, in words.
        drawn: a number for each sample, or voxel, that has one.
        real, again: the same of real patches, and of other ones; None where there are none.
    """

    group: str
    of: str
    drawn: np.ndarray
    real: np.ndarray | None = None
    again: np.ndarray | None = None

    @property
    def distance(self) -> float:
        """Wasserstein distance of real and synthetic in pooled standard deviations; NaN where one side has nothing."""
        return float(mask_distances([self.real], [self.drawn])[0]) if self.real is not None else np.nan

    @property
    def noise(self) -> float:
        """The same of real and real patches: what a perfect bank would come to."""
        return float(mask_distances([self.real], [self.again])[0]) if self.again is not None else np.nan


@dataclass(frozen=True)
class Presence:
    """How often each set of classes is shown together: shares of the patches, the most frequent real ones first."""

    sets: Sequence[tuple[int, ...]]
    drawn: Sequence[float]
    real: Sequence[float] | None
    again: Sequence[float] | None

    @property
    def distance(self) -> float:
        """Total variation: the share of patches that would have to show another set; NaN without real ones."""
        return np.nan if self.real is None else sum(map(abs, np.subtract(self.real, self.drawn))) / 2

    @property
    def noise(self) -> float:
        """The same of real and real patches."""
        return np.nan if self.real is None else sum(map(abs, np.subtract(self.real, self.again))) / 2


def presence(samples: SampleSet, real: RealSide | None, labels: Sequence[int]) -> Presence:
    """Count the sets of classes on both sides."""
    sides = [_sets(side, labels) for side in _sides(samples, real)]
    order = Counter()
    for side in (*sides[1:2], *sides[:1]):  # real ones decide, where there are any
        order.update({one: share for one, share in side.items() if one not in order})
    sets = [one for one, _ in order.most_common()]
    shares = [[side.get(one, 0.0) for one in sets] for side in sides]
    return Presence(sets, *(shares if real else (shares[0], None, None)))


def measure(
    samples: SampleSet,
    real: RealSide | None,
    neighbours: Neighbours | None,
    classes: Mapping[int, str],
    channels: Sequence[str],
    rng: np.random.Generator,
) -> list[Measure]:
    """Everything but presence, group by group.

    Args:
        samples: of the bank.
        real: patches; None where there are none.
        neighbours: of the samples; None where there are no real patches.
        classes: names of the foreground labels.
        channels: names.
        rng: draws the voxels whose intensities are looked at.
    """
    sides = _sides(samples, real)
    bar = ProgressBar(classes.items(), desc="Measuring masks", unit="class", leave=False, delay=1)
    measures = [one for label, name in bar for one in _mask_measures(sides, label, name)]
    measures += _intensities(sides, classes, channels, rng)
    if neighbours and neighbours.real:
        if real.positions is not None:
            drawn, usual = (real.positions[side.index] for side in (neighbours.drawn, neighbours.real))
            measures.append(Measure("position", "", drawn, usual))
        measures.append(Measure("nearest", "", neighbours.drawn.nearness, neighbours.real.nearness))
    return sorted(measures, key=lambda one: GROUPS.index(one.group))


def _sides(samples: SampleSet, real: RealSide | None) -> list[SampleSet]:
    return [samples] if real is None else [samples, real.patches, real.again]


def _sets(samples: SampleSet, labels: Sequence[int]) -> dict[tuple[int, ...], float]:
    flat = samples.label.reshape(len(samples), -1)
    shown = np.array([(flat == label).any(axis=1) for label in labels]).T.reshape(len(flat), -1)
    rows, counts = np.unique(shown, axis=0, return_counts=True)
    named = (tuple(label for label, there in zip(labels, row, strict=True) if there) for row in rows)
    return dict(zip(named, counts / len(flat), strict=True))


def _mask_measures(sides: Sequence[SampleSet], label: int, name: str) -> list[Measure]:
    """Of the patches that show the class."""
    described = [describe_masks(side.label, label) for side in sides]
    shown = [side["presence"] > 0 for side in described]
    return [
        Measure(key, name, *(FACTORS.get(key, 1.0) * d[key][s] for d, s in zip(described, shown, strict=True)))
        for key in described[0]
        if key != "presence"
    ]


def _intensities(
    sides: Sequence[SampleSet], classes: Mapping[int, str], channels: Sequence[str], rng: np.random.Generator
) -> list[Measure]:
    """Of some voxels of each patch, all and class by class; voxels outside of the image are none."""
    drawn = [_voxels(side, rng) for side in sides]
    found = [
        Measure("intensity", name, *(image[:, channel] for image, _ in drawn)) for channel, name in enumerate(channels)
    ]
    for label, class_name in classes.items():
        for channel, name in enumerate(channels):
            of = class_name if len(channels) == 1 else f"{class_name}, {name}"
            found.append(Measure("class intensity", of, *(image[mask == label, channel] for image, mask in drawn)))
    return found


def _voxels(side: SampleSet, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intensities `[V, C]` and labels `[V]` of voxels within the image, as many of each patch."""
    flat, mask = side.image.reshape(len(side), side.channels, -1), side.label.reshape(len(side), -1)
    places = rng.integers(mask.shape[1], size=(len(side), VOXELS))
    labels = np.take_along_axis(mask, places, axis=1)
    values = np.take_along_axis(flat, places[:, None], axis=2).swapaxes(1, 2)
    return values[labels != OUTSIDE], labels[labels != OUTSIDE]
