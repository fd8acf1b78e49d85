"""Fidelity and variety apart: precision, recall (Kynkäänniemi et al. 2019), density, coverage (Naeem et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

FIGURES = ("precision", "recall", "density", "coverage")
NEIGHBOURS = 5
GROUPS = 10
MOST = 4000  # patches of each side; the matrices of distances grow with the square


class Manifold:
    """Distances among real, among drawn, and between them.

    Args:
        real, drawn: `[N, F]`, `[M, F]`.
        neighbours: k; a patch's ball reaches its k-th nearest neighbour of its own kind.
    """

    def __init__(self, real: torch.Tensor, drawn: torch.Tensor, neighbours: int = NEIGHBOURS):
        self.neighbours = neighbours
        exact = {"compute_mode": "donot_use_mm_for_euclid_dist"} if len(real) * len(drawn) < 10_000 else {}
        self.real, self.drawn = torch.cdist(real, real, **exact), torch.cdist(drawn, drawn, **exact)
        self.between = torch.cdist(real, drawn, **exact)

    def figures(self, keep_real: np.ndarray, keep_drawn: np.ndarray) -> np.ndarray:
        """The four `FIGURES` of the patches that the masks keep.

        precision: share of drawn patches within any real ball (Kynkäänniemi et al., Eq. 1 and 2).
        recall: share of real patches within any drawn ball.
        density: how many real balls a drawn patch lies in, over k (Naeem et al., Eq. 4); may exceed 1.
        coverage: share of real balls that hold a drawn patch (Naeem et al., Eq. 6).
        """
        if min(keep_real.sum(), keep_drawn.sum()) <= self.neighbours:
            return np.full(len(FIGURES), np.nan)
        keep_real, keep_drawn = torch.from_numpy(keep_real), torch.from_numpy(keep_drawn)
        between = self.between[keep_real][:, keep_drawn]
        in_real = between < self._radii(self.real[keep_real][:, keep_real]).unsqueeze(1)
        in_drawn = between < self._radii(self.drawn[keep_drawn][:, keep_drawn]).unsqueeze(0)
        return np.array(
            [
                in_real.any(dim=0).float().mean(),
                in_drawn.any(dim=1).float().mean(),
                in_real.sum(dim=0).float().mean() / self.neighbours,
                in_real.any(dim=1).float().mean(),
            ],
            dtype=float,
        )

    def _radii(self, distances: torch.Tensor) -> torch.Tensor:
        """Distance to the k-th neighbour, the patch itself not counted."""
        return distances.kthvalue(self.neighbours + 1, dim=1).values


class _ManifoldMetric(Metric):
    better = "higher"
    least = 50

    def __call__(self, comparison: Comparison) -> Result:
        values, errors, warning = comparison.once(_figures)
        number = FIGURES.index(self.name)
        return Result(float(values[number]), float(errors[number]), warning=warning)


def _figures(comparison: Comparison) -> tuple[np.ndarray, np.ndarray, str | None]:
    """All four figures, their standard errors, and a warning where patches were left out."""
    sides, groups, warning = [], [], None
    for features, group in zip(comparison.features, comparison.groups(GROUPS), strict=True):
        chosen = np.sort(comparison.rng(3).permutation(len(features))[:MOST])
        sides.append(features[chosen])
        groups.append(group[chosen])
        warning = f"of {MOST} patches a side" if len(features) > MOST else warning
    return (*jackknife(Manifold(*sides).figures, *groups), warning)


@register
class Precision(_ManifoldMetric):
    """Do drawn patches look real?"""

    name = "precision"
    title = "precision"


@register
class Recall(_ManifoldMetric):
    """Can it draw whatever is real?"""

    name = "recall"
    title = "recall"
    default = False


@register
class Density(_ManifoldMetric):
    """Precision that outliers among the real patches can't lift."""

    name = "density"
    title = "density"
    better = "one"
    default = False


@register
class Coverage(_ManifoldMetric):
    """Recall that outliers among the drawn patches can't lift."""

    name = "coverage"
    title = "coverage"
