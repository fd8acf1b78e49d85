"""Times of two ways of computing the same, taken in turns, so that a noisy machine treats both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from stylegan2_cond.io import Document

LEAST_SECONDS = 0.05  # of one measurement; shorter work is repeated within it


class Timing(Document):
    """Seconds of ours and of the reference.

    Attributes:
        ours, reference: medians of the rounds.
        ratio: median over the rounds of reference / ours.
        ratios: lowest and highest of them.
    """

    ours: float
    reference: float
    ratio: float
    ratios: tuple[float, float]


def compare_times(
    ours: Callable[[], object], reference: Callable[[], object], *, rounds: int, device: torch.device
) -> Timing:
    """Time both in turns, `rounds` times, after a first call of each that does not count."""
    counts = [_repeats(function, device) for function in (ours, reference)]
    pairs = [
        [_seconds(function, count, device) for function, count in zip((ours, reference), counts, strict=True)]
        for _ in range(rounds)
    ]
    ratios = [theirs / mine for mine, theirs in pairs]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Timing(ours=mine, reference=theirs, ratio=statistics.median(ratios), ratios=(min(ratios), max(ratios)))


def time_of(function: Callable[[], object], *, rounds: int, device: torch.device) -> float:
    """Median seconds of a call."""
    count = _repeats(function, device)
    return statistics.median(_seconds(function, count, device) for _ in range(rounds))


def copy_bandwidth(device: torch.device, *, rounds: int) -> float:
    """Bytes a second that are read and written when a large tensor is copied."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    seconds = time_of(lambda: target.copy_(source), rounds=rounds, device=device)
    return 2 * source.numel() * source.element_size() / seconds


def matrix_flops(device: torch.device, *, rounds: int) -> float:
    """Floating-point operations a second of a large product of matrices in float32."""
    side = 2048
    a, b = torch.ones(side, side, device=device), torch.ones(side, side, device=device)
    return 2 * side**3 / time_of(lambda: a @ b, rounds=rounds, device=device)


def _repeats(function: Callable[[], object], device: torch.device) -> int:
    function()
    return max(1, round(LEAST_SECONDS / max(1e-6, _seconds(function, 1, device))))


def _seconds(function: Callable[[], object], count: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        function()
    _wait(device)
    return (time.perf_counter() - start) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gradients(y: torch.Tensor, inputs: Sequence[torch.Tensor], *, again: bool = False) -> tuple[torch.Tensor, ...]:
    """Of the sum of y, or of the sum of squares of these gradients."""
    first = torch.autograd.grad(y, inputs, torch.ones_like(y), create_graph=again, retain_graph=True)
    if not again:
        return first
    total = sum(gradient.square().sum() for gradient in first)
    return torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
