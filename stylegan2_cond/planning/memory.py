"""The memory that a training step takes, and how a plan is made to fit it: more parts first, then fewer channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import BY_HAND, Plan
from stylegan2_cond.planning.table import format_value

# What lies in memory at the peak of a step, in float32: copies of the activations of one network, and more of them
# where a mask modulates each stage; then of the coded pairs that are computed at once, and of those of the whole batch.
# Measured on a CPU: 0.95 to 1.13 of the estimate from 64² to 256×320, and up to 1.8 of it for smaller patches and for
# volumes, whose blocks below 32 MiB leave gaps in the heap. The numbers for CUDA have not been confirmed on a GPU, so
# that plans of up to twice the memory there is are tried on one.
COPIES = {"cpu": (15.5, 6, 0, 11), "cuda": (10, 9, 8, 4)}
TRIED = {"cpu": 1, "cuda": 2}  # times the budget
WEIGHT_COPIES = 9  # of both networks: weights, gradients, two moments of Adam each, and the moving average
BFLOAT16_SHARE = 0.6  # of the activations' memory in float32; measured 0.58 on a CPU

# Fewest channels of each stage, fine to coarse. The finest stages take nearly all the memory; the coarse ones, of an
# eighth of the resolution and below, determine what is generated.
MIN_CHANNELS = (16, 32, 64, 128)


def training_bytes(plan: Plan, device: str = "cpu") -> int:
    """Rough peak memory of a training step, in bytes, from which the first plan to be measured follows.

    Args:
        plan: of the samples that one process computes.
        device: type.
    """
    plain, given, coded, kept = COPIES["cuda" if device == "cuda" else "cpu"]
    share = BFLOAT16_SHARE if plan.precision == "bfloat16" else 1.0
    activations = share * (plain + given * plan.given_mask) * activations_at_once(plan)
    pairs = plan.codec.channels * math.prod(plan.patch_size)
    pairs *= coded * -(-plan.batch_size // plan.accumulate) + kept * plan.batch_size
    kernels = [a * b for a, b in (*zip(plan.channels, plan.channels, strict=True), *itertools.pairwise(plan.channels))]
    return int(4 * (WEIGHT_COPIES * 3 ** len(plan.patch_size) * sum(kernels) + activations + pairs))


def activations_at_once(plan: Plan) -> int:
    """Number of activations of all stages of a network, for the samples that are computed at once."""
    lengths, count = plan.patch_size, 0
    for width, factors in zip(reversed(plan.channels), (*reversed(plan.factors), (1,) * len(lengths)), strict=True):
        count += width * math.prod(lengths)
        lengths = [-(-length // factor) for length, factor in zip(lengths, factors, strict=True)]
    return -(-plan.batch_size // plan.accumulate) * count


def fit_memory(plan: Plan, budget: int | None, processes: int = 1, device: str = "cpu") -> Plan:
    """The plan with a batch in more parts, and fewer channels, as far as the budget demands by the estimate.

    Args:
        plan: may need more memory than there is.
        budget: of each process, in bytes.
        processes: that each compute an equal share of the batch.
        device: type.

    Raises:
        UserError: no such plan fits.
    """
    if budget is None:
        return plan
    share = smallest = plan.model_copy(update={"batch_size": -(-plan.batch_size // processes)})
    for smallest in _smaller_plans(share):
        if training_bytes(smallest, device) <= TRIED["cuda" if device == "cuda" else "cpu"] * budget:
            return _with_reasons(share, smallest, budget, device).model_copy(update={"batch_size": plan.batch_size})
    raise too_large(smallest, training_bytes(smallest, device), budget)


def next_smaller(plan: Plan, device: str = "cpu") -> Plan | None:
    """The next plan with fewer activations at once, whatever the estimate; None if there is none."""
    smaller = next(
        (other for other in _smaller_plans(plan) if activations_at_once(other) < activations_at_once(plan)), None
    )
    return smaller and _with_reasons(plan, smaller, None, device)


def too_large(plan: Plan, needed: int, budget: int) -> UserError:
    """The error for a plan that needs more memory than there is."""
    return UserError(
        f"Training at patch {list(plan.patch_size)} needs about {needed / 2**30:.3g} GiB, {budget / 2**30:.3g} GiB are "
        f"free. Close other programs, or train on smaller patches: --patch-size {smaller_patch_size(plan.patch_size)}"
    )


def smaller_patch_size(patch_size: Sequence[int]) -> str:
    """Half the patch size, as an argument of --patch-size."""
    return ",".join(str(max(4, length // 2)) for length in patch_size)


def _smaller_plans(plan: Plan) -> Iterator[Plan]:
    """The plan, then plans with more parts, then with fewer channels; what was set by hand stays.

    Channels are halved in two steps, one stage after the other, from the finest.
    """
    widths = [plan.channels]
    for stage in reversed(range(len(plan.channels)) if plan.reasons.get("channels") != BY_HAND else ()):
        floor = MIN_CHANNELS[min(len(plan.channels) - 1 - stage, len(MIN_CHANNELS) - 1)]
        while (width := widths[-1][stage]) > floor:
            fewer = max(floor, width - max(1, plan.channels[stage] // 4))
            widths.append((*widths[-1][:stage], fewer, *widths[-1][stage + 1 :]))
    for channels in widths:
        accumulate = plan.accumulate
        while True:
            yield plan.model_copy(update={"channels": channels, "accumulate": accumulate})
            accumulate *= 2
            if plan.batch_size % accumulate or plan.reasons.get("accumulate") == BY_HAND:
                break


def _with_reasons(before: Plan, after: Plan, budget: int | None, device: str) -> Plan:
    room = "one real step ran out of memory" if budget is None else f"{budget / 2**30:.3g} GiB are free"
    changed = [key for key in ("accumulate", "channels") if getattr(before, key) != getattr(after, key)]
    needed = training_bytes(before, device) / 2**30
    reasons = {
        key: f"instead of {format_value(getattr(before, key))}, which takes {needed:.3g} GiB: {room}" for key in changed
    }
    return after.model_copy(update={"reasons": after.reasons | reasons})
