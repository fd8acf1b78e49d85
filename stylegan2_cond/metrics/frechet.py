"""Fréchet distance (Heusel et al. 2017), which is FID with the features of Inception."""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

FEW = 5000  # patches, below which the bias is considerable
GROUPS = 10  # each costs an eigendecomposition


def frechet_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of the means and covariances of the features (Heusel et al. 2017, Eq. 6).

    real, generated: `[N, F]`, `[M, F]`. tr (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½, which follow from
    the centred features, without the square root of a singular matrix.
    """
    real, generated = real.double(), generated.double()
    means = real.mean(dim=0), generated.mean(dim=0)
    centred = [(x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((real, generated), means, strict=True)]
    factors = [torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in centred]
    root_trace = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    traces = sum(x.square().sum() for x in centred)
    return float((means[0] - means[1]).square().sum() + traces - 2 * root_trace)


@register
class FrechetDistance(Metric):
    """Fréchet distance of the image features, assumed to be Gaussian."""

    name = "frechet"
    title = "Fréchet distance"
    least = 100
    default = False

    def __call__(self, comparison: Comparison) -> Result:
        real, generated = comparison.features
        value, error = jackknife(
            lambda keep_real, keep_generated: frechet_distance(real[keep_real], generated[keep_generated]),
            *comparison.jackknife_groups(GROUPS),
        )
        fewest = min(len(real), len(generated))
        return Result(value, error, warning=f"biased ({fewest} patches)" if fewest < FEW else None)
