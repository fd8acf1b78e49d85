"""Resampling along one axis as a banded matrix: filters, factors, padding and edges all end in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property

import numpy as np
import torch

EDGES = ("zero", "repeat", "mean")


@dataclass(frozen=True)
class Resampling:
    """What happens along one axis: zeros are inserted, the ends padded, a filter convolved with, samples left out.

    Attributes:
        taps: of the filter, as `scipy.signal.upfirdn` takes them.
        up: each sample is followed by `up - 1` zeros.
        down: of the result, every `down`-th sample is kept.
        before, after: samples of padding, counted after zeros were inserted.
        edge: what lies outside: `zero`, the outermost sample (`repeat`), or nothing, in which case weights are scaled
            to keep their sum (`mean`).
        size: samples that are kept of the result; all, when None.
    """

    taps: tuple[float, ...]
    up: int = 1
    down: int = 1
    before: int = 0
    after: int = 0
    edge: str = "zero"
    size: int | None = None

    def outputs(self, inputs: int) -> int:
        """How many samples `inputs` become."""
        reached = (inputs * self.up + self.before + self.after - len(self.taps)) // self.down + 1
        return max(0, reached) if self.size is None else self.size

    @cache  # noqa: B019 - few resamplings live, each as long as the program
    def band(self, inputs: int, *, adjoint: bool = False) -> Band:
        """The matrix for an axis of `inputs` samples, or its transpose."""
        matrix = self._matrix(inputs)
        return Band.of(matrix.T if adjoint else matrix)

    def _matrix(self, inputs: int) -> np.ndarray:
        matrix = np.zeros((self.outputs(inputs), inputs))
        for output, row in enumerate(matrix):
            for tap, weight in enumerate(reversed(self.taps)):
                place = output * self.down + tap - self.before
                source = place // self.up
                if place % self.up or not (0 <= source < inputs or self.edge == "repeat"):
                    continue
                row[min(max(source, 0), inputs - 1)] += weight
            if self.edge == "mean" and row.any():
                row *= sum(self.taps) / row.sum()
        return matrix


@dataclass(frozen=True, eq=False)
class Band:
    """Matrix whose rows are zero but for a few neighbours: `out[o] = Σ_t weight[t, o] · in[start[o] + t]`.

    Attributes:
        inputs: columns.
        start: `[outputs]` int32.
        weight: `[taps, outputs]` float64.
    """

    inputs: int
    start: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Band:
        """matrix: `[outputs, inputs]`."""
        outputs, inputs = matrix.shape
        used = [np.flatnonzero(row) for row in matrix]
        first = np.array([row[0] if len(row) else inputs for row in used], int)
        start = np.minimum.accumulate(first[::-1])[::-1]  # never falls, and a row of zeros may start anywhere
        taps = max([1, *(row[-1] - begin + 1 for row, begin in zip(used, start, strict=True) if len(row))])
        start = np.minimum(start, inputs - taps).astype(np.int32)
        columns = start + np.arange(taps)[:, None]
        return cls(inputs, start, np.ascontiguousarray(matrix[np.arange(outputs), columns]))

    @property
    def outputs(self) -> int:
        """Rows."""
        return len(self.start)

    @property
    def taps(self) -> int:
        """Longest run of neighbours."""
        return len(self.weight)

    @cached_property
    def step(self) -> int:
        """By how much `start` grows from one row to the next, at most; it never falls."""
        return int(np.diff(self.start).max(initial=0))

    @cached_property
    def _tables(self) -> dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def tables(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """`start` and `weight` where a kernel reads them."""
        key = device, dtype
        if key not in self._tables:
            self._tables[key] = torch.from_numpy(self.start).to(device), torch.from_numpy(self.weight).to(device, dtype)
        return self._tables[key]


STILL = Resampling((1.0,))


@cache
def linear(factor: int, size: int) -> Resampling:
    """Linear interpolation between sample centres, edges repeated; `[1, 3, 3, 1] / 4` for a factor of 2."""
    taps = 2 * factor - factor % 2
    weights = tuple(1 - abs(tap - (taps - 1) / 2) / factor for tap in range(taps))
    before = (taps - 2 + factor) // 2  # puts the filter's centre where the first output's centre lies
    return Resampling(weights, up=factor, before=before, after=2 * factor, edge="repeat", size=size)


@cache
def mean(factor: int, inputs: int) -> Resampling:
    """Averages over `factor` samples; a rest at the far end is averaged over what is there."""
    factor = min(factor, inputs)
    return Resampling((1 / factor,) * factor, down=factor, after=factor - 1, edge="mean")


def write_axes(axes: Sequence[Resampling]) -> str:
    """As text, which operators of PyTorch can take."""
    return json.dumps([[*asdict(axis).values()] for axis in axes])


@cache
def read_axes(text: str) -> tuple[Resampling, ...]:
    """What `write_axes` wrote."""
    return tuple(Resampling(tuple(taps), *others) for taps, *others in json.loads(text))
