"""Changing the resolution of N-D activations by a factor per axis, to any size that the factor can reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.nn import functional as F

from stylegan2_cond.ops.autograd import fused_resample
from stylegan2_cond.ops.backends import NATIVE, choose_backend
from stylegan2_cond.ops.bias_act import apply_epilogue, asks_for_more
from stylegan2_cond.ops.epilogue import CHANNELS_LAST, Epilogue, check_activations
from stylegan2_cond.ops.fir import EDGES, STILL, Resampling, linear, mean, write_axes

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
NOTHING = Epilogue()


def resample(
    x: torch.Tensor,
    filters: Sequence[Sequence[float]],
    *,
    up: Sequence[int] | None = None,
    down: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    edge: str = "zero",
    epilogue: Epilogue = NOTHING,
    backend: str | None = None,
) -> torch.Tensor:
    """Separable FIR filtering between zero insertion and decimation, as `scipy.signal.upfirdn` does along each axis.

    Args:
        x: `[N, C, *spatial]`.
        filters: taps of each axis.
        up: on each axis, a sample is followed by `up - 1` zeros; 1, when None.
        down: on each axis, every `down`-th sample of the result is kept; 1, when None.
        padding: samples before and after each axis, counted between the zeros; none, when None. Where the filter
            reaches beyond them, there is no result.
        edge: what is padded with: `zero`, the outermost sample (`repeat`), or nothing (`mean`: what is there counts
            the more).
        epilogue: what happens to the result in the same pass.
        backend: as for `bias_act`.

    Returns:
        `[N, C, *((spatial · up + before + after - taps) // down + 1)]`.

    Raises:
        ValueError: shapes, factors or padding that can't be, or a filter longer than the padded axis.
        TypeError: types that do not go together.
    """
    check_activations(x, least_rank=3)
    dims = x.ndim - 2
    up, down = up or [1] * dims, down or [1] * dims
    padding = padding or [(0, 0)] * dims
    for name, given in {"filters": filters, "up": up, "down": down, "padding": padding}.items():
        if len(given) != dims:
            raise ValueError(f"{name} must have an entry for each of the {dims} axes of {list(x.shape)}")
    axes = [
        Resampling(tuple(map(float, taps)), u, d, *pad, edge)
        for taps, u, d, pad in zip(filters, up, down, padding, strict=True)
    ]
    for axis, length in zip(axes, x.shape[2:], strict=True):
        _check_axis(axis, length)
    return _resample(x, axes, epilogue, backend)


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
    if choose_backend(x.device.type, backend) == NATIVE:
        return _with(epilogue, _interpolate(x, factors, size), NATIVE)
    epilogue.check(torch.Size([*x.shape[:2], *size]), x.dtype)
    if asks_for_more(epilogue):
        return _with(epilogue, upsample(x, factors, size, backend=backend), NATIVE)
    return fused_resample(x, _upsampling(tuple(factors), tuple(size)), list(x.shape[2:]), epilogue)


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
    size = tuple(x.shape[2:])
    return fused_resample(x, _downsampling(tuple(factors), size), list(size), NOTHING)


def _check_axis(axis: Resampling, length: int) -> None:
    if axis.edge not in EDGES:
        raise ValueError(f"unknown edge {axis.edge!r}; known: {', '.join(EDGES)}")
    if min(axis.up, axis.down) < 1:
        raise ValueError(f"factors must be 1 or more, not up {axis.up}, down {axis.down}")
    if min(axis.before, axis.after) < 0:
        raise ValueError(f"padding must not be negative, not {(axis.before, axis.after)}; cut x instead")
    if not axis.taps or axis.outputs(length) < 1:
        padded = length * axis.up + axis.before + axis.after
        raise ValueError(f"a filter of {len(axis.taps)} taps does not fit into an axis of {padded} samples")
    if axis.edge == "mean" and (axis.up > 1 or min(axis.taps) <= 0):
        raise ValueError("edge 'mean' wants up 1, and a filter whose taps are all positive")


def _resample(x: torch.Tensor, axes: Sequence[Resampling], epilogue: Epilogue, backend: str | None) -> torch.Tensor:
    shape = torch.Size([*x.shape[:2], *(axis.outputs(n) for axis, n in zip(axes, x.shape[2:], strict=True))])
    epilogue.check(shape, x.dtype)
    if choose_backend(x.device.type, backend) != NATIVE and not asks_for_more(epilogue):
        return fused_resample(x, write_axes(axes), list(x.shape[2:]), epilogue)
    for number, axis in enumerate(axes, start=2):
        if axis != STILL:
            x = _along(x, number, axis)
    return _with(epilogue, x, NATIVE)


@torch.compiler.assume_constant_result
def _upsampling(factors: tuple[int, ...], size: tuple[int, ...]) -> str:
    return _written(linear, factors, size)


@torch.compiler.assume_constant_result
def _downsampling(factors: tuple[int, ...], size: tuple[int, ...]) -> str:
    return _written(mean, factors, size)


@cache
def _written(kind: Callable[[int, int], Resampling], factors: tuple[int, ...], size: tuple[int, ...]) -> str:
    return write_axes([kind(factor, length) for factor, length in zip(factors, size, strict=True)])


def _with(epilogue: Epilogue, x: torch.Tensor, backend: str) -> torch.Tensor:
    return x if epilogue is NOTHING else apply_epilogue(x, epilogue, backend)


def _along(x: torch.Tensor, number: int, axis: Resampling) -> torch.Tensor:
    """One axis: the neighbours of each output, weighted and added."""
    start, weight = axis.band(x.shape[number]).tables(x.device, x.dtype)
    shape = [-1 if other == number else 1 for other in range(x.ndim)]
    terms = [x.index_select(number, start + tap) * row.reshape(shape) for tap, row in enumerate(weight)]
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _interpolate(x: torch.Tensor, factors: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    if any(factor != 1 for factor in factors):
        x = F.interpolate(x, scale_factor=[float(f) for f in factors], mode=_INTERPOLATION[x.ndim - 2])
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, 0, length)
    return _dense(x)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """Without the gaps that cutting leaves, in the layout that x had."""
    last = CHANNELS_LAST.get(x.ndim)
    if last is not None and x.stride(1) == 1 and x.shape[1] > 1:
        return x.contiguous(memory_format=last)
    return x.contiguous()
