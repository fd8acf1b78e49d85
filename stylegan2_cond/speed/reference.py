"""The same ops without fused kernels, as in common implementations in plain PyTorch: the baseline of speed.

Resampling inserts zeros and applies a depthwise convolution; noise, bias, activation and gain are one pass each;
weights are modulated per sample and applied by a grouped convolution. Values are those of `stylegan2_cond.ops`, except
for the outermost voxels of resampled activations, which are padded with zeros instead of repeated edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn import functional as F

from stylegan2_cond.networks import discriminator, generator, layers
from stylegan2_cond.ops import IDENTITY, Epilogue

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def bias_act(x: torch.Tensor, bias: torch.Tensor | None = None, **rest: object) -> torch.Tensor:
    """Noise, bias, activation and gain, one pass each."""
    rest.setdefault("activation", "lrelu")
    rest.pop("overwrite", None)
    return Epilogue(bias, **rest).apply(x)


def upsample(
    x: torch.Tensor, factors: Sequence[int], size: Sequence[int], *, epilogue: Epilogue = IDENTITY
) -> torch.Tensor:
    """Zeros between the samples, then the FIR [1, 3, 3, 1] / 4 along each axis of factor 2, cropped to `size`."""
    if any(factor == 2 for factor in factors):
        for axis, factor in enumerate(factors, start=2):
            if factor == 2:
                x = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
        padding = [pad for factor in reversed(factors) for pad in ((2, 1) if factor == 2 else (0, 0))]
        x = _filter(F.pad(x, padding), [[0.25, 0.75, 0.75, 0.25] if factor == 2 else [1.0] for factor in factors])
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return epilogue.apply(x)


def downsample(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Averages along each axis, by a strided convolution."""
    if all(factor == 1 for factor in factors):
        return x
    padding = [pad for f, n in zip(reversed(factors), reversed(x.shape[2:]), strict=True) for pad in (0, -n % f)]
    return _filter(F.pad(x, padding), [[1 / factor] * factor for factor in factors], stride=factors)


def modulated_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    style: torch.Tensor,
    *,
    demodulate: bool = True,
    eps: float = 1e-8,
    factors: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    epilogue: Epilogue = IDENTITY,
) -> torch.Tensor:
    """Weights modulated per sample, applied by a convolution with one group per sample."""
    n, dims = len(x), x.ndim - 2
    weights = weight * style.reshape(n, 1, -1, *[1] * dims)
    if demodulate:
        weights = weights * (weights.square().flatten(2).sum(2) + eps).rsqrt().reshape(n, -1, 1, *[1] * dims)
    convolution, padding = _CONVOLUTION[dims], [k // 2 for k in weight.shape[2:]]
    x = convolution(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), padding=padding, groups=n)
    x = x.reshape(n, -1, *x.shape[2:])
    if factors is not None and size is not None:
        return upsample(x, factors, size, epilogue=epilogue)
    return epilogue.apply(x)


@contextmanager
def reference_ops() -> Iterator[None]:
    """A context, or a decorator of a function, in which the networks use the ops of this file."""
    with (
        patch.multiple(layers, bias_act=bias_act, modulated_conv=modulated_conv),
        patch.multiple(generator, upsample=upsample, downsample=downsample),
        patch.object(discriminator, "downsample", downsample),
    ):
        yield


def _filter(x: torch.Tensor, taps: Sequence[Sequence[float]], stride: Sequence[int] | int = 1) -> torch.Tensor:
    """A separable filter as a depthwise convolution; `taps` per axis."""
    kernel = torch.ones([1] * (x.ndim - 2), dtype=x.dtype, device=x.device)
    for axis, row in enumerate(taps):
        shape = [-1 if other == axis else 1 for other in range(x.ndim - 2)]
        kernel = kernel * torch.tensor(row, dtype=x.dtype, device=x.device).reshape(shape)
    weight = kernel.expand(x.shape[1], 1, *kernel.shape).contiguous()
    return _CONVOLUTION[x.ndim - 2](x, weight, stride=stride, groups=x.shape[1])
