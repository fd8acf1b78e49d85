"""Changing the resolution of N-D activations by a factor per axis, to any size that the factor can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def upsample(x: torch.Tensor, factors: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Linear interpolation between sample centres, then cut at the far end to `size`.

    For a factor of 2 this is the separable FIR [1, 3, 3, 1] / 4 of Karras et al. 2020, with edges repeated instead of
    padded by zeros, so that no frame is learnt.

    Args:
        x: `[N, C, *spatial]`.
        factors: one per axis.
        size: at most `spatial · factors`, per axis.

    Returns:
        `[N, C, *size]`.
    """
    if any(factor != 1 for factor in factors):
        x = F.interpolate(x, scale_factor=[float(f) for f in factors], mode=_INTERPOLATION[x.ndim - 2])
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return x


def downsample(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Average over `factors` voxels per axis; a rest at the far end is averaged over what is there.

    Args:
        x: `[N, C, *spatial]`.
        factors: one per axis.

    Returns:
        `[N, C, *ceil(spatial / factors)]`.
    """
    if all(factor == 1 for factor in factors):
        return x
    pool = _AVERAGE_POOL[x.ndim - 2]
    kernel = [min(factor, length) for factor, length in zip(factors, x.shape[2:], strict=True)]  # torch wants no larger
    return pool(x, kernel_size=kernel, stride=kernel, ceil_mode=True, count_include_pad=False)
