"""Noise, bias, activation, gain and clamp: all that happens to an activation between two convolutions."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

LEAKY_SLOPE = 0.2
GAINS = {"linear": 1.0, "lrelu": math.sqrt(2.0)}  # keep the variance roughly (He et al. 2015)


def bias_act(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    noise: torch.Tensor | None = None,
    strength: torch.Tensor | None = None,
    activation: str = "lrelu",
    gain: float = 1.0,
) -> torch.Tensor:
    """`gain · GAINS[activation] · act(x + strength · noise + bias)`.

    Args:
        x: `[N, C, *spatial]` or `[N, C]`.
        bias: `[C]`.
        noise: `[N, 1, *spatial]`, shared by the channels (Karras et al. 2019, section 3.2).
        strength: scalar tensor, the learnt strength of the noise.
        activation: a key of `GAINS`.
        gain: further constant factor.

    Raises:
        ValueError: the activation is not known.
    """
    if activation not in GAINS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join(GAINS)}")
    if noise is not None:
        x = x + noise * strength
    if bias is not None:
        x = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, LEAKY_SLOPE)
    factor = GAINS[activation] * gain
    return x * factor if factor != 1.0 else x
