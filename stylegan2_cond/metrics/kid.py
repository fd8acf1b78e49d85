"""Kernel Inception distance (Bińkowski et al. 2018, Demystifying MMD GANs), unbiased for sets of any size."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import one_hot

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, group_count, spread
from stylegan2_cond.metrics.registry import Metric, Result, register

BLOCK = 2048  # rows of a kernel matrix at once


def kernel_distance(
    real: torch.Tensor, generated: torch.Tensor, real_groups: np.ndarray, generated_groups: np.ndarray
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³, and its standard error.

    Args:
        real, generated: `[N, F]`, `[M, F]`.
        real_groups, generated_groups: `[N]`, `[M]` jackknife groups, as many on each side.

    Returns:
        The value (for two sets of one distribution near 0, half of the time below it), and its delete-a-group jackknife
        standard error.
    """
    count = group_count(real_groups, generated_groups)
    members = [one_hot(torch.from_numpy(side).long(), count).double() for side in (real_groups, generated_groups)]
    within_real = _group_sums(real, real, members[0], members[0]), _diagonal_sums(real, members[0])
    within_generated = _group_sums(generated, generated, members[1], members[1]), _diagonal_sums(generated, members[1])
    between = _group_sums(real, generated, *members)
    sizes = [member.sum(dim=0) for member in members]

    def value(keep: torch.Tensor) -> float:
        n, m = (float(size[keep].sum()) for size in sizes)
        if min(n, m) < 2:
            return math.nan
        cross = 2 * float(between[keep][:, keep].sum()) / (n * m)
        real_part, generated_part = (
            float(sums[keep][:, keep].sum() - diagonal[keep].sum())
            for sums, diagonal in (within_real, within_generated)
        )
        return real_part / (n * (n - 1)) + generated_part / (m * (m - 1)) - cross

    everything = torch.ones(count, dtype=torch.bool)
    without = [value(everything & (torch.arange(count) != group)) for group in range(count)]
    return value(everything), spread(without)


def _group_sums(x: torch.Tensor, y: torch.Tensor, of_x: torch.Tensor, of_y: torch.Tensor) -> torch.Tensor:
    """`[G, G]`: sums of the kernel over each pair of groups. of_x: `[N, G]`, 1 where patch n is in group g."""
    total = torch.zeros(of_x.shape[1], of_y.shape[1], dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        kernel = (x[rows].double() @ y.double().T / x.shape[1] + 1) ** 3
        total += of_x[rows].T @ (kernel @ of_y)
    return total


def _diagonal_sums(x: torch.Tensor, of_x: torch.Tensor) -> torch.Tensor:
    """`[G]`: sums of the kernel of each patch with itself."""
    return of_x.T @ (x.double().square().sum(dim=1) / x.shape[1] + 1) ** 3


@register
class KernelDistance(Metric):
    """Kernel distance of the image features."""

    name = "kid"
    title = "KID of images"

    def __call__(self, comparison: Comparison) -> Result:
        return Result(*kernel_distance(*comparison.features, *comparison.jackknife_groups(GROUPS)))


@register
class PairKernelDistance(Metric):
    """Kernel distance of features of image and mask together, which masks that do not fit the image increase."""

    name = "kid-pair"
    title = "KID of pairs"
    needs = ("image", "label")

    def __call__(self, comparison: Comparison) -> Result:
        return Result(*kernel_distance(*comparison.pair_features, *comparison.jackknife_groups(GROUPS)))
