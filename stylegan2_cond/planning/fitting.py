"""How a plan is made to fit the memory: a batch in more parts first, then fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.memory import activations_at_once, training_bytes
from stylegan2_cond.planning.overrides import BY_HAND
from stylegan2_cond.planning.plan import Plan

# Channels that a stage keeps, fine to coarse. The finest stages take nearly all the memory; what the coarse ones, of an
# eighth of the resolution and below, hold decides what is drawn.
FEWEST_CHANNELS = (16, 32, 64, 128)


def fit_memory(plan: Plan, budget: int | None, processes: int = 1, device: str = "cpu") -> Plan:
    """The same plan, its batch computed in parts, and its channels fewer, as far as the budget, in bytes, demands.

    Args:
        plan: may need more than there is.
        budget: of each process.
        processes: that each compute an equal share of the batch.
        device: type.

    Raises:
        UserError: it would not fit however it were done.
    """
    if budget is None:
        return plan
    share = smallest = plan.model_copy(update={"batch_size": -(-plan.batch_size // processes)})
    for smallest in _ever_smaller(share):
        if training_bytes(smallest, device) <= budget:
            return _with_reasons(share, smallest, budget, device).model_copy(update={"batch_size": plan.batch_size})
    raise too_large(smallest, training_bytes(smallest, device), budget)


def next_smaller(plan: Plan, device: str = "cpu") -> Plan | None:
    """The next plan with fewer activations at once, whatever estimates say; None where there is none left."""
    smaller = next(
        (other for other in _ever_smaller(plan) if activations_at_once(other) < activations_at_once(plan)), None
    )
    return smaller and _with_reasons(plan, smaller, None, device)


def too_large(plan: Plan, needed: int, budget: int) -> UserError:
    """What to tell of a plan that takes more than there is."""
    return UserError(
        f"Training at patch {list(plan.patch_size)} needs about {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB are "
        f"free. Close other programs, or train on smaller patches: --patch-size {smaller_patch_size(plan.patch_size)}"
    )


def smaller_patch_size(patch_size: Sequence[int]) -> str:
    """Half the patch, as the option is typed."""
    return ",".join(str(max(4, length // 2)) for length in patch_size)


def _ever_smaller(plan: Plan) -> Iterator[Plan]:
    """The plan, and others with more parts, then with fewer channels; what was set by hand stays."""
    for channels in _fewer_channels(plan.channels) if plan.reasons.get("channels") != BY_HAND else (plan.channels,):
        accumulate = plan.accumulate
        while True:
            yield plan.model_copy(update={"channels": channels, "accumulate": accumulate})
            accumulate *= 2
            if plan.batch_size % accumulate or plan.reasons.get("accumulate") == BY_HAND:
                break


def _fewer_channels(channels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One stage after the other, from the finest on, in two steps to half its channels."""
    widths = list(channels)
    yield channels
    for level, width in enumerate(reversed(channels)):
        floor = FEWEST_CHANNELS[min(level, len(FEWEST_CHANNELS) - 1)]
        stage = len(channels) - 1 - level
        while widths[stage] > floor:
            widths[stage] = max(floor, widths[stage] - max(1, width // 4))
            yield tuple(widths)


def _with_reasons(before: Plan, after: Plan, budget: int | None, device: str) -> Plan:
    room = "one real step ran out of memory" if budget is None else f"{budget / 2**30:.3g} GiB are free"
    changed = [key for key in ("accumulate", "channels") if getattr(before, key) != getattr(after, key)]
    needed = training_bytes(before, device) / 2**30
    reasons = {
        key: f"instead of {_text(getattr(before, key))}, which takes {needed:.3g} GiB: {room}" for key in changed
    }
    return after.model_copy(update={"reasons": after.reasons | reasons})


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
