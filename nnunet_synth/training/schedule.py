"""How the ratio changes over the epochs."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(epoch: int, epochs: int) -> float:
    """1 in every epoch."""
    return 1.0


def linear(epoch: int, epochs: int) -> float:
    """1, then falling linearly to 0 over the last fifth of the epochs, so that training ends on real cases alone.

    Trainings of fewer than five epochs stay at 1.
    """
    falling = epochs // 5
    return min(1.0, (epochs - 1 - epoch) / falling) if falling else 1.0


def cosine(epoch: int, epochs: int) -> float:
    """From 1 in the first epoch to 0 in the last, along half a cosine; a single epoch stays at 1."""
    return (1 + math.cos(math.pi * epoch / (epochs - 1))) / 2 if epochs > 1 else 1.0


def pretrain(epoch: int, epochs: int) -> float:
    """1 in the first half of the epochs, 0 in the second: synthetic pairs first, real cases last."""
    return float(epoch < epochs / 2)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "pretrain": pretrain,
}
DEFAULT_SCHEDULE = "linear"


def ratio_at(ratio: float, schedule: str, epoch: int, epochs: int) -> float:
    """Probability that a training draw of `epoch` (from 0) is synthetic."""
    return ratio * SCHEDULES[schedule](epoch, epochs)
