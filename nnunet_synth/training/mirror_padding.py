"""Patches grown by their mirror image to the size of real cases, so that nnU-Net's loader pads both alike.

A patch is no larger than nnU-Net's patch. Before rotating and scaling, the loader cuts a larger box, and fills with
zeros what lies beyond the image: of a patch its whole surroundings, of a real case little or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Margins:
    """Voxels to mirror `before` and `after` a patch, along each axis of nnU-Net's `[z, y, x]`."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def to_size(cls, patch_size: Sequence[int], box: Sequence[int], usual: Sequence[float]) -> Margins:
        """As many as make a patch as large as real cases usually are, but no larger than the box that is cut.

        Args:
            patch_size: of the bank.
            box: that nnU-Net's loader cuts (`initial_patch_size`).
            usual: median size of the training cases, `median_image_size_in_voxels` of nnU-Net's plans.
        """
        missing = [
            min(max(0, min(int(most), round(size)) - length), 2 * (length - 1))  # a mirror image has no more to give
            for length, most, size in zip(patch_size, box, usual, strict=True)
        ]
        flat = [0] * (3 - len(missing))  # 2-D shards stack samples along z
        return cls((*flat, *(part // 2 for part in missing)), (*flat, *(part - part // 2 for part in missing)))

    def __bool__(self) -> bool:
        return any(self.before) or any(self.after)


class Mirrored:
    """What an array `[C, z, y, x]` would be with margins: shape, type, and slices."""

    def __init__(self, array: np.ndarray, margins: Margins):
        self.array = array
        self.margins = margins
        self.dtype = array.dtype
        self.ndim = array.ndim
        grown = (b + n + a for b, n, a in zip(margins.before, array.shape[1:], margins.after, strict=True))
        self.shape = (array.shape[0], *grown)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """The part of `box`, a slice without steps for each axis; along axes without margins, no more is read."""
        margins = list(zip((0, *self.margins.before), (0, *self.margins.after), strict=True))
        read = self.array[tuple(slice(None) if any(m) else part for m, part in zip(margins, box, strict=True))]
        for axis, (margin, part) in enumerate(zip(margins, box, strict=True)):
            if any(margin):
                read = read.take(_reflected(self.array.shape[axis], *margin)[part], axis=axis)
        return read


@lru_cache(maxsize=64)
def _reflected(length: int, before: int, after: int) -> np.ndarray:
    """Indices of an axis grown by its mirror image; np.pad would work them out at every draw."""
    return np.pad(np.arange(length), (before, after), mode="reflect")


def shifted(class_locations: Mapping, margins: Margins) -> dict:
    """nnU-Net's `class_locations`, `[n, 4]` of channel, z, y, x for each class, where they lie after growing."""
    by = np.array([0, *margins.before])
    return {key: np.asarray(voxels) + by if len(voxels) else voxels for key, voxels in class_locations.items()}
