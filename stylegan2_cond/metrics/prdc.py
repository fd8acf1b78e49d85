"""Fidelity and variety: precision (Kynkäänniemi et al. 2019) and coverage (Naeem et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register
from stylegan2_cond.random_streams import MetricStream

NEIGHBOURS = 5
GROUPS = 10
MOST = 4000  # patches of each side; the matrices of distances grow with the square


def precision_and_coverage(among: torch.Tensor, between: torch.Tensor, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Both from the balls around real patches that reach their k-th nearest real neighbour; NaN for too few patches.

    Precision is the fraction of generated patches within any ball (Kynkäänniemi et al., Eq. 1 and 2), coverage the
    fraction of balls that hold a generated patch (Naeem et al., Eq. 6).

    Args:
        among: `[N, N]` distances among real patches.
        between: `[N, M]` distances of real patches to generated ones.
        neighbours: k.
    """
    if len(among) <= neighbours:
        return np.full(2, np.nan)
    inside = between < among.kthvalue(neighbours + 1, dim=1).values.unsqueeze(1)
    return np.array([inside.any(dim=0).float().mean(), inside.any(dim=1).float().mean()], float)


def _both(comparison: Comparison) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Both figures, their standard errors, and a warning where patches were left out."""
    sides, groups, warning = [], [], None
    for features, group in zip(comparison.features, comparison.jackknife_groups(GROUPS), strict=True):
        chosen = np.sort(comparison.rng(MetricStream.PRDC).permutation(len(features))[:MOST])
        sides.append(features[chosen])
        groups.append(group[chosen])
        warning = f"based on {MOST} patches per side" if len(features) > MOST else warning
    real, generated = sides
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"} if len(real) * len(generated) < 10_000 else {}
    among, between = torch.cdist(real, real, **exact), torch.cdist(real, generated, **exact)

    def figures(*keep: np.ndarray) -> np.ndarray:
        rows, columns = map(torch.from_numpy, keep)
        return precision_and_coverage(among[rows][:, rows], between[rows][:, columns])

    return (*jackknife(figures, *groups), warning)


class _ManifoldMetric(Metric):
    better = "higher"
    least = 50
    column: int

    def __call__(self, comparison: Comparison) -> Result:
        values, errors, warning = comparison.cached(_both)
        return Result(float(values[self.column]), float(errors[self.column]), warning=warning)


@register
class Precision(_ManifoldMetric):
    """Fraction of generated patches within the real manifold: whether they look real."""

    name = title = "precision"
    column = 0


@register
class Coverage(_ManifoldMetric):
    """Fraction of real patches with a generated one nearby: whether all that is real is generated."""

    name = title = "coverage"
    column = 1
