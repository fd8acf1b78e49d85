"""The adversarial loss, its gradient penalty, and feature matching for images of given masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def relativistic_loss(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing loss of either network (Huang et al. 2024, R3GAN, arXiv 2501.05441, Eq. 2).

    Each raises its own scores above the other's, pair by pair: the discriminator those of real pairs, the generator
    those of generated ones.

    Args:
        ours: scores `[N]` of the pairs that are to win.
        theirs: scores `[N]` of the others.

    Returns:
        scalar.
    """
    return F.softplus(theirs - ours).mean()


def gradient_penalty(scores: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Half the squared gradient norm of the discriminator, without its weight.

    At real pairs it is R1, at generated ones R2 (Mescheder et al. 2018, Eqs. 9 and 10).

    Args:
        scores: `[N]`, computed from
        inputs: `[N, C + K, *patch_size]`, which must require a gradient.

    Returns:
        scalar, the mean over samples; differentiable with respect to the weights.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradient.float().square().flatten(1).sum(dim=1).mean() / 2


def feature_matching(real: Sequence[torch.Tensor], generated: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of a discriminator's features (Wang et al. 2018, pix2pixHD, arXiv 1711.11585, Eq. 4).

    Args:
        real: features `[N, C, *size]` of each block for real pairs; no gradient reaches them.
        generated: the same for generated pairs with the same masks.

    Returns:
        scalar.
    """
    return torch.stack([F.l1_loss(ours, theirs.detach()) for ours, theirs in zip(generated, real, strict=True)]).mean()
