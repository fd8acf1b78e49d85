"""Each op at the shapes of real networks: forward, backward, and backward of backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from stylegan2_cond import ops
from stylegan2_cond.io import Document
from stylegan2_cond.ops import Epilogue
from stylegan2_cond.speed import reference
from stylegan2_cond.speed.timing import Timing, compare_times, gradients

PASSES = ("forward", "backward", "double")
SHAPES = {64: (16, 64, 64), 256: (4, 64, 256)}  # of networks with that patch: batch, channels, side


class OpTiming(Document):
    """One pass of one op.

    Attributes:
        op, patch, step: what was timed.
        timing: of ours and the reference.
        least_bytes: that a pass must read and write, if each activation moves once; 0 where that tells nothing.
    """

    op: str
    patch_size: int
    step: str
    timing: Timing
    least_bytes: int


@dataclass(frozen=True)
class _Case:
    """An op on inputs, by either module.

    Attributes:
        name: of the op.
        run: `run(module, x)` → y.
        x: its input.
        parameters: further inputs that learn.
    """

    name: str
    run: Callable[[object, torch.Tensor], torch.Tensor]
    x: torch.Tensor
    parameters: tuple[torch.Tensor, ...]


def time_ops(patch_size: int, *, rounds: int, device: torch.device) -> Iterator[OpTiming]:
    """All ops and passes at one patch."""
    for case in _cases(*SHAPES[patch_size], device):
        for step in PASSES:
            functions = [_pass(case, module, step) for module in (ops, reference)]
            timing = compare_times(*functions, rounds=rounds, device=device)
            yield OpTiming(
                op=case.name, patch_size=patch_size, step=step, timing=timing, least_bytes=_least(case, step)
            )


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


def _pass(case: _Case, module: object, step: str) -> Callable[[], object]:
    inputs = (case.x, *case.parameters)
    if step == "forward":
        return lambda: case.run(module, case.x)
    y = case.run(module, case.x)
    if step == "backward":
        return lambda: gradients(y, inputs)
    squared = y.square()  # so that ops which are linear have second derivatives too
    return lambda: gradients(squared, inputs, again=True)


def _least(case: _Case, step: str) -> int:
    """Forward reads x and writes y; backward reads y's gradient, y where an activation wants it, and writes x's."""
    if step == "double" or case.name == "modulated_conv":
        return 0
    x = case.x.numel()
    y = x * {"upsample": 4, "upsample+bias_act": 4, "downsample": 0.25}.get(case.name, 1)
    bent = step == "backward" and "bias_act" in case.name
    return int(4 * (x + y + (y if bent else 0)))
