"""Divergence and collapse: noticed, told, and answered by going back to where all was well."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from stylegan2_cond.errors import UserError
from stylegan2_cond.training.state import TrainingState

MAX_ROLLBACKS = 3
COLLAPSED_SPREAD = 0.1  # spread of the drawn pairs, as a share of the real ones', below which they are one picture
GRACE_IMAGES = 5_000  # before which a generator has not spread out yet


def detect_failure(state: TrainingState, figures: Mapping[str, float]) -> str | None:
    """What is wrong with a training after a step that gave these figures; None where nothing is."""
    broken = [name for name, value in figures.items() if not math.isfinite(value)]
    broken += [name for name in ("generator", "discriminator") if not _is_finite(getattr(state, name))]
    if broken:
        return f"diverged: {', '.join(broken)} not finite"
    if state.images_seen >= GRACE_IMAGES and state.spread < COLLAPSED_SPREAD:
        return f"collapsed: drawn pairs differ from each other by {state.spread:.0%} of what real ones do"
    return None


def _is_finite(network: nn.Module) -> bool:
    """Whether all weights are: a step may break them that gave finite figures itself, and be saved as a good one."""
    return bool(torch.stack([weight.detach().sum() for weight in network.parameters()]).isfinite().all())


def rollback_message(failure: str, state: TrainingState) -> str:
    """What a user is told when training goes back.

    Raises:
        UserError: it went back often enough.
    """
    seen, plan = state.images_seen, state.plan
    if state.rollbacks >= MAX_ROLLBACKS:
        raise UserError(
            f"Training {failure}, after {seen:,} images and {MAX_ROLLBACKS} returns to an earlier checkpoint, each "
            f"with half the learning rate. Move the run folder away and start again with --set r1_weight="
            f"{4 * plan.r1_weight or 1:g}. Until then its snapshots can be drawn from."
        )
    rate = plan.learning_rate / 2 ** (state.rollbacks + 1)
    return f"Training {failure}, after {seen:,} images. Going back to the last good checkpoint, learning rate {rate:g}."
