"""The kernels as functions of PyTorch: first and second derivatives, and shapes for torch.compile.

Each is an `autograd.Function`, and under torch.compile an operator with the same kernel and the same derivative: a call
of an operator costs four times as much, which adds up over hundreds of small layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stylegan2_cond.ops.bindings import INT, LONG, NUMBERS, POINTER, array, find_library
from stylegan2_cond.ops.epilogue import Epilogue, is_channels_last, layout_of
from stylegan2_cond.ops.fir import band

CHUNK = 16384  # smallest number of elements of a sample that one chunk of a sum covers
MOST_CHUNKS = 64
# Arguments of operators, as kernels take them. Schemas are written out, so that functions can pass them on together.
_EPILOGUE = "Tensor? scale, Tensor? bias, Tensor? noise, Tensor? strength, float slope, float gain"


def fused_bias_act(x: Tensor, epilogue: Epilogue, *, overwrite: bool = False) -> Tensor:
    """`Epilogue.apply` in one pass. With `overwrite`, the result replaces x in place and has no gradient."""
    arguments = _arguments(epilogue, x.dtype)
    if not overwrite:
        return _bias_act(x, *arguments)
    (_overwrite if _is_traced(x) else _overwrite_kernel)(x, *arguments)
    return x


def fused_scale(x: Tensor, scale: Tensor) -> Tensor:
    """`scale[n, c] · x` in one pass, for x `[N, C, *spatial]`; scale may be zero."""
    return _scale(x, scale.to(accumulator(x.dtype)))


def fused_resample(x: Tensor, kind: str, factors: Sequence[int], size: Sequence[int], epilogue: Epilogue) -> Tensor:
    """Resampling along each axis, and the epilogue, in one pass.

    Args:
        x: `[N, C, *spatial]`.
        kind: of filter, as for `band`.
        factors: one per axis.
        size: spatial size of the result.
        epilogue: applied to the result.
    """
    return _resample(x, kind, list(factors), list(x.shape[2:]), list(size), False, *_arguments(epilogue, x.dtype))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over activations of a type are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _arguments(epilogue: Epilogue, dtype: torch.dtype) -> tuple:
    wide = accumulator(dtype)
    scale, bias, strength = (
        None if tensor is None else tensor.to(wide).contiguous()
        for tensor in (epilogue.scale, epilogue.bias, epilogue.strength)
    )
    noise = None if epilogue.noise is None else epilogue.noise.to(dtype).contiguous()
    return scale, bias, noise, strength, epilogue.slope, epilogue.factor


def _call(name: str, like: Tensor, *arguments: object) -> None:
    library = find_library(like.device.type)
    if isinstance(library, str):
        raise RuntimeError(library)
    library.call(name, like, *arguments)


def _layout(x: Tensor) -> tuple[int, int, int, int, int]:
    """Type, whether channels are last, N, C and the number of voxels, as kernels take them."""
    n, c, *spatial = x.shape
    voxels = math.prod(spatial)
    return NUMBERS[x.dtype], int(voxels == 1 or is_channels_last(x)), n, c, voxels


def _chunks(x: Tensor) -> int:
    _, channels_last, _, c, voxels = _layout(x)
    return min(MOST_CHUNKS, max(1, voxels * (c if channels_last else 1) // CHUNK))


def _laid_like(x: Tensor, like: Tensor) -> Tensor:
    same = x.dtype == like.dtype and x.stride() == like.stride()
    return x if same else torch.empty_like(like).copy_(x)


def _define(schema: str, kernel: Callable, backward: Callable, setup_context: Callable, fake: Callable) -> Callable:
    """A function of tensors from a kernel, its derivative, and what it returns for tensors without values."""
    operator = torch.library.custom_op(
        f"stylegan2_cond::{schema.partition('(')[0]}", kernel, mutates_args=(), schema=schema[schema.index("(") :]
    )
    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup_context)
    members = {"forward": kernel, "backward": backward, "setup_context": setup_context}
    members = {key: staticmethod(one) for key, one in members.items()}
    function = type(kernel.__name__.strip("_"), (torch.autograd.Function,), members)
    return lambda x, *others: (operator if _is_traced(x) else function.apply)(x, *others)


def _is_traced(x: Tensor) -> bool:
    """Whether torch.compile or one of its parts runs, whose tensors may have no values."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


# --- bias_act


