"""The adversarial game, what keeps it stable, and what an image owes to the mask that it was drawn for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def relativistic_loss(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing loss (Huang et al. 2024, R3GAN, arXiv 2501.05441, Eq. 2), of either player.

    The discriminator's side are the real scores, the generator's the drawn ones; each wants its own to exceed the
    other's, pair by pair. Scores: `[N]` each → scalar.
    """
    return F.softplus(theirs - ours).mean()


def gradient_penalty(scores: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Half the squared gradient norm of the discriminator, without its weight.

    At real pairs it is R1, at drawn ones R2 (Mescheder et al. 2018, Eqs. 9 and 10).

    Args:
        scores: `[N]`, computed from
        inputs: `[N, C + K, *spatial]`, which must require a gradient.

    Returns:
        scalar, the mean over samples; differentiable with respect to the weights.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradient.float().square().flatten(1).sum(dim=1).mean() / 2


def feature_matching(real: Sequence[torch.Tensor], drawn: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of a discriminator's features (Wang et al. 2018, pix2pixHD, arXiv 1711.11585, Eq. 4).

    real, drawn: `[N, C, *size]` of each block, of pairs that share their masks → scalar; real ones are fixed.
    """
    return torch.stack([F.l1_loss(ours, theirs.detach()) for ours, theirs in zip(drawn, real, strict=True)]).mean()
