"""How the ratio follows the epochs."""

from __future__ import annotations

from collections.abc import Callable

LAST_SHARE = 5  # the linear schedule falls over the last fifth of the epochs


def constant(epoch: int, epochs: int) -> float:
    """The same in every epoch."""
    return 1.0


def linear(epoch: int, epochs: int) -> float:
    """1 until the last fifth of the epochs, then falling to 0 in the last one: training ends on real cases alone.

    Trainings of fewer than five epochs have no last fifth, and stay at 1.
    """
    falling = epochs // LAST_SHARE
    return min(1.0, (epochs - 1 - epoch) / falling) if falling else 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "linear": linear}


def ratio_at(ratio: float, schedule: str, epoch: int, epochs: int) -> float:
    """Probability that a training draw of `epoch` (from 0) is synthetic."""
    return ratio * SCHEDULES[schedule](epoch, epochs)
