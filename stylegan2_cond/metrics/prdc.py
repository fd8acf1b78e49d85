"""Fidelity and diversity: precision, recall (Kynkäänniemi et al. 2019), density, coverage (Naeem et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison, MetricStream
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

FIGURES = ("precision", "recall", "density", "coverage")
NEIGHBOURS = 5
GROUPS = 10
MOST = 4000  # patches of each side; the matrices of distances grow with the square


class Manifold:
    """Distances among real patches, among generated ones, and between them.

    Args:
        real, generated: `[N, F]`, `[M, F]`.
        neighbours: k; the ball of a patch reaches its k-th nearest neighbour on its own side.
    """

    def __init__(self, real: torch.Tensor, generated: torch.Tensor, neighbours: int = NEIGHBOURS):
        self.neighbours = neighbours
        exact = {"compute_mode": "donot_use_mm_for_euclid_dist"} if len(real) * len(generated) < 10_000 else {}
        self.real, self.generated = torch.cdist(real, real, **exact), torch.cdist(generated, generated, **exact)
        self.between = torch.cdist(real, generated, **exact)

    def figures(self, keep_real: np.ndarray, keep_generated: np.ndarray) -> np.ndarray:
        """The four `FIGURES`, over the patches that the boolean masks keep.

        precision: fraction of generated patches within any real ball (Kynkäänniemi et al., Eq. 1 and 2).
        recall: fraction of real patches within any generated ball.
        density: number of real balls that a generated patch lies in, over k (Naeem et al., Eq. 4); may exceed 1.
        coverage: fraction of real balls that hold a generated patch (Naeem et al., Eq. 6).
        """
        if min(keep_real.sum(), keep_generated.sum()) <= self.neighbours:
            return np.full(len(FIGURES), np.nan)
        keep_real, keep_generated = torch.from_numpy(keep_real), torch.from_numpy(keep_generated)
        between = self.between[keep_real][:, keep_generated]
        in_real = between < self._radii(self.real[keep_real][:, keep_real]).unsqueeze(1)
        in_generated = between < self._radii(self.generated[keep_generated][:, keep_generated]).unsqueeze(0)
        return np.array(
            [
                in_real.any(dim=0).float().mean(),
                in_generated.any(dim=1).float().mean(),
                in_real.sum(dim=0).float().mean() / self.neighbours,
                in_real.any(dim=1).float().mean(),
            ],
            dtype=float,
        )

    def _radii(self, distances: torch.Tensor) -> torch.Tensor:
        """Distance to the k-th neighbour."""
        return distances.kthvalue(self.neighbours + 1, dim=1).values


class _ManifoldMetric(Metric):
    better = "higher"
    least = 50

    def __call__(self, comparison: Comparison) -> Result:
        values, errors, warning = comparison.cached(_figures)
        number = FIGURES.index(self.name)
        return Result(float(values[number]), float(errors[number]), warning=warning)


def _figures(comparison: Comparison) -> tuple[np.ndarray, np.ndarray, str | None]:
    """All four figures, their standard errors, and a warning where patches were left out."""
    sides, groups, warning = [], [], None
    for features, group in zip(comparison.features, comparison.jackknife_groups(GROUPS), strict=True):
        chosen = np.sort(comparison.rng(MetricStream.PRDC).permutation(len(features))[:MOST])
        sides.append(features[chosen])
        groups.append(group[chosen])
        warning = f"based on {MOST} patches per side" if len(features) > MOST else warning
    return (*jackknife(Manifold(*sides).figures, *groups), warning)


@register
class Precision(_ManifoldMetric):
    """Fraction of generated patches within the real manifold: whether they look real."""

    name = "precision"
    title = "precision"


@register
class Recall(_ManifoldMetric):
    """Fraction of real patches within the generated manifold: whether all that is real is generated."""

    name = "recall"
    title = "recall"
    default = False


@register
class Density(_ManifoldMetric):
    """Precision, robust to outliers among the real patches."""

    name = "density"
    title = "density"
    better = "one"
    default = False


@register
class Coverage(_ManifoldMetric):
    """Recall, robust to outliers among the generated patches."""

    name = "coverage"
    title = "coverage"
