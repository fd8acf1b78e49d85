"""Kernel distance (Bińkowski et al. 2018, Demystifying MMD GANs): unbiased, so that small sets are not punished."""

from __future__ import annotations

import math

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, group_count, spread
from stylegan2_cond.metrics.registry import Metric, Result, register

BLOCK = 2048  # rows of a kernel matrix at once


def kernel_distance(
    real: torch.Tensor, drawn: torch.Tensor, real_groups: np.ndarray, drawn_groups: np.ndarray
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³, and its standard error.

    Args:
        real, drawn: `[N, F]`, `[M, F]`.
        real_groups, drawn_groups: `[N]`, `[M]` group numbers, as many on each side, that the standard error leaves out.

    Returns:
        The value on everything (near 0, and below it half of the time, for sets of one distribution), and its
        delete-a-group jackknife standard error.
    """
    count = group_count(real_groups, drawn_groups)
    members = [_membership(groups, count) for groups in (real_groups, drawn_groups)]
    within_real = _group_sums(real, real, members[0], members[0]), _diagonal_sums(real, members[0])
    within_drawn = _group_sums(drawn, drawn, members[1], members[1]), _diagonal_sums(drawn, members[1])
    between = _group_sums(real, drawn, *members)
    sizes = [member.sum(dim=0) for member in members]

    def value(keep: torch.Tensor) -> float:
        n, m = (float(size[keep].sum()) for size in sizes)
        if min(n, m) < 2:
            return math.nan
        cross = 2 * float(between[keep][:, keep].sum()) / (n * m)
        real_part, drawn_part = (
            float(sums[keep][:, keep].sum() - diagonal[keep].sum()) for sums, diagonal in (within_real, within_drawn)
        )
        return real_part / (n * (n - 1)) + drawn_part / (m * (m - 1)) - cross

    everything = torch.ones(count, dtype=torch.bool)
    without = [value(everything & (torch.arange(count) != group)) for group in range(count)]
    return value(everything), spread(without)


def _kernel(inner: torch.Tensor, width: int) -> torch.Tensor:
    return (inner / width + 1) ** 3


def _membership(groups: np.ndarray, count: int) -> torch.Tensor:
    """`[N, G]`, 1 where patch n is in group g."""
    return torch.nn.functional.one_hot(torch.from_numpy(groups).long(), count).double()


def _group_sums(x: torch.Tensor, y: torch.Tensor, of_x: torch.Tensor, of_y: torch.Tensor) -> torch.Tensor:
    """`[G, G]`: sums of the kernel over each pair of groups."""
    total = torch.zeros(of_x.shape[1], of_y.shape[1], dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        kernel = _kernel(x[rows].double() @ y.double().T, x.shape[1])
        total += of_x[rows].T @ (kernel @ of_y)
    return total


def _diagonal_sums(x: torch.Tensor, of_x: torch.Tensor) -> torch.Tensor:
    """`[G]`: sums of the kernel of each patch with itself."""
    return of_x.T @ _kernel(x.double().square().sum(dim=1), x.shape[1])


@register
class KernelDistance(Metric):
    """Distance of the images' features."""

    name = "kid"
    title = "KID of images"

    def __call__(self, comparison: Comparison) -> Result:
        return Result(*kernel_distance(*comparison.features, *comparison.groups(GROUPS)))


@register
class PairKernelDistance(Metric):
    """Distance of features that see image and mask together, so that masks which do not fit are seen."""

    name = "kid-pair"
    title = "KID of pairs"
    needs = ("label",)

    def __call__(self, comparison: Comparison) -> Result:
        return Result(*kernel_distance(*comparison.pair_features, *comparison.groups(GROUPS)))
