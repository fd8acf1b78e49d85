"""Fréchet distance of two Gaussians (Heusel et al. 2017), its bias told and extrapolated away."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import linregress

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

FEW = 5000  # patches, below which the value says more about their number than about them
GROUPS = 10  # each costs an eigendecomposition
EXTRAPOLATION = np.linspace(0.5, 1, 8)  # shares of the patches that the line is fitted through


def frechet_distance(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of the features' means and covariances. real, drawn: `[N, F]`, `[M, F]`.

    The root's trace is the sum of the singular values of Σ₁^½ Σ₂^½, and those are had from the centred features
    themselves, without a root of a singular matrix.
    """
    real, drawn = real.double(), drawn.double()
    means = real.mean(dim=0), drawn.mean(dim=0)
    centred = [(x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((real, drawn), means, strict=True)]
    factors = [torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in centred]
    root_trace = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    traces = sum(x.square().sum() for x in centred)
    return float((means[0] - means[1]).square().sum() + traces - 2 * root_trace)


def extrapolate(real: torch.Tensor, drawn: torch.Tensor, rng: np.random.Generator) -> tuple[float, float]:
    """The distance that infinitely many patches would have, and its standard error (Chong & Forsyth 2020, section 4).

    The bias is linear in 1 / N, so a line is fitted through the distances of random parts.
    """
    fewest = min(len(real), len(drawn))
    sizes = (EXTRAPOLATION * fewest).astype(int)
    parts = [[x[rng.permutation(len(x))[:size]] for x in (real, drawn)] for size in sizes]
    line = linregress(1 / sizes, [frechet_distance(*part) for part in parts])
    return float(line.intercept), float(line.intercept_stderr)


@register
class FrechetDistance(Metric):
    """Distance of the images' features, taken as Gaussian."""

    name = "frechet"
    title = "Fréchet distance"
    least = 100
    default = False

    def __call__(self, comparison: Comparison) -> Result:
        real, drawn = comparison.features
        value, error = jackknife(
            lambda keep_real, keep_drawn: frechet_distance(real[keep_real], drawn[keep_drawn]),
            *comparison.groups(GROUPS),
        )
        intercept, intercept_error = extrapolate(real, drawn, comparison.rng(2))
        fewest = min(len(real), len(drawn))
        return Result(
            value,
            error,
            {"patches": fewest, "extrapolated": intercept, "extrapolated_error": intercept_error},
            f"biased: {fewest} patches" if fewest < FEW else None,
        )
