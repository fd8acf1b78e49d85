"""Times of each op at the shapes of real networks: forward, backward, and backward of backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from stylegan2_cond import ops
from stylegan2_cond.io import Document
from stylegan2_cond.ops import Epilogue
from stylegan2_cond.ops.epilogue import CHANNELS_LAST
from stylegan2_cond.speed import reference
from stylegan2_cond.speed.timing import Timing, compare_times

PASSES = ("forward", "backward", "double")
SHAPES = {64: (16, 64, 64), 256: (4, 64, 256)}  # by side of the patch: batch, channels, side of the activation


class OpTiming(Document):
    """One pass of one op.

    Attributes:
        op: its name.
        side: of the patch, in voxels.
        direction: one of `PASSES`.
        timing: of our op and the reference's.
    """

    op: str
    side: int
    direction: str
    timing: Timing


@dataclass(frozen=True)
class OpCase:
    """An op with its inputs.

    Attributes:
        op: name.
        run: `run(module, x)` → y, with the op of either module.
        x: input.
        parameters: further inputs that need gradients.
    """

    op: str
    run: Callable[[object, torch.Tensor], torch.Tensor]
    x: torch.Tensor
    parameters: tuple[torch.Tensor, ...]


def time_ops(side: int, *, rounds: int, device: torch.device) -> Iterator[OpTiming]:
    """All ops and passes for patches of `side`² voxels, a key of `SHAPES`."""
    batch, channels, length = SHAPES[side]
    for case in op_cases(batch, channels, (length, length), device):
        for direction in PASSES:
            timing = compare_times(
                *(op_pass(case, module, direction) for module in (ops, reference)), rounds=rounds, device=device
            )
            yield OpTiming(op=case.op, side=side, direction=direction, timing=timing)


def op_cases(
    batch: int, channels: int, size: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32
) -> list[OpCase]:
    """Each op with inputs whose finest activation is of `size`, of a type; weights are float32."""

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        x = torch.randn(shape, device=device).to(dtype)
        return (x.contiguous(memory_format=CHANNELS_LAST[x.ndim]) if x.ndim in CHANNELS_LAST else x).requires_grad_()

    dims = len(size)
    bias, strength, noise = normal(channels), normal(), normal(batch, 1, *size, dtype=dtype).detach()
    full, half = (normal(batch, channels, *[n // factor for n in size], dtype=dtype) for factor in (1, 2))
    weight, style, factors = normal(channels, channels, *[3] * dims), normal(batch, channels), (2,) * dims
    epilogue = Epilogue(bias, noise=noise, strength=strength, activation="lrelu")
    learnt = (bias, strength)
    return [
        OpCase("bias_act", lambda m, x: m.bias_act(x, bias, noise=noise, strength=strength), full, learnt),
        OpCase("upsample", lambda m, x: m.upsample(x, factors, size), half, ()),
        OpCase("upsample+bias_act", lambda m, x: m.upsample(x, factors, size, epilogue=epilogue), half, learnt),
        OpCase("downsample", lambda m, x: m.downsample(x, factors), full, ()),
        OpCase(
            "modulated_conv",
            lambda m, x: m.modulated_conv(x, weight, style, epilogue=epilogue),
            full,
            (weight, style, *learnt),
        ),
    ]


def op_pass(case: OpCase, module: object, direction: str) -> Callable[[], object]:
    """A function that computes one pass of an op: its result, its gradients, or those of a function of these."""
    if direction == "forward":
        return lambda: case.run(module, case.x)
    inputs, double = (case.x, *case.parameters), direction == "double"
    y = case.run(module, case.x)
    if double:
        y = y.square()  # so that linear ops have second derivatives too

    def backward() -> tuple[torch.Tensor, ...]:
        first = torch.autograd.grad(y, inputs, torch.ones_like(y), create_graph=double, retain_graph=True)
        if not double:
            return first
        total = sum(gradient.square().sum() for gradient in first)
        return torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)

    return backward
