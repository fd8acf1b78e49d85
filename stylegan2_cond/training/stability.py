"""Detect divergence or mode collapse, and what a rollback to the last good checkpoint reports."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from stylegan2_cond.errors import UserError
from stylegan2_cond.training.state import TrainingState

MAX_ROLLBACKS = 3
COLLAPSED_SPREAD = 0.1  # of generated pairs, as a fraction of that of real ones; less is mode collapse
GRACE_IMAGES = 5_000  # at the start, when generated pairs hardly differ yet


def broken_weights(state: TrainingState) -> list[str]:
    """Networks with weights that are not finite; a step may break them although its own scalars are finite."""
    found = []
    for name in ("generator", "discriminator"):
        sums = torch.stack([weight.detach().sum() for weight in getattr(state, name).parameters()])
        found += [] if sums.isfinite().all() else [name]
    return found


def detect_failure(state: TrainingState, scalars: Mapping[str, float], *, weights: bool = True) -> str | None:
    """What is wrong after a step with these scalars; None if nothing is.

    Args:
        state: of the training.
        scalars: of the step.
        weights: whether to look at the weights, which takes a while.
    """
    broken = [name for name, value in scalars.items() if not math.isfinite(value)]
    broken += broken_weights(state) if weights else []
    if broken:
        return f"diverged: {', '.join(broken)} not finite"
    if state.images_seen >= GRACE_IMAGES and state.spread < COLLAPSED_SPREAD:
        return f"collapsed: generated pairs vary by only {state.spread:.0%} of the variation of real ones"
    return None


def rollback_message(failure: str, state: TrainingState) -> str:
    """What is printed when training returns to the last good checkpoint.

    Raises:
        UserError: training was rolled back too often.
    """
    seen, plan = state.images_seen, state.plan
    if state.rollbacks >= MAX_ROLLBACKS:
        raise UserError(
            f"Training {failure}, after {seen:,} images and {MAX_ROLLBACKS} rollbacks, each of which halved the "
            f"learning rate. Move the run folder away and start again with --set r1_weight="
            f"{4 * plan.r1_weight or 1:g}. Its snapshots can still be sampled from."
        )
    rate = plan.learning_rate / 2 ** (state.rollbacks + 1)
    return f"Training {failure}, after {seen:,} images. Back to the last good checkpoint, with learning rate {rate:g}."
