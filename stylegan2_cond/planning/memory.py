"""The memory that a training step takes, and how a plan is made to fit it: more parts first, then fewer channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import BY_HAND, Plan
from stylegan2_cond.planning.table import format_value

GENERATOR_COPIES = 5  # of its weights: gradient, two moments of Adam, moving average
DISCRIMINATOR_COPIES = 4
LARGE_BLOCK = 2**25  # bytes; a CPU's heap returns larger blocks; what they hold counts
LARGE_SHARE = 0.65
BFLOAT16_SHARE = 0.6  # of the activations' memory in float32; measured 0.58 on a CPU
MASK_WIDTH = 32  # channels of the modulation by a given mask, as in the networks

# Fewest channels of each stage, fine to coarse. The finest stages take nearly all the memory; the coarse ones, of an
# eighth of the resolution and below, determine what is generated.
MIN_CHANNELS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Copies:
    """What lies in memory at the peak of a step, in float32.

    Attributes:
        activations: of all activations of one network, for the samples that are computed at once.
        given: more, where a mask modulates each stage, and features are compared.
        coded: of the coded pairs that are computed at once.
        kept: of the coded pairs of the whole batch.
        large_share: of blocks above `LARGE_BLOCK`.
    """

    activations: float
    given: float
    coded: float
    kept: float
    large_share: float


COPIES = {
    # The resident memory of a process, where gaps of the heap come on top of what is in use. Measured: 0.77 to 1.03 of
    # this estimate (47×34 at batch 16, 64×64 at 8, 160×128 with 4 channels at 4, 256×320 at 4, 32×32×32 at 4,
    # 28×44×33 at 8; three variants, 2 parts, 31 and 100 labels);
    # 1.35 for 64×64 at 8 parts of one sample, where 100 MiB matter little.
    "cpu": Copies(33, 11, coded=0, kept=16, large_share=LARGE_SHARE),
    # Not confirmed by a GPU. Of all tensors that live at once, as a CPU computes the same step in bfloat16, with a
    # quarter more for gaps and libraries: 5.9 of 10 · 0.6 activations for pairs, 6.7 coded, 2.7 kept (48×48, 32×32×32,
    # 9 and 40 coded channels, 1, 4 and 8 parts).
    "cuda": Copies(13, 9, coded=8, kept=4, large_share=1.0),
}


def training_bytes(plan: Plan, device: str = "cpu") -> int:
    """Estimated peak memory of a training step, in bytes: weights, and activations at their peak.

    Args:
        plan: of the samples that one process computes.
        device: type.
    """
    copies = COPIES["cuda" if device == "cuda" else "cpu"]
    coded = plan.codec.channels * math.prod(plan.patch_size)
    share = BFLOAT16_SHARE if plan.precision == "bfloat16" else 1.0
    step = share * (copies.activations + copies.given * plan.given_mask) * activations_at_once(plan, copies.large_share)
    step += coded * (copies.coded * part_size(plan) + copies.kept * plan.batch_size)
    generator, discriminator = count_parameters(plan)
    return int(4 * (GENERATOR_COPIES * generator + DISCRIMINATOR_COPIES * discriminator + step))


def part_size(plan: Plan) -> int:
    """Number of samples that are computed at once."""
    return -(-plan.batch_size // plan.accumulate)


def _sizes(plan: Plan) -> list[int]:
    """Voxels of each stage, coarse to fine."""
    lengths, voxels = list(plan.patch_size), [math.prod(plan.patch_size)]
    for factors in reversed(plan.factors):
        lengths = [-(-length // factor) for length, factor in zip(lengths, factors, strict=True)]
        voxels.insert(0, math.prod(lengths))
    return voxels


def activations_at_once(plan: Plan, large_share: float = 1.0) -> float:
    """Number of activations of all stages for the samples of a part; large blocks count by a share."""
    counts = [part_size(plan) * width * voxels for width, voxels in zip(plan.channels, _sizes(plan), strict=True)]
    return sum(count * (large_share if 4 * count > LARGE_BLOCK else 1.0) for count in counts)


def count_parameters(plan: Plan) -> tuple[int, int]:
    """Approximate number of weights of the generator and the discriminator."""
    kernel, base, channels = 3 ** len(plan.patch_size), _sizes(plan)[0], plan.channels
    still = kernel * sum(width * width for width in channels)
    between = kernel * sum(coarse * fine for coarse, fine in itertools.pairwise(channels))
    mapping = (2 * plan.latent_dim + (plan.mapping_layers - 1) * plan.style_dim) * plan.style_dim
    affines = plan.style_dim * 3 * sum(channels)
    masks = kernel * MASK_WIDTH * (2 * sum(channels) + len(channels) * len(plan.codec.labels)) * plan.given_mask
    return still + between + mapping + affines + masks, still + between + channels[0] * channels[0] * base


def fit_memory(plan: Plan, budget: int | None, processes: int = 1, device: str = "cpu") -> Plan:
    """The plan with a batch in more parts, and fewer channels, as far as the budget demands.

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
        if training_bytes(smallest, device) <= budget:
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
    """The plan, then plans with more parts, then with fewer channels; what was set by hand stays."""
    for channels in _fewer_channels(plan.channels) if plan.reasons.get("channels") != BY_HAND else (plan.channels,):
        accumulate = plan.accumulate
        while True:
            yield plan.model_copy(update={"channels": channels, "accumulate": accumulate})
            accumulate *= 2
            if plan.batch_size % accumulate or plan.reasons.get("accumulate") == BY_HAND:
                break


def _fewer_channels(channels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Halve the channels of one stage after the other, from the finest, in two steps each."""
    widths = list(channels)
    yield channels
    for level, width in enumerate(reversed(channels)):
        floor = MIN_CHANNELS[min(level, len(MIN_CHANNELS) - 1)]
        stage = len(channels) - 1 - level
        while widths[stage] > floor:
            widths[stage] = max(floor, widths[stage] - max(1, width // 4))
            yield tuple(widths)


def _with_reasons(before: Plan, after: Plan, budget: int | None, device: str) -> Plan:
    room = "one real step ran out of memory" if budget is None else f"{budget / 2**30:.3g} GiB are free"
    changed = [key for key in ("accumulate", "channels") if getattr(before, key) != getattr(after, key)]
    needed = training_bytes(before, device) / 2**30
    reasons = {
        key: f"instead of {format_value(getattr(before, key))}, which takes {needed:.3g} GiB: {room}" for key in changed
    }
    return after.model_copy(update={"reasons": after.reasons | reasons})
