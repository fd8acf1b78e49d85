"""The plan's single choices: each follows from nnU-Net's plans, or from one look at the training cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.fingerprint import Survey
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import DEFAULT_KIMG, Plan, Variant

FILLED_SHARE = 0.95  # of the training images must fill the patch along each axis
LARGEST_BASE = 8  # voxels per axis of the coarsest stage, above which stages are added
FINEST_CHANNELS = 32
CHANNEL_LIMITS = ((64, 128), (128, 256), (math.inf, 512))  # up to which side of the patch, and how many channels

BATCH_SIZE = {2: 16, 3: 8}  # by the number of axes; a volume holds as much as many slices
R1_PER_VOXEL = 0.0002  # γ = γ0 · voxels / batch size (Karras et al. 2020b)
LEAST_R1 = 1.0  # at 0.1, the relativistic loss grains
APART_SHARE = 0.1
AUGMENT_TARGET = 0.6  # Karras et al. 2020b, section 3.1
AUGMENT_KIMG = (25.0, 100.0)  # of the ramp, at least and at most
KNOWN_AFTER = 20  # times that the discriminator has seen each patch, by when it may know them by heart
FEW_PATCHES = 1_000
# Of the losses of Wang et al. 2018 (pix2pixHD), section 3.1, where the weight is 10. Four times as much as now left
# images of Hippocampus smooth after 6,900 images; without them, edges were frayed, and masks fitted less.
FEATURE_WEIGHT = 2.5
L1_WEIGHT = 2.5
SEEN_OFTEN = 300  # times that each patch is seen in a whole training
LEAST_KIMG = 50.0


class Choice(NamedTuple):
    """A value for a key of the plan, and the reason for it."""

    value: object
    reason: str


@dataclass(frozen=True)
class Facts:
    """What choices about the training follow from.

    Attributes:
        variant: what is drawn.
        patch_size: spatial size in voxels.
        patches: how many training patches there are that do not overlap.
        device: that trains.
        batch_size: images of a step.
    """

    variant: Variant
    patch_size: tuple[int, ...]
    patches: int
    device: torch.device
    batch_size: int


def choose_patch_size(patch: Sequence[int], sizes: np.ndarray) -> tuple[int, ...]:
    """Largest size within the patch that `FILLED_SHARE` of the images, `sizes` `[cases, dims]`, fill on each axis."""
    exceptions = math.floor(len(sizes) * (1 - FILLED_SHARE) + 1e-9)  # images that need not fill an axis
    filled = np.sort(sizes, axis=0)[exceptions]
    return tuple(int(min(limit, length)) for limit, length in zip(patch, filled, strict=True))


def check_patch_size(patch_size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """A patch that was asked for, if a pyramid can reach it within the patch.

    Raises:
        UserError: it has another number of axes, or is too large or too small.
    """
    if len(patch_size) != len(patch):
        raise UserError(
            f"--patch-size has {len(patch_size)} sizes, the configuration has {len(patch)} dimensions: {list(patch)}."
        )
    least = [min(4, limit) for limit in patch]
    if any(not low <= length <= limit for low, length, limit in zip(least, patch_size, patch, strict=True)):
        raise UserError(
            f"--patch-size {list(patch_size)} must lie between {least} and the patch size {list(patch)} on each axis."
        )
    return tuple(patch_size)


def choose_factors(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Upsampling of each stage, coarse to fine: nnU-Net's strides, without such as would leave an axis below 4."""
    lengths = list(patch_size)
    fine_to_coarse: list[tuple[int, ...]] = []

    def descend(stride: Sequence[int]) -> None:
        taken = tuple(int(s) if -(-length // s) >= 4 else 1 for s, length in zip(stride, lengths, strict=True))
        if any(s != 1 for s in taken):
            fine_to_coarse.append(taken)
            lengths[:] = [-(-length // s) for length, s in zip(lengths, taken, strict=True)]

    for stride in strides:
        descend(stride)
    while max(lengths) > LARGEST_BASE:
        descend([2 if length > LARGEST_BASE else 1 for length in lengths])
    return tuple(reversed(fine_to_coarse))


def choose_channels(patch_size: Sequence[int], stages: int) -> tuple[int, ...]:
    """Channels of each stage, coarse to fine."""
    side = math.prod(patch_size) ** (1 / len(patch_size))
    most = next(channels for largest, channels in CHANNEL_LIMITS if side <= largest + 1e-9)
    return tuple(min(FINEST_CHANNELS * 2**level, most) for level in reversed(range(stages)))


def choose_codec(
    preprocessed: Preprocessed, seen: Survey, patch_size: Sequence[int], variant: Variant = "pair"
) -> Codec:
    """Intensity range, label channels, and what lies outside of the images; no image channels for masks alone."""
    padded = bool((seen.sizes < np.array(patch_size)).any())
    constant = seen.outside if seen.has_outside else (0.0,) * len(seen.low)
    if padded and constant is not None and any(abs(value) > 1e-6 for value in constant):
        constant = None  # nnU-Net's padding (0) and the dataset's own outside differ: the networks draw both
    has_outside = padded or seen.has_outside
    labels = tuple(int(label) for label in preprocessed.label_manager.all_labels)
    codec = Codec(
        low=seen.low,
        high=seen.high,
        labels=(*labels, OUTSIDE) if has_outside else labels,
        outside=constant if has_outside else None,
        ignore=preprocessed.label_manager.ignore_label,
        channel_names=preprocessed.channel_names,
    )
    return (
        codec.model_copy(update={"low": (), "high": (), "outside": None, "channel_names": ()})
        if variant == "mask"
        else codec
    )


def choose_batch_size(dims: int) -> Choice:
    """Images of a step."""
    return Choice(BATCH_SIZE[dims], "volumes hold as much as many slices" if dims == 3 else "small, many steps an hour")


def choose_precision(facts: Facts) -> Choice:
    """The fastest number format that the device computes in, and that training bears."""
    device = facts.device
    if device.type != "cuda":
        return Choice("float32", f"the device, {device}, gains nothing by less")
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bfloat16", "the device has it")
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Choice("tf32", "the device has no bfloat16, but TF32")
    return Choice("float32", "the device has neither bfloat16 nor TF32")


def choose_r1_weight(facts: Facts) -> Choice:
    """Gradients of a score add up over voxels, and so must their penalty."""
    weight = max(LEAST_R1, R1_PER_VOXEL * math.prod(facts.patch_size) / facts.batch_size)
    return Choice(_two_digits(weight), f"{R1_PER_VOXEL:g} · voxels / batch size, at least {LEAST_R1:g}")


def choose_apart_share(facts: Facts) -> Choice:
    """Share of the samples of which the judge is shown the image or the mask alone."""
    return Choice(APART_SHARE, "of the samples, image or mask is judged alone")


def choose_augment_target(facts: Facts) -> Choice:
    """The overfitting signal that augmentation keeps to."""
    return Choice(AUGMENT_TARGET, "Karras et al. 2020b; 'none' trains without augmentation")


def choose_augment_kimg(facts: Facts) -> Choice:
    """The fewer the patches, the sooner a discriminator knows them by heart."""
    least, most = AUGMENT_KIMG
    kimg = _two_digits(min(most, max(least, KNOWN_AFTER * facts.patches / 1000)))
    return Choice(kimg, f"{facts.patches:,} patches are known by heart after {KNOWN_AFTER} looks or so")


def choose_feature_weight(facts: Facts) -> Choice:
    """Of the distance to the real image of a given mask, in the discriminator's features."""
    return _paired_weight(facts, FEATURE_WEIGHT)


def choose_l1_weight(facts: Facts) -> Choice:
    """Of the distance to the real image of a given mask, voxel by voxel."""
    return _paired_weight(facts, L1_WEIGHT)


def choose_kimg(facts: Facts) -> Choice:
    """Few patches are learnt, and then copied, sooner."""
    kimg = _two_digits(min(DEFAULT_KIMG, max(LEAST_KIMG, SEEN_OFTEN * facts.patches / 1000)))
    return Choice(
        kimg,
        f"{SEEN_OFTEN} looks at {facts.patches:,} patches, within {LEAST_KIMG:g} and {DEFAULT_KIMG:g}",
    )


TRAINING_CHOICES: dict[str, Callable[[Facts], Choice]] = {
    "precision": choose_precision,
    "r1_weight": choose_r1_weight,
    "apart_share": choose_apart_share,
    "augment_target": choose_augment_target,
    "augment_kimg": choose_augment_kimg,
    "feature_weight": choose_feature_weight,
    "l1_weight": choose_l1_weight,
    "kimg": choose_kimg,
}

# Keys whose default stands in the plan, since nothing in the data changes it.
FIXED = {
    "latent_dim": "enough for cohorts, not for faces (512 there)",
    "style_dim": "as long as the latent",
    "mapping_layers": "shallow ones suffice on small data (Karras et al. 2020b)",
    "foreground_share": "classes fill few voxels; half of the patches lie around one of them",
    "learning_rate": "Karras et al. 2020; halved by each return to a checkpoint",
    "r1_interval": "Karras et al. 2020, section 3.1",
    "ema_share": "a half-life that grows with training; a fixed one keeps the first weights too long",
}


def fixed_choices() -> dict[str, Choice]:
    """The plan's defaults that do not depend on the data."""
    return {key: Choice(Plan.model_fields[key].default, reason) for key, reason in FIXED.items()}


def _paired_weight(facts: Facts, most: float) -> Choice:
    """Full weight for few patches; with many, the adversarial loss teaches texture without such a crutch."""
    if facts.variant != "image":
        return Choice(0.0, "no mask is given, so there is no real image to compare with")
    weight = most * min(1.0, math.sqrt(FEW_PATCHES / facts.patches))
    return Choice(_two_digits(weight), f"{most:g} up to {FEW_PATCHES:,} patches, less the more there are")


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
