"""What a training step takes of a device's memory, as far as a plan can tell."""

from __future__ import annotations

import itertools
import math

from stylegan2_cond.planning.plan import Plan

# Copies of all activations of one network, and of all that is coded, at the peak of a step: the resident memory of a
# CPU process, where gaps of the heap come on top of what is in use. Measured: 0.77 to 1.03 of what this foretells
# (47×34 at batch 16, 64×64 at 8, 160×128 with 4 channels at 4, 256×320 at 4, 32×32×32 at 4, 28×44×33 at 8; three
# variants, both losses, path lengths, judges of each part, 2 parts, 31 and 100 labels).
ACTIVATION_COPIES = 30
GIVEN_COPIES = 11  # more, where a mask modulates each stage, and features are compared
RELATIVISTIC_COPIES = 3  # more, since the generator's loss looks at real pairs too
PATH_COPIES = 2  # more, for a second derivative of the generator
JUDGE_COPIES = 12  # more for each part that has a judge of its own, half as wide
STEP_CODED_COPIES = 16  # of the coded pairs
CODING_COPIES = 36  # of the coded pairs of the whole batch, while masks are coded and nothing else is there
GENERATOR_COPIES = 5  # of its weights: gradient, two moments of Adam, moving average
DISCRIMINATOR_COPIES = 4
LARGE_BLOCK = 2**25  # bytes; the heap gives larger blocks back, and what lies in them takes
LARGE_SHARE = 0.65  # of the copies
BFLOAT16_SHARE = 0.6  # of the activations' memory that is left with half precision; not measured, but tried
MASK_WIDTH = 32  # of what modulates by a given mask, as the networks have it


def training_bytes(plan: Plan) -> int:
    """Estimated peak memory of a training step: weights, and activations at the hungriest moment."""
    coded = plan.batch_size * plan.codec.channels * math.prod(plan.canvas)
    share = BFLOAT16_SHARE if plan.precision == "bfloat16" else 1.0
    step = share * _activation_copies(plan) * activations_at_once(plan, LARGE_SHARE) + STEP_CODED_COPIES * coded
    generator, discriminator = count_parameters(plan)
    weights = GENERATOR_COPIES * generator + DISCRIMINATOR_COPIES * discriminator
    return int(4 * (weights + max(step, CODING_COPIES * coded)))


def _activation_copies(plan: Plan) -> int:
    return (
        ACTIVATION_COPIES
        + GIVEN_COPIES * plan.given_mask
        + RELATIVISTIC_COPIES * (plan.loss == "relativistic")
        + PATH_COPIES * (plan.path_length_weight > 0)
        + JUDGE_COPIES * _further_judges(plan)
    )


def _further_judges(plan: Plan) -> int:
    """Of the image, and of the mask unless it is given, alone."""
    return (1 if plan.given_mask else 2) if plan.judge_apart and plan.codec.image_channels else 0


def _sizes(plan: Plan) -> list[int]:
    """Voxels of each stage, coarse to fine."""
    lengths, voxels = list(plan.canvas), [math.prod(plan.canvas)]
    for factors in reversed(plan.factors):
        lengths = [-(-length // factor) for length, factor in zip(lengths, factors, strict=True)]
        voxels.insert(0, math.prod(lengths))
    return voxels


def activations_at_once(plan: Plan, large_share: float = 1.0) -> float:
    """One number for each sample of a part, channel and voxel of each stage; of large blocks, a share."""
    part = -(-plan.batch_size // plan.accumulate)
    counts = [part * width * voxels for width, voxels in zip(plan.channels, _sizes(plan), strict=True)]
    return sum(count * (large_share if 4 * count > LARGE_BLOCK else 1.0) for count in counts)


def count_parameters(plan: Plan) -> tuple[int, int]:
    """Weights of generator and discriminator, but for such as hardly count."""
    kernel, base, channels = 3 ** len(plan.canvas), _sizes(plan)[0], plan.channels
    still = kernel * sum(width * width for width in channels)
    between = kernel * sum(coarse * fine for coarse, fine in itertools.pairwise(channels))
    mapping = (2 * plan.latent_dim + (plan.mapping_layers - 1) * plan.style_dim) * plan.style_dim
    affines = plan.style_dim * 3 * sum(channels)
    masks = kernel * MASK_WIDTH * (2 * sum(channels) + len(channels) * len(plan.codec.labels)) * plan.given_mask
    whole = still + between + channels[0] * channels[0] * base
    return still + between + mapping + affines + masks, int((1 + _further_judges(plan) / 4) * whole)
