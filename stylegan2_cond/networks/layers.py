"""Layers with equalized learning rate: weights start as N(0, 1) and are scaled when used (Karras et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stylegan2_cond.ops import IDENTITY, Epilogue, bias_act, convolve, modulated_conv


class Linear(nn.Module):
    """Linear layer and activation, with a learning rate multiplier (0.01 in the mapping network)."""

    def __init__(
        self, inputs: int, outputs: int, *, activation: str = "linear", bias: float = 0.0, lr_multiplier: float = 1.0
    ):
        super().__init__()
        self.activation = activation
        self.lr_multiplier = lr_multiplier
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([outputs], bias / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, inputs]` → `[N, outputs]`."""
        x = F.linear(x, self.weight * self.weight_gain)
        return bias_act(x, self.bias * self.lr_multiplier, activation=self.activation, overwrite=True)


def embedding(inputs: int, width: int) -> nn.Sequential | None:
    """Two layers from a condition `[N, inputs]` to `[N, width]`; None for an empty condition."""
    return nn.Sequential(Linear(inputs, width, activation="lrelu"), Linear(width, width)) if inputs else None


class Conv(nn.Module):
    """Convolution, bias and activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        spatial_dims: int,
        kernel: int = 3,
        activation: str = "lrelu",
        bias: bool = True,
    ):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[kernel] * spatial_dims))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain = 1 / math.sqrt(inputs * kernel**spatial_dims)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """`[N, inputs, *spatial]` → `[N, outputs, *spatial]`, times `gain`."""
        return bias_act(self._convolve(x), self.bias, activation=self.activation, gain=gain, overwrite=True)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        return convolve(x, self.weight * self.weight_gain)


class Entry(Conv):
    """1×1 convolution of pairs. Its input keeps full precision, since half precision would round a CT to 4–8 HU."""

    def __init__(self, inputs: int, outputs: int, *, spatial_dims: int):
        super().__init__(inputs, outputs, spatial_dims=spatial_dims, kernel=1)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            return super()._convolve(x).to(dtype)


class ModulatedConv(nn.Module):
    """Modulated convolution whose style is an affine function of w (Karras et al. 2020, figure 2c)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style_dim: int,
        spatial_dims: int,
        kernel: int = 3,
        demodulate: bool = True,
    ):
        super().__init__()
        self.demodulate = demodulate
        self.affine = Linear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[kernel] * spatial_dims))
        self.weight_gain = 1 / math.sqrt(inputs * kernel**spatial_dims)

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        epilogue: Epilogue = IDENTITY,
        *,
        factors: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """x: `[N, inputs, *spatial]`, w: `[N, style_dim]` → `[N, outputs, *spatial]`, upsampled to `*size` if given."""
        with torch.autocast(w.device.type, enabled=False):
            style = self.affine(w)
        return modulated_conv(
            x,
            self.weight * self.weight_gain,
            style,
            demodulate=self.demodulate,
            factors=factors,
            size=size,
            epilogue=epilogue,
        )


def widened(x: torch.Tensor) -> torch.Tensor:
    """x in float32 if it is of half precision, otherwise x."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_norm(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Scale each vector to unit second moment (Karras et al. 2018, section 4.2). x: `[N, C]`."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def pyramid(patch_size: Sequence[int], factors: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Spatial size of each stage, coarse to fine; each is the next divided by its factors, rounded up."""
    sizes = [tuple(patch_size)]
    for stage in reversed(factors):
        sizes.insert(0, tuple(-(-length // factor) for length, factor in zip(sizes[0], stage, strict=True)))
    return sizes
