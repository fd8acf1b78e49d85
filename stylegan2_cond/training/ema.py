"""Exponential moving average of the generator's weights, which is what draws."""

from __future__ import annotations

import torch
from torch import nn

LONGEST_HALF_LIFE = 20_000  # images; Karras et al. 2020b take 5,000 to 20,000


def ema_decay(images_seen: int, batch_size: int, share: float) -> float:
    """Decay per step for a half-life of `share` of the images seen so far (ramp-up of Karras et al. 2020b).

    A fixed half-life keeps the random first weights in the average for most of a short training; one without a limit
    would average over weights that lie far apart in a long one.
    """
    half_life = min(max(images_seen * share, 1e-8), LONGEST_HALF_LIFE)
    return 0.5 ** (batch_size / half_life)


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`; buffers are copied."""
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)
    for mean, current in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(current)
