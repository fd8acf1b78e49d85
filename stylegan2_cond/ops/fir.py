"""Resampling filters along one axis, as banded matrices: linear interpolation and averaging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch

LINEAR, MEAN = "linear", "mean"


@dataclass(frozen=True, eq=False)
class Band:
    """A matrix whose rows are zero except for a few neighbours: `out[o] = Σ_t weight[t, o] · in[start[o] + t]`.

    Attributes:
        inputs: number of columns.
        start: `[outputs]` int32, never falling.
        weight: `[taps, outputs]` float64.
    """

    inputs: int
    start: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Band:
        """The band of a matrix, `[outputs, inputs]`."""
        outputs, inputs = matrix.shape
        used = [np.flatnonzero(row) for row in matrix]
        first = np.array([row[0] if len(row) else inputs for row in used], int)
        start = np.minimum.accumulate(first[::-1])[::-1]  # never falls; a row of zeros may start anywhere
        taps = max([1, *(row[-1] - begin + 1 for row, begin in zip(used, start, strict=True) if len(row))])
        start = np.minimum(start, inputs - taps).astype(np.int32)
        columns = start + np.arange(taps)[:, None]
        return cls(inputs, start, np.ascontiguousarray(matrix[np.arange(outputs), columns]))

    @property
    def outputs(self) -> int:
        """Number of rows."""
        return len(self.start)

    @property
    def taps(self) -> int:
        """Length of the longest run of neighbours."""
        return len(self.weight)

    @cached_property
    def step(self) -> int:
        """Largest growth of `start` from one row to the next."""
        return int(np.diff(self.start).max(initial=0))

    @cache  # noqa: B019  (a band is kept as well)
    def tables(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """`start` and `weight` on a device, kept there."""
        return torch.from_numpy(self.start).to(device), torch.from_numpy(self.weight).to(device, dtype)


@cache
def band(kind: str, factor: int, inputs: int, outputs: int, *, adjoint: bool = False) -> Band:
    """The filter of one axis.

    Args:
        kind: `LINEAR` interpolates between sample centres and repeats the edges, which for a factor of 2 is the FIR
            [1, 3, 3, 1] / 4; `MEAN` averages over `factor` samples, and at the far end over what is left.
        factor: of the resampling.
        inputs, outputs: length of the axis before and after; `outputs` may be fewer than the factor can reach.
        adjoint: return the transpose, from `outputs` to `inputs` samples.
    """
    columns, rows = np.arange(inputs), np.arange(outputs)[:, None]
    if kind == LINEAR:
        centre = (2 * rows + 1 - factor) / (2 * factor)  # of each output, among the inputs
        matrix = np.maximum(1 - np.abs(centre.clip(0, inputs - 1) - columns), 0)
    else:
        matrix = (columns // factor == rows).astype(float)
        matrix /= matrix.sum(axis=1, keepdims=True)
    return Band.of(matrix.T if adjoint else matrix)
