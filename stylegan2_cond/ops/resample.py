"""Upsampling and downsampling of N-D activations by a factor per axis, to any size that the factor can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stylegan2_cond.ops.autograd import fused_resample
from stylegan2_cond.ops.backends import NATIVE, choose_backend
from stylegan2_cond.ops.bias_act import apply_epilogue
from stylegan2_cond.ops.epilogue import CHANNELS_LAST, IDENTITY, Epilogue, check_activations
from stylegan2_cond.ops.fir import LINEAR, MEAN

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def upsample(
    x: torch.Tensor,
    factors: Sequence[int],
    size: Sequence[int],
    *,
    epilogue: Epilogue = IDENTITY,
    backend: str | None = None,
) -> torch.Tensor:
    """Linear interpolation between sample centres, cropped at the far end to `size`.

    For a factor of 2 this is the separable FIR [1, 3, 3, 1] / 4 of Karras et al. 2020, with edges repeated instead of
    padded with zeros, so that the generator does not learn a frame.

    Args:
        x: `[N, C, *spatial]`.
        factors: one per axis.
        size: at most `spatial · factors`, per axis.
        epilogue: applied to the result in the same pass.
        backend: as for `bias_act`.

    Returns:
        `[N, C, *size]`.
    """
    if all(factor == 1 for factor in factors) and tuple(size) == tuple(x.shape[2:]):
        return x if epilogue is IDENTITY else apply_epilogue(x, epilogue, backend)
    check_activations(x, least_rank=3)
    if choose_backend(x.device.type, backend) == NATIVE or epilogue.needs_noise_gradient:
        if any(factor != 1 for factor in factors):
            x = F.interpolate(x, scale_factor=[float(f) for f in factors], mode=_INTERPOLATION[x.ndim - 2])
        for axis, length in enumerate(size, start=2):
            x = x.narrow(axis, 0, length)
        last = x.ndim in CHANNELS_LAST and x.stride(1) == 1 and x.shape[1] > 1
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim] if last else torch.contiguous_format)  # close the gaps
        return x if epilogue is IDENTITY else apply_epilogue(x, epilogue, NATIVE)
    epilogue.check(torch.Size([*x.shape[:2], *size]), x.dtype)
    return fused_resample(x, LINEAR, factors, size, epilogue)


def downsample(x: torch.Tensor, factors: Sequence[int], *, backend: str | None = None) -> torch.Tensor:
    """Average over `factors` voxels per axis; an incomplete block at the far end is averaged over its own voxels.

    Args:
        x: `[N, C, *spatial]`.
        factors: one per axis.
        backend: as for `bias_act`.

    Returns:
        `[N, C, *ceil(spatial / factors)]`.
    """
    if all(factor == 1 for factor in factors):
        return x
    check_activations(x, least_rank=3)
    if choose_backend(x.device.type, backend) == NATIVE:
        kernel = [min(f, length) for f, length in zip(factors, x.shape[2:], strict=True)]  # torch refuses larger ones
        pool = _AVERAGE_POOL[x.ndim - 2]
        return pool(x, kernel_size=kernel, stride=kernel, ceil_mode=True, count_include_pad=False)
    size = [-(-length // factor) for length, factor in zip(x.shape[2:], factors, strict=True)]
    return fused_resample(x, MEAN, factors, size, IDENTITY)
