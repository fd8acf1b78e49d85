"""Statistics of the training cases: what the plan and the codec follow from, and errors that would show later."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case, Preprocessed
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.progress_bar import ProgressBar

VOXELS_PER_CASE = 50_000  # at most, for the intensity quantiles, and
VOXELS = 5_000_000  # of all cases together, a few hundred MB while they are sorted; quantiles vary by 1 % of a tail
RANGE_QUANTILES = (0.005, 0.995)  # nnU-Net's CT clipping uses the same


@dataclass(frozen=True)
class Fingerprint:
    """Statistics of the training cases.

    Attributes:
        sizes: `[cases, dims]` spatial sizes that a patch can fill; of a slice for 2-D configurations.
        low, high: per channel, the robust range of intensities in nnU-Net's units.
        outside: per channel, the one intensity of voxels labelled `OUTSIDE`; None where it varies.
        has_outside: whether any voxel is labelled `OUTSIDE`.
        slices: `[cases]` images of that size in each case; 1 for volumes.
        constant: per channel, whether all voxels of all cases have one intensity.
        shown: number of cases that show each foreground label; labels that none shows are left out.
    """

    sizes: np.ndarray
    low: tuple[float, ...]
    high: tuple[float, ...]
    outside: tuple[float, ...] | None
    has_outside: bool
    slices: np.ndarray
    constant: tuple[bool, ...]
    shown: Mapping[int, int]

    def patches(self, patch_size: Sequence[int]) -> int:
        """Number of patches in the cases that do not overlap; at least one in each slice or volume."""
        return int((self.slices * np.maximum(self.sizes // np.array(patch_size), 1).prod(axis=1)).sum())

    @property
    def bytes(self) -> int:
        """What all cases take in memory, images as float32 and labels as int16."""
        return int((self.slices * self.sizes.prod(axis=1)).sum()) * (4 * len(self.low) + 2)


def read_fingerprint(preprocessed: Preprocessed, names: Sequence[str], scans: ScanBank | None = None) -> Fingerprint:
    """Read every training case, and every scan if there are any, once.

    Raises:
        UserError: a case has voxels that are not finite, or labels that dataset.json does not declare.
    """
    labels = preprocessed.label_manager.all_labels
    ignore = preprocessed.label_manager.ignore_label
    dims = len(preprocessed.patch_size)
    sizes, slices, samples, ranges, outside_ranges, shown = [], [], [], [], [], Counter()
    rng = np.random.default_rng(0)
    cases = [(preprocessed, name) for name in names] + [(scans, name) for name in (scans.names if scans else ())]
    most = min(VOXELS_PER_CASE, VOXELS // max(1, len(cases)))
    for source, name in ProgressBar(cases, desc="Reading the training cases", unit="case", leave=False, delay=2):
        case = source.load(name)
        image, label = np.asarray(case.image[:]), np.asarray(case.label[:])[0]
        _check(preprocessed, case, image, label, {*labels, OUTSIDE, *([] if ignore is None else [ignore])})
        sizes.append(image.shape[-dims:])
        slices.append(math.prod(image.shape[1:-dims]))
        shown.update(value for value in np.unique(label).tolist() if value > 0 and value != ignore)
        flat = image.reshape(len(image), -1)
        chosen = rng.integers(flat.shape[1], size=most) if flat.shape[1] > most else slice(None)
        samples.append(flat[:, chosen])
        ranges.append((flat.min(axis=1), flat.max(axis=1)))
        if (beyond := label == OUTSIDE).any():
            values = image[:, beyond]
            outside_ranges.append((values.min(axis=1), values.max(axis=1)))
    lowest, highest = _bounds(ranges)
    outside = None
    if outside_ranges and np.allclose(*(bounds := _bounds(outside_ranges)), atol=1e-6):
        outside = tuple(bounds[0].tolist())
    low, high = np.quantile(np.concatenate(samples, axis=1), RANGE_QUANTILES, axis=1)
    high = np.where(high > low, high, low + 1)  # a constant channel stays constant
    return Fingerprint(
        sizes=np.array(sizes),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        outside=outside,
        has_outside=bool(outside_ranges),
        slices=np.array(slices),
        constant=tuple((highest - lowest <= 1e-6).tolist()),
        shown={int(label): count for label, count in sorted(shown.items())},
    )


def _check(preprocessed: Preprocessed, case: Case, image: np.ndarray, label: np.ndarray, known: set[int]) -> None:
    channels = len(preprocessed.channel_names)
    if len(image) != channels or image.shape[1:] != label.shape:
        raise UserError(
            f"Case {case.name} in {preprocessed.folder} has {len(image)} channels of {image.shape[1:]} and a label map "
            f"of {label.shape}; dataset.json names {channels} channels. Preprocess again: "
            f"{preprocessed.preprocess_command}"
        )
    if not np.isfinite(image).all():
        count = int((~np.isfinite(image)).sum())
        raise UserError(
            f"Case {case.name} in {preprocessed.folder} has {count} voxels that are NaN or infinite. Fix the image "
            f"in nnUNet_raw and preprocess again: {preprocessed.preprocess_command}"
        )
    if stray := sorted(set(np.unique(label).tolist()) - known):
        raise UserError(
            f"Case {case.name} in {preprocessed.folder} has label {stray[0]:g}, which dataset.json does not declare "
            f"(it has {preprocessed.dataset_json['labels']}). Fix the label map or dataset.json in nnUNet_raw, then: "
            f"{preprocessed.preprocess_command}"
        )


def _bounds(ranges: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, the lowest and the highest value of all ranges."""
    return np.min([low for low, _ in ranges], axis=0), np.max([high for _, high in ranges], axis=0)
