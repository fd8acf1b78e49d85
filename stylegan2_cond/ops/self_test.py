"""Compares compiled kernels with plain PyTorch on tiny tensors before `auto` uses them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from stylegan2_cond.ops.autograd import fused_bias_act, fused_resample
from stylegan2_cond.ops.epilogue import CHANNELS_LAST, IDENTITY, Epilogue
from stylegan2_cond.ops.fir import LINEAR, MEAN

# Relative to the largest number of a result. A kernel that is wrong is wrong by far more.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
SHAPES = ((2, 8, 4, 4), (2, 3, 5, 7), (2, 4, 3, 2, 4))  # voxels that fill whole vectors, that do not, and volumes


def find_difference(device: str) -> str:
    """Why the kernels loaded for a device must not be used; empty if they compute what PyTorch computes.

    Args:
        device: type; the current device of that type is tested.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        try:
            for dtype, shape, last in itertools.product(TOLERANCE, SHAPES, (False, True)):
                layout = CHANNELS_LAST[len(shape)] if last else torch.contiguous_format
                x = _whole_numbers(shape, torch.device(device)).to(memory_format=layout)
                expected = _results(x.double(), fused=False)
                for (name, mine), (_, theirs) in zip(_results(x.to(dtype), fused=True), expected, strict=True):
                    mine, theirs = mine.detach().double(), theirs.detach()
                    error, largest = (mine - theirs).abs().max(), theirs.abs().max().clamp_min(1.0)
                    if not error <= TOLERANCE[dtype] * largest:  # true where a number is NaN
                        return f"{name} of {dtype} differs from plain PyTorch's"
        except RuntimeError as error:
            return f"they fail ({str(error).splitlines()[0]})"
    return ""


def _whole_numbers(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """From -3 to 3: with these and the epilogue's numbers, no type rounds before the activation, nor meets its kink."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, device=device, dtype=torch.float32) * 5 % 7 - 3).reshape(shape)


def _results(x: torch.Tensor, *, fused: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Each op's value, first and second derivatives, by name."""
    n, c, *size = x.shape
    factors = (2,) * len(size)
    linear, pool = {2: ("bilinear", F.avg_pool2d), 3: ("trilinear", F.avg_pool3d)}[len(size)]
    wide = torch.promote_types(x.dtype, torch.float32)

    def learnt(*shape: int, value: float) -> torch.Tensor:
        return torch.full(shape, value, dtype=wide, device=x.device, requires_grad=True)

    noise = _whole_numbers((n, 1, *size), x.device).to(x.dtype)
    full = Epilogue(learnt(c, value=1 / 32), learnt(n, c, value=2.0), noise, learnt(value=0.5), activation="lrelu")
    plain = Epilogue(learnt(c, value=1 / 32), activation="lrelu")
    twice, half = [2 * length for length in size], [-(-length // 2) for length in size]
    ops = {
        "bias_act": (lambda x: fused_bias_act(x, full), full.apply, [full.bias, full.scale, full.strength]),
        "upsample": (
            lambda x: fused_resample(x, LINEAR, factors, twice, plain),
            lambda x: plain.apply(F.interpolate(x, scale_factor=2, mode=linear)),
            [plain.bias],
        ),
        "downsample": (
            lambda x: fused_resample(x, MEAN, factors, half, IDENTITY),
            lambda x: pool(x, 2, ceil_mode=True, count_include_pad=False),
            [],
        ),
    }
    for name, (kernel, reference, parameters) in ops.items():
        source = x.detach().clone().requires_grad_()
        y = (kernel if fused else reference)(source)
        yield name, y
        first = torch.autograd.grad(y.square().sum(), [source, *parameters], create_graph=True)
        yield from ((f"gradient {number} of {name}", gradient) for number, gradient in enumerate(first))
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), source)
        yield f"second derivative of {name}", second[0]
