"""Changing the resolution of N-D activations by a factor per axis, to any size that the factor can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stylegan2_cond.ops.autograd import fused_resample
from stylegan2_cond.ops.backends import NATIVE, choose_backend
from stylegan2_cond.ops.bias_act import apply_epilogue, asks_for_more
from stylegan2_cond.ops.epilogue import CHANNELS_LAST, Epilogue, check_activations
from stylegan2_cond.ops.fir import LINEAR, MEAN

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
NOTHING = Epilogue()


def upsample(
    x: torch.Tensor,
    factors: Sequence[int],
    size: Sequence[int],
    *,
    epilogue: Epilogue = NOTHING,
    backend: str | None = None,
) -> torch.Tensor:
    """Linear interpolation between sample centres, then cut at the far end to `size`.

    For a factor of 2 this is the separable FIR [1, 3, 3, 1] / 4 of Karras et al. 2020, with edges repeated instead of
    padded by zeros, so that no frame is learnt.

    Args:
        x: `[N, C, *spatial]`.
        factors: one per axis.
        size: at most `spatial · factors`, per axis.
        epilogue: what happens to the result in the same pass.
        backend: as for `bias_act`.

    Returns:
        `[N, C, *size]`.
    """
    if all(factor == 1 for factor in factors) and tuple(size) == tuple(x.shape[2:]):
        return apply_epilogue(x, epilogue, backend) if epilogue is not NOTHING else x
    check_activations(x, least_rank=3)
    if choose_backend(x.device.type, backend) == NATIVE or asks_for_more(epilogue):
        x = _interpolate(x, factors, size)
        return x if epilogue is NOTHING else apply_epilogue(x, epilogue, NATIVE)
    epilogue.check(torch.Size([*x.shape[:2], *size]), x.dtype)
    return fused_resample(x, LINEAR, factors, size, epilogue)


def downsample(x: torch.Tensor, factors: Sequence[int], *, backend: str | None = None) -> torch.Tensor:
    """Average over `factors` voxels per axis; a rest at the far end is averaged over what is there.

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
        pool = _AVERAGE_POOL[x.ndim - 2]
        kernel = [min(f, length) for f, length in zip(factors, x.shape[2:], strict=True)]  # torch wants no larger
        return pool(x, kernel_size=kernel, stride=kernel, ceil_mode=True, count_include_pad=False)
    size = [-(-length // factor) for length, factor in zip(x.shape[2:], factors, strict=True)]
    return fused_resample(x, MEAN, factors, size, NOTHING)


def _interpolate(x: torch.Tensor, factors: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    if any(factor != 1 for factor in factors):
        x = F.interpolate(x, scale_factor=[float(f) for f in factors], mode=_INTERPOLATION[x.ndim - 2])
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    last = CHANNELS_LAST.get(x.ndim)  # cutting leaves gaps: close them in the layout that x had
    if last is not None and x.stride(1) == 1 and x.shape[1] > 1:
        return x.contiguous(memory_format=last)
    return x.contiguous()
