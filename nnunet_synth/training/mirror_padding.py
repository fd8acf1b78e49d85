"""Mirror padding of synthetic patches to the size of real cases, so that nnU-Net's loader pads both alike.

Before nnU-Net rotates and scales, its loader cuts a box that is larger than its patch size and fills with zeros what
lies outside the image: all around a synthetic patch, but little or nothing around a real case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Margins:
    """Voxels to pad `before` and `after` a patch, along nnU-Net's axes `[z, y, x]`."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def to_size(cls, patch_size: Sequence[int], box: Sequence[int], usual: Sequence[float]) -> Margins:
        """Margins that make a patch as large as a typical real case, but not larger than the loader's box.

        Args:
            patch_size: of the bank.
            box: size that nnU-Net's loader cuts (`initial_patch_size`).
            usual: median size of the training cases (`median_image_size_in_voxels` of nnU-Net's plans).
        """
        missing = [
            min(max(0, min(int(most), round(size)) - length), 2 * (length - 1))  # a reflection cannot give more
            for length, most, size in zip(patch_size, box, usual, strict=True)
        ]
        flat = [0] * (3 - len(missing))  # 2-D shards stack samples along z
        return cls((*flat, *(part // 2 for part in missing)), (*flat, *(part - part // 2 for part in missing)))

    def __bool__(self) -> bool:
        return any(self.before) or any(self.after)

    def shift(self, class_locations: Mapping) -> dict:
        """nnU-Net's `class_locations` (`[n, 4]` of channel, z, y, x for each class) of the padded array."""
        by = np.array([0, *self.before])
        return {key: np.asarray(voxels) + by if len(voxels) else voxels for key, voxels in class_locations.items()}


NO_MARGINS = Margins((0, 0, 0), (0, 0, 0))


class MirrorPaddedArray:
    """An array `[C, z, y, x]` with mirrored margins, padded only where it is read: shape, type and slices."""

    def __init__(self, array: np.ndarray, margins: Margins):
        self.array = array
        self.margins = margins
        self.dtype = array.dtype
        self.ndim = array.ndim
        padded = (b + n + a for b, n, a in zip(margins.before, array.shape[1:], margins.after, strict=True))
        self.shape = (array.shape[0], *padded)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """The part in `box`, one slice without steps for each axis."""
        margins = list(zip((0, *self.margins.before), (0, *self.margins.after), strict=True))
        read = self.array[tuple(slice(None) if any(m) else part for m, part in zip(margins, box, strict=True))]
        for axis, (margin, part) in enumerate(zip(margins, box, strict=True)):
            if any(margin):
                read = read.take(_reflected(self.array.shape[axis], *margin)[part], axis=axis)
        return read


@lru_cache(maxsize=64)
def _reflected(length: int, before: int, after: int) -> np.ndarray:
    """Indices of a padded axis; cached, since the loader needs them for every draw."""
    return np.pad(np.arange(length), (before, after), mode="reflect")
