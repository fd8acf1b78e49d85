"""Standard errors by leaving out groups of canvases, the same way for every metric."""

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
        statistic: of two boolean masks, which real and which drawn canvases to keep; a number, or an array of them.
        real_groups, drawn_groups: `[N]`, `[M]` group numbers; group g is left out of both at once, which adds the
            variances of both, since they are independent.

    Returns:
        The value on everything, and its standard error, each as the statistic gives them.
    """
    value = statistic(np.ones(len(real_groups), bool), np.ones(len(drawn_groups), bool))
    count = int(max(real_groups.max(), drawn_groups.max())) + 1
    return value, spread([statistic(real_groups != group, drawn_groups != group) for group in range(count)])


def spread(without: Sequence) -> float | np.ndarray:
    """Jackknife standard error from the values that leave out one group each; NaN where there is only one group."""
    values = np.asarray(without, float)
    count = len(values)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean(axis=0)).sum(axis=0))
    error = error if count > 1 else np.full_like(error, np.nan)
    return float(error) if error.ndim == 0 else error
