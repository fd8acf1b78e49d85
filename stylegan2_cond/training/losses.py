"""The adversarial game: non-saturating loss and the R1 penalty."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def generator_loss(drawn_scores: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of the generator (Goodfellow et al. 2014). drawn_scores: `[N]` → scalar."""
    return F.softplus(-drawn_scores).mean()


def discriminator_loss(real_scores: torch.Tensor, drawn_scores: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the discriminator (Goodfellow et al. 2014). Scores: `[N]` each → scalar."""
    return F.softplus(-real_scores).mean() + F.softplus(drawn_scores).mean()


def r1_penalty(discriminator: nn.Module, real: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Half the squared gradient norm at real pairs, without its weight (Mescheder et al. 2018, Eq. 9).

    real: `[N, C + K, *canvas]`, condition: `[N, width]` → scalar, differentiable with respect to the weights.
    """
    real = real.detach().requires_grad_(True)
    scores = discriminator(real, condition)
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean() / 2
