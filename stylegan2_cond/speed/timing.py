"""Times two implementations in turn, so that noise of the machine affects both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from stylegan2_cond.io import Document

LEAST_SECONDS = 0.05  # of one measurement; shorter calls are repeated


class Timing(Document):
    """Seconds per call of our implementation and of the reference.

    Attributes:
        ours, reference: medians over the rounds.
        ratio: median of reference / ours over the rounds.
        ratios: lowest and highest of them.
    """

    ours: float
    reference: float
    ratio: float
    ratios: tuple[float, float]

    def per(self, count: int) -> Timing:
        """The times of one of `count` equal parts of a call."""
        return self.model_copy(update={"ours": self.ours / count, "reference": self.reference / count})


def compare_times(
    ours: Callable[[], object], reference: Callable[[], object], *, rounds: int, device: torch.device
) -> Timing:
    """Time both in turn, `rounds` times, after a first call of each that does not count."""
    counts = [_repeats(function, device) for function in (ours, reference)]
    pairs = [
        [_seconds(function, count, device) for function, count in zip((ours, reference), counts, strict=True)]
        for _ in range(rounds)
    ]
    ratios = [theirs / mine for mine, theirs in pairs]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Timing(ours=mine, reference=theirs, ratio=statistics.median(ratios), ratios=(min(ratios), max(ratios)))


def time_calls(function: Callable[[], object], *, rounds: int, device: torch.device) -> float:
    """Median seconds per call."""
    count = _repeats(function, device)
    return statistics.median(_seconds(function, count, device) for _ in range(rounds))


def _repeats(function: Callable[[], object], device: torch.device) -> int:
    function()
    return max(1, round(LEAST_SECONDS / max(1e-6, _seconds(function, 1, device))))


def _seconds(function: Callable[[], object], count: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    for _ in range(count):
        function()
    wait()
    return (time.perf_counter() - start) / count
