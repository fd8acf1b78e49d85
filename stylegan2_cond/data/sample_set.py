"""A set of patches, real or generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleSet:
    """Patches of one size, in nnU-Net's normalised units.

    Attributes:
        image: `[N, C, *spatial]` float32; C is 0 where there are masks alone.
        label: `[N, *spatial]` int16; None where there are no masks.
        case: `[N]` names of the cases that the patches were cut from; None where each stands for itself.
        condition: `[N, width]` float32 condition vectors: what generated patches were conditioned on, or what was
            measured on real ones; None where that is unknown.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    case: np.ndarray | None = None
    condition: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.image.shape[1]

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Spatial size of each patch."""
        return self.image.shape[2:]

    def take(self, indices: np.ndarray | slice) -> SampleSet:
        """The patches of these indices."""
        parts = (self.image, self.label, self.case, self.condition)
        return SampleSet(*(None if part is None else part[indices] for part in parts))

    @classmethod
    def joined(cls, parts: Sequence[SampleSet]) -> SampleSet:
        """All patches of several sets, one after the other; an attribute that one of them lacks is None."""
        columns = zip(*((part.image, part.label, part.case, part.condition) for part in parts), strict=True)
        return cls(*(None if any(one is None for one in column) else np.concatenate(column) for column in columns))

    def batches(self, size: int) -> Iterator[SampleSet]:
        """All patches, `size` at a time."""
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))

    def cropped(self, patch_size: Sequence[int]) -> SampleSet:
        """The centre of each patch, of this size."""
        starts = [(have - want) // 2 for have, want in zip(self.patch_size, patch_size, strict=True)]
        box = (..., *(slice(start, start + want) for start, want in zip(starts, patch_size, strict=True)))
        label = None if self.label is None else self.label[box]
        return SampleSet(self.image[box], label, self.case, self.condition)

    def case_numbers(self) -> np.ndarray:
        """`[N]` integers, the same for patches of one case."""
        return np.arange(len(self)) if self.case is None else np.unique(self.case, return_inverse=True)[1]
