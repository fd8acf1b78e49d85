"""Times of each op at the shapes of real networks: forward, backward, and backward of backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from stylegan2_cond import ops
from stylegan2_cond.io import Document
from stylegan2_cond.ops import Epilogue
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
class _Case:
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
    for case in _cases(*SHAPES[side], device):
        for direction in PASSES:
            timing = compare_times(
                *(_pass(case, module, direction) for module in (ops, reference)), rounds=rounds, device=device
            )
            yield OpTiming(op=case.op, side=side, direction=direction, timing=timing)


def _cases(batch: int, channels: int, side: int, device: torch.device) -> list[_Case]:
    def normal(*shape: int) -> torch.Tensor:
        x = torch.randn(shape, device=device)
        return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()

    bias, strength, noise = normal(channels), normal(), torch.randn(batch, 1, side, side, device=device)
    full, half = normal(batch, channels, side, side), normal(batch, channels, side // 2, side // 2)
    weight, style, size = normal(channels, channels, 3, 3), normal(batch, channels), (side, side)
    epilogue = Epilogue(bias, noise=noise, strength=strength, activation="lrelu")
    learnt = (bias, strength)
    return [
        _Case("bias_act", lambda m, x: m.bias_act(x, bias, noise=noise, strength=strength), full, learnt),
        _Case("upsample", lambda m, x: m.upsample(x, (2, 2), size), half, ()),
        _Case("upsample+bias_act", lambda m, x: m.upsample(x, (2, 2), size, epilogue=epilogue), half, learnt),
        _Case("downsample", lambda m, x: m.downsample(x, (2, 2)), full, ()),
        _Case(
            "modulated_conv",
            lambda m, x: m.modulated_conv(x, weight, style, epilogue=epilogue),
            full,
            (weight, style, *learnt),
        ),
    ]


def _pass(case: _Case, module: object, direction: str) -> Callable[[], object]:
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
