"""How a plan is made to fit the memory: a batch in more parts first, then fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.memory import activations_at_once, training_bytes
from stylegan2_cond.planning.overrides import BY_HAND
from stylegan2_cond.planning.plan import Plan

SMALLEST_PART = 4  # samples computed at once; the minibatch standard deviation compares so many
FEWEST_CHANNELS = 32  # that the limit is lowered to
FEWEST_FINEST = 16  # channels of the finest stage, which takes most of the memory


def fit_memory(plan: Plan, budget: int | None, processes: int = 1) -> Plan:
    """The same plan, its batch computed in parts, and its channels fewer, as far as the budget, in bytes, demands.

    Args:
        plan: may need more than there is.
        budget: of each process.
        processes: that each compute an equal share of the batch.

    Raises:
        UserError: it would not fit however it were done.
    """
    if budget is None:
        return plan
    share = smallest = plan.model_copy(update={"batch_size": -(-plan.batch_size // processes)})
    for smallest in _ever_smaller(share):
        if training_bytes(smallest) <= budget:
            return _with_reasons(share, smallest, budget).model_copy(update={"batch_size": plan.batch_size})
    raise too_large(smallest, training_bytes(smallest), budget)


def next_smaller(plan: Plan) -> Plan | None:
    """The next plan with fewer activations at once, whatever estimates say; None where there is none left."""
    smaller = next(
        (other for other in _ever_smaller(plan) if activations_at_once(other) < activations_at_once(plan)), None
    )
    return smaller and _with_reasons(plan, smaller, None)


def too_large(plan: Plan, needed: int, budget: int) -> UserError:
    """What to tell of a plan that takes more than there is."""
    return UserError(
        f"Training at canvas {list(plan.canvas)} needs about {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB are "
        f"free. Close other programs, or draw a smaller part of the images: --canvas {smaller_canvas(plan.canvas)}"
    )


def smaller_canvas(canvas: Sequence[int]) -> str:
    """Half the canvas, as the option is typed."""
    return ",".join(str(max(4, length // 2)) for length in canvas)


def _ever_smaller(plan: Plan) -> Iterator[Plan]:
    """The plan, and others with more parts, then with fewer channels; what was set by hand stays."""
    for channels in _fewer_channels(plan.channels) if plan.reasons.get("channels") != BY_HAND else (plan.channels,):
        accumulate = plan.accumulate
        while True:
            yield plan.model_copy(update={"channels": channels, "accumulate": accumulate})
            accumulate *= 2
            part, rest = divmod(plan.batch_size, accumulate)
            if rest or part < SMALLEST_PART or plan.reasons.get("accumulate") == BY_HAND:
                break


def _fewer_channels(channels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield channels
    limit = max(channels)
    while limit > FEWEST_CHANNELS:
        limit = max(limit // 2, FEWEST_CHANNELS)
        yield tuple(min(width, limit) for width in channels)
    if channels[-1] > FEWEST_FINEST:
        yield (*(min(width, limit) for width in channels[:-1]), FEWEST_FINEST)


def _with_reasons(before: Plan, after: Plan, budget: int | None) -> Plan:
    room = "one real step ran out of memory" if budget is None else f"{budget / 2**30:.3g} GiB are free"
    changed = [key for key in ("accumulate", "channels") if getattr(before, key) != getattr(after, key)]
    reasons = {
        key: f"instead of {_text(getattr(before, key))}, which takes {training_bytes(before) / 2**30:.3g} GiB: {room}"
        for key in changed
    }
    return after.model_copy(update={"reasons": after.reasons | reasons})


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
