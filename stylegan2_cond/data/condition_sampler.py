"""What conditions are drawn from: measured patches, few enough for a file, with a Gaussian kernel around each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MOST_ROWS = 500  # of measured patches that are kept
ABSENT = "."  # in the place of the area of a class that a patch does not show
FEWEST_ALIKE = 10  # rows that show the same classes; fewer can't tell how wide their kernels should be
FINEST_AREA, FINEST_POSITION = 0.1, 1e-3  # the narrowest kernels by which a log area or a position is near to another


@dataclass(frozen=True, eq=False)
class MeasuredPatches:
    """A table with a row for each.

    Attributes:
        weights: `[rows]`, how many patches each stands for.
        shown: `[rows, classes]`, which classes it shows.
        areas: `[rows, classes]`, logs of shares of the patch; 0 where a class is not shown.
        positions: `[rows]`, from 0 to 1.
        bandwidths: `[rows, classes]`, of the kernels around log areas.
        position_bandwidths: `[rows]`, of the kernels around positions.
    """

    weights: np.ndarray
    shown: np.ndarray
    areas: np.ndarray
    positions: np.ndarray
    bandwidths: np.ndarray
    position_bandwidths: np.ndarray

    @classmethod
    def of(cls, weights: np.ndarray, areas: np.ndarray, positions: np.ndarray) -> MeasuredPatches:
        """A table of log areas, NaN where a class is not shown; kernels are as wide as each combination wants them."""
        shown = ~np.isnan(areas)
        values = np.c_[areas, positions]
        widths = np.tile(_bandwidths(values), (len(values), 1))
        combinations = np.unique(np.c_[shown, positions >= 0], axis=0, return_inverse=True)[1].reshape(-1)
        for number in np.flatnonzero(np.bincount(combinations) >= FEWEST_ALIKE):
            widths[combinations == number] = _bandwidths(values[combinations == number])
        return cls(weights, shown, np.where(shown, areas, 0), positions, widths[:, :-1], widths[:, -1])

    def nearness(
        self,
        showing: np.ndarray,
        others: bool = True,
        areas: np.ndarray | None = None,
        position: float | None = None,
    ) -> np.ndarray:
        """`[rows]`: how readily each row is drawn, given what it should be like.

        Rows that err in more classes than others are never drawn; of the rest, those that make wanted areas and a
        wanted position likely, by their kernels.

        Args:
            showing: `[classes]`, those that it should show.
            others: whether it may show others as well.
            areas: `[classes]`, logs of shares; NaN where they are free.
            position: from 0 to 1.
        """
        errors = (~self.shown & showing if others else self.shown != showing).sum(axis=1)
        logs = np.where(errors == errors.min(), np.log(self.weights), -np.inf)
        if areas is not None:
            likely = _log_normal(areas - self.areas, self.bandwidths.clip(FINEST_AREA))
            logs = logs + np.where(self.shown & ~np.isnan(areas), likely, 0).sum(axis=1)
        if position is not None:
            logs = logs + _log_normal(position - self.positions, self.position_bandwidths.clip(FINEST_POSITION))
        return np.exp(logs - logs.max())

    def move_areas(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Log areas `[classes]`, each of a row of its own, so many bandwidths away, within what the class ever has."""
        columns = np.arange(len(rows))
        moved = self.areas[rows, columns] + self.bandwidths[rows, columns] * steps
        return fold(moved, self.areas.min(axis=0), np.where(self.shown, self.areas, -np.inf).max(axis=0))

    def move_position(self, row: int, step: float) -> float:
        """The position of a row, so many bandwidths away, within what was measured."""
        moved = self.positions[row] + self.position_bandwidths[row] * step
        return float(fold(moved, self.positions.min(), self.positions.max()))


def _bandwidths(values: np.ndarray) -> np.ndarray:
    """`[columns]`: of the numbers in each column."""
    return np.array([silverman(column[~np.isnan(column)]) for column in values.T])