def _bias_act_kernel(x, *epilogue):
    y = torch.empty_like(x)
    _call("bias_act", x, *_layout(x), y, x, *epilogue)
    return y


def _overwrite_kernel(x, *epilogue):
    _call("bias_act", x, *_layout(x), x, x, *epilogue)


def _bias_act_grad_kernel(dy, y, *epilogue):
    dy, dx, chunks = _laid_like(dy, y), torch.empty_like(y), _chunks(y)
    sums = torch.empty(3, len(y), chunks, y.shape[1], dtype=accumulator(y.dtype), device=y.device)
    _call("bias_act_grad", y, *_layout(y), chunks, dx, sums, dy, y, *epilogue)
    return dx, _total(sums, 2)


def _bias_act_grad_grad_kernel(ddx, dsums, dy, y, *epilogue):
    dy, ddx, dsums = _laid_like(dy, y), _laid_like(ddx, y), dsums.contiguous()
    ddy, dy_y, chunks = torch.empty_like(y), torch.empty_like(y), _chunks(y)
    sums = torch.empty(len(y), chunks, y.shape[1], dtype=accumulator(y.dtype), device=y.device)
    _call("bias_act_grad_grad", y, *_layout(y), chunks, ddy, dy_y, sums, ddx, dsums, dy, y, *epilogue)
    return ddy, dy_y, _total(sums, 1)


def _total(sums: Tensor, axis: int) -> Tensor:
    """The sum over the chunks of a sample."""
    return sums.select(axis, 0) if sums.shape[axis] == 1 else sums.sum(axis)


def _fake_grad(dy, y, *epilogue):
    return torch.empty_like(y), y.new_empty((3, *y.shape[:2]), dtype=accumulator(y.dtype))


def _fake_grad_grad(ddx, dsums, dy, y, *epilogue):
    return torch.empty_like(y), torch.empty_like(y), y.new_empty(y.shape[:2], dtype=accumulator(y.dtype))


def _save(ctx, tensors_and_numbers: Sequence) -> None:
    ctx.numbers = [one for one in tensors_and_numbers if isinstance(one, float)]
    ctx.save_for_backward(*(one for one in tensors_and_numbers if not isinstance(one, float)))


def _save_result(ctx, inputs: Sequence, output: Tensor) -> None:
    _save(ctx, (output, *inputs[1:]))


def _save_inputs(ctx, inputs: Sequence, output: object) -> None:
    ctx.set_materialize_grads(False)
    _save(ctx, inputs)


def _epilogue_gradients(ctx, dy: Tensor) -> tuple:
    """Of the epilogue's argument and of its parameters, in the order of the operators' own arguments."""
    y, scale, bias, noise, strength = ctx.saved_tensors
    dx, (plain, noisy, weighted) = _bias_act_grad(dy, y, scale, noise, *ctx.numbers)
    dscale = None
    if scale is not None:  # Σ g · x, since Σ dy · y = Σ g · p and p = scale · x + strength · noise + bias
        rest = (0 if bias is None else bias * plain) + (0 if noise is None else strength * noisy)
        dscale = (weighted - rest) / scale
    dbias = None if bias is None else plain.sum(0)
    dstrength = None if strength is None else noisy.sum()
    return dx, dscale, dbias, None, dstrength, None, None


def _bias_act_grad_backward(ctx, ddx: Tensor | None, dsums: Tensor | None) -> tuple:
    dy, y, scale, noise = ctx.saved_tensors
    if scale is None and dsums is None:  # dx is linear in dy, as in R1, and does not depend on y but for its sign
        return _bias_act_grad(ddx, y, scale, noise, *ctx.numbers)[0], *(None,) * 5
    ddx = torch.zeros_like(y) if ddx is None else ddx
    dsums = y.new_zeros((3, *y.shape[:2]), dtype=accumulator(y.dtype)) if dsums is None else dsums
    ddy, dy_y, dscale = _bias_act_grad_grad(ddx, dsums, dy, y, scale, noise, *ctx.numbers)
    return ddy, dy_y, None if scale is None else dscale, None, None, None


def _no_third_derivative(ctx, *gradients: Tensor) -> tuple:
    raise NotImplementedError("the ops have two derivatives")


