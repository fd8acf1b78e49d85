"""The table that conditions are sampled from: measured patches, few enough for a file, with a Gaussian kernel each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_ROWS = 500
MIN_ALIKE = 10  # rows with the same classes; fewer are not enough to estimate their own bandwidths
MIN_AREA_BANDWIDTH, MIN_POSITION_BANDWIDTH = 0.1, 1e-3  # when rows are weighted by a requested log area or position

Row = tuple[float | None, ...]  # number of patches, log area of each class (None: not shown), and position, if any


@dataclass(frozen=True, eq=False)
class ConditionTable:
    """Measured patches, one in each row.

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
    def of(cls, weights: np.ndarray, areas: np.ndarray, positions: np.ndarray) -> ConditionTable:
        """A table of log areas, NaN where a class is not shown; each combination of classes has its own bandwidths."""
        shown = ~np.isnan(areas)
        values = np.c_[areas, positions]
        widths = np.tile(_bandwidths(values), (len(values), 1))
        combinations = np.unique(np.c_[shown, positions >= 0], axis=0, return_inverse=True)[1].reshape(-1)
        for number in np.flatnonzero(np.bincount(combinations) >= MIN_ALIKE):
            widths[combinations == number] = _bandwidths(values[combinations == number])
        return cls(weights, shown, np.where(shown, areas, 0), positions, widths[:, :-1], widths[:, -1])

    @classmethod
    def from_rows(cls, rows: Sequence[Row], classes: int, *, has_position: bool) -> ConditionTable:
        """The table of the rows in a file; one empty patch if there are none.

        Raises:
            ValueError: a row has too many or too few numbers, or impossible ones.
        """
        rows = rows or ((1.0, *[None] * classes, *[0.5] * has_position),)
        length = 1 + classes + has_position
        for number, row in enumerate(rows):
            if len(row) != length:
                raise ValueError(f"row {number} should have {length} numbers, it is {list(row)}")
        values = np.array(rows, float)  # None becomes NaN
        weights, areas = values[:, 0], values[:, 1 : 1 + classes]
        positions = values[:, -1] if has_position else np.full(len(values), 0.5)
        good = (weights > 0) & np.isfinite(weights) & (positions >= 0) & (positions <= 1)
        good &= ~((areas > 0) | np.isinf(areas)).any(axis=1)
        if not good.all():
            number = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"row {number} should have a number of patches, logs of shares (none above 0), and a position from 0 "
                f"to 1, it is {list(rows[number])}"
            )
        return cls.of(weights, areas, positions)

    def row_weights(
        self,
        classes: np.ndarray,
        others: bool = True,
        areas: np.ndarray | None = None,
        position: float | None = None,
    ) -> np.ndarray:
        """`[rows]`: how likely each row is to be sampled, given what it should show.

        Rows that err in more classes than others have weight 0; the rest are weighted by how likely their kernels
        make the requested areas and position.

        Args:
            classes: `[classes]` booleans, those that it should show.
            others: whether it may show others as well.
            areas: `[classes]`, logs of shares; NaN where they are free.
            position: from 0 to 1.
        """
        errors = (~self.shown & classes if others else self.shown != classes).sum(axis=1)
        logs = np.where(errors == errors.min(), np.log(self.weights), -np.inf)
        if areas is not None:
            likely = _log_normal(areas - self.areas, self.bandwidths.clip(MIN_AREA_BANDWIDTH))
            logs = logs + np.where(self.shown & ~np.isnan(areas), likely, 0).sum(axis=1)
        if position is not None:
            logs = logs + _log_normal(position - self.positions, self.position_bandwidths.clip(MIN_POSITION_BANDWIDTH))
        return np.exp(logs - logs.max())

    def move_areas(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Log areas `[classes]`, each of its own row, moved by `steps` bandwidths within the measured range."""
        columns = np.arange(len(rows))
        moved = self.areas[rows, columns] + self.bandwidths[rows, columns] * steps
        return reflect(moved, self.areas.min(axis=0), np.where(self.shown, self.areas, -np.inf).max(axis=0))

    def move_position(self, row: int, step: float) -> float:
        """The position of a row, moved by `step` bandwidths within the measured range."""
        moved = self.positions[row] + self.position_bandwidths[row] * step
        return float(reflect(moved, self.positions.min(), self.positions.max()))


def _bandwidths(values: np.ndarray) -> np.ndarray:
    """`[columns]`: of the numbers in each column."""
    return np.array([silverman_bandwidth(column[~np.isnan(column)]) for column in values.T])


def _log_normal(off: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Log density of a normal distribution, up to a constant."""
    return -np.square(off / deviation) / 2 - np.log(deviation)


def weighted_choice(weights: np.ndarray, at: float) -> int:
    """The index at which the share `at`, from 0 to 1, of all weights is reached."""
    cumulated = np.cumsum(weights)
    return int(np.searchsorted(cumulated, at * cumulated[-1], side="right"))


def reflect(values: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Values beyond the ends of a range, mirrored into it."""
    values = low + np.abs(values - low)
    return np.clip(high - np.abs(high - values), low, high)


def silverman_bandwidth(values: np.ndarray) -> float:
    """Bandwidth of a Gaussian kernel for values `[N]` (Silverman 1986, Eq. 3.31); 0 where they do not vary."""
    if len(values) < 2:
        return 0.0
    low, high = np.quantile(values, (0.25, 0.75))
    robust = (high - low) / 1.349  # of a normal distribution, this is the standard deviation
    return float(0.9 * min(values.std(ddof=1), robust or np.inf) * len(values) ** -0.2)


def measured_rows(areas: np.ndarray, positions: np.ndarray | None) -> tuple[Row, ...]:
    """The rows that stand for measured patches, thinned out to at most `MAX_ROWS`.

    Every combination of classes is kept, the most frequent ones first, and has as many rows as its share of patches.

    Args:
        areas: `[N, classes]`, logs of shares; -inf where a class is not shown. In random order.
        positions: `[N]`, from 0 to 1; None where they are not part of the conditions.
    """
    rows = [tuple(round(area, 2) if area > -np.inf else None for area in row) for row in areas.tolist()]
    if positions is not None:
        places = positions.astype(float).tolist()
        rows = [(*row, round(place, 3)) for row, place in zip(rows, places, strict=True)]
    shown = np.c_[np.ones(len(areas), bool), areas > -np.inf]
    combinations = np.unique(shown, axis=0, return_inverse=True)[1].reshape(-1).tolist()
    texts = list(map(str, rows))  # 0.0 and -0.0 are different rows
    counted, row_of = Counter(zip(texts, combinations, strict=True)), dict(zip(texts, rows, strict=True))
    names = [text for text, _ in counted]
    kept, weights = _thin_out(np.array([group for _, group in counted]), np.array(list(counted.values())))
    return tuple((float(f"{weight:.4g}"), *row_of[names[number]]) for number, weight in zip(kept, weights, strict=True))


def _thin_out(groups: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to keep, and how many patches each then stands for, such that groups keep their shares.

    Args:
        groups: `[rows]`, the combination that each belongs to, numbered from 0.
        counts: `[rows]`, how many patches are described by it.
    """
    totals, sizes = np.bincount(groups, counts), np.bincount(groups)
    rank = np.empty(len(groups), int)
    for group, size in enumerate(sizes):
        rank[groups == group] = np.arange(size)
    kept = np.sort(np.lexsort((-totals[groups], rank / sizes[groups]))[:MAX_ROWS])
    groups, counts = groups[kept], counts[kept]
    return kept, counts * (totals / np.bincount(groups, counts, len(totals)).clip(1))[groups]