def _log_normal(off: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Log density of a normal distribution, but for a constant."""
    return -np.square(off / deviation) / 2 - np.log(deviation)


def pick(weights: np.ndarray, at: float) -> int:
    """The row in which a share of all weights, `at` from 0 to 1, is reached."""
    cumulated = np.cumsum(weights)
    return int(np.searchsorted(cumulated, at * cumulated[-1], side="right"))


def fold(values: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Values beyond the ends of a range, mirrored into it."""
    values = low + np.abs(values - low)
    return np.clip(high - np.abs(high - values), low, high)


def silverman(values: np.ndarray) -> float:
    """Bandwidth of a Gaussian kernel for values `[N]` (Silverman 1986, Eq. 3.31); 0 where they do not vary."""
    if len(values) < 2:
        return 0.0
    low, high = np.quantile(values, (0.25, 0.75))
    robust = (high - low) / 1.349  # of a normal distribution, this is the standard deviation
    return float(0.9 * min(values.std(ddof=1), robust or np.inf) * len(values) ** -0.2)


def write_rows(areas: np.ndarray, positions: np.ndarray | None) -> tuple[str, ...]:
    """Measured patches, one a line, thinned out to at most `MOST_ROWS`: what `read_rows` reads.

    Every combination of classes stays, the most frequent ones first; beyond that, each has as many lines as patches.

    Args:
        areas: `[N, classes]`, logs of shares; -inf where a class is not shown. In random order.
        positions: `[N]`, from 0 to 1; None where they are no part of the conditions.
    """
    lines = [" ".join(f"{area:.2f}" if area > -np.inf else ABSENT for area in row) for row in areas]
    if positions is not None:
        lines = [f"{line} {position:.3f}".strip() for line, position in zip(lines, positions, strict=True)]
    shown = np.c_[np.ones(len(areas), bool), areas > -np.inf]
    combinations = np.unique(shown, axis=0, return_inverse=True)[1].reshape(-1).tolist()
    counted = Counter(zip(lines, combinations, strict=True))
    names = [line for line, _ in counted]
    kept, stands_for = _thin_out(np.array([group for _, group in counted]), np.array(list(counted.values())))
    return tuple(f"{weight:.4g} {names[number]}".strip() for number, weight in zip(kept, stands_for, strict=True))


def _thin_out(groups: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which lines to keep, and how many patches each then stands for, such that groups keep their shares.

    Args:
        groups: `[lines]`, the combination that each belongs to, numbered from 0.
        counts: `[lines]`, how many patches are described by it.
    """
    totals, sizes = np.bincount(groups, counts), np.bincount(groups)
    rank = np.empty(len(groups), int)
    for group, size in enumerate(sizes):
        rank[groups == group] = np.arange(size)
    kept = np.sort(np.lexsort((-totals[groups], rank / sizes[groups]))[:MOST_ROWS])
    groups, counts = groups[kept], counts[kept]
    return kept, counts * (totals / np.bincount(groups, counts, len(totals)).clip(1))[groups]


@lru_cache(maxsize=16)
def read_rows(rows: tuple[str, ...], classes: int, *, has_position: bool) -> MeasuredPatches:
    """The table that the lines write down; one empty patch where there are none.

    Raises:
        ValueError: a line with too many or too few numbers, or with such as can't be.
    """
    rows = rows or (" ".join(["1", *[ABSENT] * classes, *["0.5"] * has_position]),)
    wanted = 1 + classes + has_position
    for number, row in enumerate(rows):
        if len(row.split()) != wanted:
            raise ValueError(f"row {number} should have {wanted} numbers, it is '{row}'")
    values = np.array([_numbers(row) for row in rows])
    weights, areas = values[:, 0], values[:, 1 : 1 + classes]
    positions = values[:, -1] if has_position else np.full(len(values), 0.5)
    good = (weights > 0) & np.isfinite(weights) & (positions >= 0) & (positions <= 1)
    good &= ~((areas > 0) | np.isinf(areas)).any(axis=1)
    if not good.all():
        raise ValueError(
            f"row {np.flatnonzero(~good)[0]} should have a number of patches, logs of shares (none above 0), and a "
            f"position from 0 to 1, it is '{rows[np.flatnonzero(~good)[0]]}'"
        )
    return MeasuredPatches.of(weights, areas, positions)


def _numbers(row: str) -> list[float]:
    return [np.nan if entry == ABSENT else float(entry) for entry in row.split()]
