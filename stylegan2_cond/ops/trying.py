"""A library of kernels tried against plain PyTorch, on tensors so small that it takes no time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from stylegan2_cond.ops.backends import NATIVE
from stylegan2_cond.ops.bias_act import apply_epilogue
from stylegan2_cond.ops.bindings import Library
from stylegan2_cond.ops.epilogue import Epilogue
from stylegan2_cond.ops.resample import downsample, upsample

# Of the largest number of a result. A kernel that is wrong is wrong by far more.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 8, 4, 4), (2, 3, 5, 7))  # voxels that lie in whole vectors, and such as do not


def difference(library: Library, device: str) -> str:
    """Why the kernels are not to be used; empty where they compute what `native` does.

    Args:
        library: that `find_library` gives for the device.
        device: type; the current one of them is tried.
    """
    kind = torch.device(device)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        try:
            for dtype, shape, layout in itertools.product(TOLERANCE, SHAPES, LAYOUTS):
                x = _whole_numbers(shape, kind).to(memory_format=layout)
                expected = _results(x.double(), NATIVE)
                for (name, mine), (_, theirs) in zip(_results(x.to(dtype), device), expected, strict=True):
                    if not _alike(mine, theirs, TOLERANCE[dtype]):
                        return f"{name} of {dtype} differs from plain PyTorch's"
        except RuntimeError as error:
            return f"they fail ({str(error).splitlines()[0]})"
    return ""


def _whole_numbers(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """From -3 to 3: with these and the epilogue's numbers, no type rounds before the activation, nor meets its kink."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, device=device, dtype=torch.float32) * 5 % 7 - 3).reshape(shape)


def _results(x: torch.Tensor, backend: str) -> Iterator[tuple[str, torch.Tensor]]:
    """What each kernel computes, its first and its second derivatives, by name."""
    n, c, *size = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)

    def vector(*shape: int, value: float) -> torch.Tensor:
        return torch.full(shape, value, dtype=wide, device=x.device, requires_grad=True)

    twice = [2 * length for length in size]
    noise = _whole_numbers((n, 1, *size), x.device).to(x.dtype)
    full = Epilogue(vector(c, value=1 / 32), vector(n, c, value=2.0), noise, vector(value=0.5), activation="lrelu")
    plain = Epilogue(vector(c, value=1 / 32), activation="lrelu")
    functions = {
        "bias_act": (lambda x: apply_epilogue(x, full, backend), [full.bias, full.scale, full.strength]),
        "upsample": (lambda x: upsample(x, (2, 2), twice, epilogue=plain, backend=backend), [plain.bias]),
        "downsample": (lambda x: downsample(x, (2, 2), backend=backend), []),
    }
    for name, (function, learnt) in functions.items():
        source = x.detach().clone().requires_grad_()
        y = function(source)
        yield name, y
        first = torch.autograd.grad(y.square().sum(), [source, *learnt], create_graph=True)
        yield from ((f"gradient {number} of {name}", gradient) for number, gradient in enumerate(first))
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), source)
        yield f"second derivative of {name}", second[0]


def _alike(mine: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    """Not where a number is NaN."""
    error = (mine.detach().double() - theirs.detach()).abs().max()
    return bool(error <= tolerance * theirs.detach().abs().max().clamp_min(1.0))
