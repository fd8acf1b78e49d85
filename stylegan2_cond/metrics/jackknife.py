"""Standard errors by the delete-a-group jackknife, for all metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

GROUPS = 20

Statistic = Callable[[np.ndarray, np.ndarray], "float | np.ndarray"]


def make_groups(members: np.ndarray, rng: np.random.Generator, count: int = GROUPS) -> np.ndarray:
    """`[N]` group numbers below `count`; members with the same number (slices of one case) share a group.

    Slices of a case resemble each other: were they in different groups, the error would be too small.
    """
    unique, inverse = np.unique(members, return_inverse=True)
    groups = np.arange(len(unique)) % min(count, len(unique))
    return rng.permutation(groups)[inverse]


def jackknife(statistic: Statistic, real_groups: np.ndarray, generated_groups: np.ndarray) -> tuple:
    """A statistic of two independent samples, and its delete-a-group standard error (Efron & Tibshirani 1993, ch. 11).

    Args:
        statistic: of two boolean masks, which real and which generated patches to keep; a number, or an array of them.
        real_groups, generated_groups: `[N]`, `[M]` group numbers, as many on each side; group g is left out of both at
            once, which adds the variances of both sides, since they are independent.

    Returns:
        The value on all patches, and its standard error, each in the statistic's shape; the error is NaN where too few
        patches are left without a group.
    """
    value = statistic(np.ones(len(real_groups), bool), np.ones(len(generated_groups), bool))
    groups = range(group_count(real_groups, generated_groups))
    keeps = [(real_groups != group, generated_groups != group) for group in groups]
    nothing = np.full_like(np.asarray(value, float), np.nan)
    without = [statistic(*keep) if min(side.sum() for side in keep) >= 2 else nothing for keep in keeps]
    return value, spread(without)


def group_count(*sides: np.ndarray) -> int:
    """Number of groups."""
    return max(int(groups.max()) for groups in sides) + 1


def spread(without: Sequence) -> float | np.ndarray:
    """Jackknife standard error from the values without one group each; NaN if there is only one group."""
    values = np.asarray(without, float)
    count = len(values)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean(axis=0)).sum(axis=0))
    error = error if count > 1 else np.full_like(error, np.nan)
    return float(error) if error.ndim == 0 else error
