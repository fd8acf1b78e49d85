"""Convolution whose weights are scaled by a style, and brought back to unit variance."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """N-D convolution, padded so that odd kernels keep the size. x: `[N, I, *spatial]`, weight: `[O, I, *kernel]`."""
    return _CONVOLUTION[x.ndim - 2](x, weight, padding=[k // 2 for k in weight.shape[2:]])


def modulated_conv(
    x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, *, demodulate: bool = True, eps: float = 1e-8
) -> torch.Tensor:
    """Modulation and demodulation, Eqs. 1 and 3 of Karras et al. 2020 (arXiv 1912.04958).

    The style scales the input's channels and the demodulation the output's, which equals scaling the weights of each
    sample (convolution is linear), without a copy of the weights per sample.

    Args:
        x: `[N, I, *spatial]`.
        weight: `[O, I, *kernel]`.
        style: `[N, I]`.
        demodulate: divide by the norm of the modulated weights.
        eps: against division by zero.

    Returns:
        `[N, O, *spatial]`.
    """
    ones = [1] * (x.ndim - 2)
    x = convolve(x * style.reshape(*style.shape, *ones), weight)
    if demodulate:
        energy = weight.square().flatten(2).sum(2)  # [O, I]
        norm = (style.square() @ energy.T + eps).rsqrt()  # [N, O]
        x = x * norm.reshape(*norm.shape, *ones)
    return x
