"""Standard errors by leaving out groups of patches, the same way for every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

GROUPS = 20

Statistic = Callable[[np.ndarray, np.ndarray], "float | np.ndarray"]


def make_groups(members: np.ndarray, rng: np.random.Generator, count: int = GROUPS) -> np.ndarray:
    """`[N]` group numbers below `count`; members with the same number (slices of one case) stay together.

    Slices of a case resemble each other, so a case is left out as a whole: otherwise the error would be too small.
    """
    unique, inverse = np.unique(members, return_inverse=True)
    dealt = np.arange(len(unique)) % min(count, len(unique))
    return rng.permutation(dealt)[inverse]


def jackknife(statistic: Statistic, real_groups: np.ndarray, drawn_groups: np.ndarray) -> tuple:
    """A statistic of two independent samples, and its delete-a-group standard error (Efron & Tibshirani 1993, ch. 11).

    Args:
        statistic: of two boolean masks, which real and which drawn patches to keep; a number, or an array of them.
        real_groups, drawn_groups: `[N]`, `[M]` group numbers, as many on each side; group g is left out of both at
            once, which adds the variances of both, since they are independent.

    Returns:
        The value on everything, and its standard error, each as the statistic gives them; the error is NaN where
        leaving out a group leaves nothing to measure.
    """
    value = statistic(np.ones(len(real_groups), bool), np.ones(len(drawn_groups), bool))
    groups = range(group_count(real_groups, drawn_groups))
    keeps = [(real_groups != group, drawn_groups != group) for group in groups]
    nothing = np.full_like(np.asarray(value, float), np.nan)
    without = [statistic(*keep) if measurable(*keep) else nothing for keep in keeps]
    return value, spread(without)


def group_count(*sides: np.ndarray) -> int:
    """How many groups there are."""
    return max(int(groups.max()) for groups in sides) + 1


def measurable(keep_real: np.ndarray, keep_drawn: np.ndarray) -> bool:
    """Whether two patches are left on each side, without which nothing has a spread."""
    return min(keep_real.sum(), keep_drawn.sum()) >= 2


def spread(without: Sequence) -> float | np.ndarray:
    """Jackknife standard error from the values that leave out one group each; NaN where there is only one group."""
    values = np.asarray(without, float)
    count = len(values)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean(axis=0)).sum(axis=0))
    error = error if count > 1 else np.full_like(error, np.nan)
    return float(error) if error.ndim == 0 else error