_bias_act = _define(
    f"bias_act(Tensor x, {_EPILOGUE}) -> Tensor",
    _bias_act_kernel,
    _epilogue_gradients,
    _save_result,
    lambda x, *epilogue: torch.empty_like(x),
)
_overwrite = torch.library.custom_op(
    "stylegan2_cond::bias_act_",
    _overwrite_kernel,
    mutates_args=("x",),
    schema=f"(Tensor(a!) x, {_EPILOGUE}) -> ()",
)
_bias_act_grad = _define(
    "bias_act_grad(Tensor dy, Tensor y, Tensor? scale, Tensor? noise, float slope, float gain) -> (Tensor, Tensor)",
    _bias_act_grad_kernel,
    _bias_act_grad_backward,
    _save_inputs,
    _fake_grad,
)
_bias_act_grad_grad = _define(
    "bias_act_grad_grad(Tensor ddx, Tensor dsums, Tensor dy, Tensor y, Tensor? scale, Tensor? noise, float slope, "
    "float gain) -> (Tensor, Tensor, Tensor)",
    _bias_act_grad_grad_kernel,
    _no_third_derivative,
    _save_inputs,
    _fake_grad_grad,
)


# --- scale


def _scale_kernel(x: Tensor, scale: Tensor) -> Tensor:
    y = torch.empty_like(x)
    scale = scale.contiguous()
    _call("bias_act", x, *_layout(x), y, x, scale, None, None, None, 1.0, 1.0)
    return y


def _scale_backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
    x, scale = ctx.saved_tensors
    dx, sums = _bias_act_grad(dy, x, scale, None, 1.0, 1.0)  # the scale's gradient is Σ dy · x
    return dx, sums[2]


_scale = _define(
    "scale(Tensor x, Tensor scale) -> Tensor",
    _scale_kernel,
    _scale_backward,
    lambda ctx, inputs, output: _save(ctx, inputs),
    lambda x, scale: torch.empty_like(x),
)


# --- resample


def _resample_kernel(x, kind, factors, inputs, outputs, adjoint, *epilogue):
    y = _resampled_empty(x, outputs if not adjoint else inputs)
    bands = [band(kind, *axis, adjoint=adjoint) for axis in zip(factors, inputs, outputs, strict=True)]
    bands = [band(kind, 1, 1, 1)] * (3 - len(bands)) + bands  # kernels take three axes
    starts, weights = zip(*[one.tables(x.device, accumulator(x.dtype)) for one in bands], strict=True)
    _call(
        "resample",
        x,
        NUMBERS[x.dtype],
        int(is_channels_last(x)),
        *x.shape[:2],
        array(LONG, [one.inputs for one in bands]),
        array(LONG, [one.outputs for one in bands]),
        array(INT, [one.taps for one in bands]),
        array(INT, [one.step for one in bands]),
        array(POINTER, [table.data_ptr() for table in starts]),
        array(POINTER, [table.data_ptr() for table in weights]),
        y,
        x,
        *epilogue,
    )
    return y


def _resampled_empty(x: Tensor, size: list[int]) -> Tensor:
    return torch.empty(*x.shape[:2], *size, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _fake_resample(x, kind, factors, inputs, outputs, adjoint, *epilogue):
    return _resampled_empty(x, outputs if not adjoint else inputs)


def _save_for_resample(ctx, inputs, output) -> None:
    x, *ctx.axes, ctx.adjoint, scale, bias, noise, strength, slope, gain = inputs
    ctx.plain = all(tensor is None for tensor in (scale, bias, noise)) and (slope, gain) == (1.0, 1.0)
    ctx.layout = layout_of(x)
    if not ctx.plain:
        _save(ctx, (output, scale, bias, noise, strength, slope, gain))


def _resample_backward(ctx, dy: Tensor) -> tuple:
    others = (None,) * 6
    if not ctx.plain:
        dy, *others = _epilogue_gradients(ctx, dy)
    else:
        dy = dy.contiguous(memory_format=ctx.layout)
    nothing = (None, None, None, None, 1.0, 1.0)
    return _resample(dy, *ctx.axes, not ctx.adjoint, *nothing), *(None,) * 5, *others


_resample = _define(
    f"resample(Tensor x, str kind, SymInt[] factors, SymInt[] inputs, SymInt[] outputs, bool adjoint, {_EPILOGUE})"
    " -> Tensor",
    _resample_kernel,
    _resample_backward,
    _save_for_resample,
    _fake_resample,
)
