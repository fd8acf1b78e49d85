"""Rules and defaults of the plan: each follows from nnU-Net's plans, the training cases or a published value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.fingerprint import Fingerprint
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning.plan import Variant


class Setting(NamedTuple):
    """A value for a key of the plan, and the reason for it."""

    value: object
    reason: str


# The values of keys that do not depend on the data.
DEFAULTS = {
    "latent_dim": Setting(128, "enough for cohorts; faces need 512"),
    "style_dim": Setting(128, "as long as the latent"),
    "mapping_layers": Setting(2, "enough for small data (Karras et al. 2020b)"),
    "apart_share": Setting(0.1, "share of the samples of which the discriminator sees image or mask alone"),
    "foreground_share": Setting(0.5, "classes fill few voxels; half of the patches lie around one of them"),
    "accumulate": Setting(1, "a whole batch at once fits the memory"),
    "cuda_graphs": Setting(False, "no GPU has confirmed yet that recorded steps train like others"),
    "learning_rate": Setting(0.0025, "Karras et al. 2020; halved by each rollback"),
    "r1_interval": Setting(16, "Karras et al. 2020, section 3.1"),
    "ema_share": Setting(0.05, "a half-life that grows with training; a fixed one keeps the first weights too long"),
    "augment_target": Setting(0.6, "Karras et al. 2020b, section 3.1; 'none' trains without augmentation"),
    "seed": Setting(0, "of all randomness"),
}
FILLED_SHARE = 0.95  # of the training images must fill the patch along each axis
MAX_BASE = 8  # voxels per axis of the coarsest stage, above which stages are added
FINEST_CHANNELS = 32
CHANNEL_LIMITS = ((64, 128), (128, 256), (math.inf, 512))  # up to which side of the patch, and how many channels
R1_PER_VOXEL = 0.0002  # γ = γ0 · voxels / batch size (Karras et al. 2020b)
MIN_R1 = 1.0  # below, the relativistic loss produced grainy images
AUGMENT_KIMG = (25.0, 100.0)  # limits of the ramp
MEMORIZED_AFTER = 20  # passes over the patches after which the discriminator may have memorized them
FEW_PATCHES = 1_000
# Weight of both losses of Wang et al. 2018 (pix2pixHD), section 3.1, where it is 10. Four times as much left images of
# Hippocampus smooth after 6,900 images; without these losses, edges were frayed, and masks fitted worse.
PAIRED_WEIGHT = 2.5
PASSES = 300  # over the patches in a whole training
KIMG = (50.0, 200.0)  # limits
LAUNCH_BOUND = 128  # side of a 2-D patch up to which starting kernels takes a GPU longer than they run (computed)
CUDA_HOURS = 8.0
CUDA_KIMG = 5000.0  # at most, unless hours are asked for


@dataclass(frozen=True)
class PlanInputs:
    """What settings of the training follow from.

    Attributes:
        variant: what is generated.
        patch_size: spatial size in voxels.
        patches: number of training patches that do not overlap.
        device: that trains.
        batch_size: images of a step.
    """

    variant: Variant
    patch_size: tuple[int, ...]
    patches: int
    device: torch.device
    batch_size: int


def choose_patch_size(limits: Sequence[int], sizes: np.ndarray) -> tuple[int, ...]:
    """The largest size within `limits` that `FILLED_SHARE` of the images, of `sizes` `[cases, dims]`, fill."""
    exceptions = math.floor(len(sizes) * (1 - FILLED_SHARE) + 1e-9)  # images that need not fill an axis
    filled = np.sort(sizes, axis=0)[exceptions]
    return tuple(int(min(limit, length)) for limit, length in zip(limits, filled, strict=True))


def check_patch_size(patch_size: Sequence[int], limits: Sequence[int]) -> tuple[int, ...]:
    """A requested patch size, if it lies within `limits`, nnU-Net's patch size, and a pyramid can reach it.

    Raises:
        UserError: it has another number of axes, or is too large or too small.
    """
    if len(patch_size) != len(limits):
        raise UserError(
            f"--patch-size has {len(patch_size)} sizes, the configuration has {len(limits)} dimensions: {list(limits)}."
        )
    least = [min(4, limit) for limit in limits]
    if any(not low <= length <= limit for low, length, limit in zip(least, patch_size, limits, strict=True)):
        raise UserError(
            f"--patch-size {list(patch_size)} must lie between {least} and the patch size of nnU-Net {list(limits)} on "
            f"each axis."
        )
    return tuple(patch_size)


def choose_factors(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Upsampling of each stage, coarse to fine: nnU-Net's strides, except those that would leave an axis below 4."""
    lengths = list(patch_size)
    fine_to_coarse: list[tuple[int, ...]] = []

    def descend(stride: Sequence[int]) -> None:
        taken = tuple(int(s) if -(-length // s) >= 4 else 1 for s, length in zip(stride, lengths, strict=True))
        if any(s != 1 for s in taken):
            fine_to_coarse.append(taken)
            lengths[:] = [-(-length // s) for length, s in zip(lengths, taken, strict=True)]

    for stride in strides:
        descend(stride)
    while max(lengths) > MAX_BASE:
        descend([2 if length > MAX_BASE else 1 for length in lengths])
    return tuple(reversed(fine_to_coarse))


def choose_channels(patch_size: Sequence[int], stages: int) -> tuple[int, ...]:
    """Channels of each stage, coarse to fine."""
    side = math.prod(patch_size) ** (1 / len(patch_size))
    most = next(channels for largest, channels in CHANNEL_LIMITS if side <= largest + 1e-9)
    return tuple(min(FINEST_CHANNELS * 2**level, most) for level in reversed(range(stages)))


def choose_codec(
    preprocessed: Preprocessed, fingerprint: Fingerprint, patch_size: Sequence[int], variant: Variant = "pair"
) -> Codec:
    """Intensity range, label channels, and values outside of the images; no image channels for masks alone."""
    padded = bool((fingerprint.sizes < np.array(patch_size)).any())
    constant = fingerprint.outside if fingerprint.has_outside else (0.0,) * len(fingerprint.low)
    if padded and constant is not None and any(abs(value) > 1e-6 for value in constant):
        constant = None  # nnU-Net's padding (0) and the dataset's own outside differ: the networks generate both
    has_outside = padded or fingerprint.has_outside
    labels = tuple(int(label) for label in preprocessed.label_manager.all_labels)
    codec = Codec(
        low=fingerprint.low,
        high=fingerprint.high,
        labels=(*labels, OUTSIDE) if has_outside else labels,
        outside=constant if has_outside else None,
        ignore=preprocessed.label_manager.ignore_label,
        channel_names=preprocessed.channel_names,
    )
    no_image = {"low": (), "high": (), "outside": None, "channel_names": ()} if variant == "mask" else {}
    return codec.model_copy(update=no_image)


def choose_batch_size(patch_size: Sequence[int], device: torch.device) -> Setting:
    """Patches of a step."""
    if len(patch_size) == 3:
        return Setting(8, "volumes hold as much as many slices")
    if device.type == "cuda" and max(patch_size) <= LAUNCH_BOUND:
        return Setting(32, f"up to {LAUNCH_BOUND}², 16 would leave a GPU idle between its kernels")
    return Setting(16, "small, many steps an hour")


def training_settings(inputs: PlanInputs) -> dict[str, Setting]:
    """The defaults, and the settings that follow from the data and the device."""
    patches = inputs.patches
    r1_weight = max(MIN_R1, R1_PER_VOXEL * math.prod(inputs.patch_size) / inputs.batch_size)
    augment_kimg = np.clip(MEMORIZED_AFTER * patches / 1000, *AUGMENT_KIMG)
    kimg = np.clip(PASSES * patches / 1000, *KIMG)
    paired = Setting(0.0, "no mask is given, so there is no real image to compare with")
    if inputs.variant == "image":  # with many patches, the adversarial loss teaches texture without it
        weight = PAIRED_WEIGHT * min(1.0, math.sqrt(FEW_PATCHES / patches))
        paired = Setting(
            _two_digits(weight), f"{PAIRED_WEIGHT:g} up to {FEW_PATCHES:,} patches, less with more of them"
        )
    return DEFAULTS | {
        "precision": choose_precision(inputs.device),
        "r1_weight": Setting(_two_digits(r1_weight), f"{R1_PER_VOXEL:g} · voxels / batch size, at least {MIN_R1:g}"),
        "augment_kimg": Setting(
            _two_digits(augment_kimg),
            f"the discriminator memorizes {patches:,} patches after about {MEMORIZED_AFTER} passes",
        ),
        "feature_weight": paired,
        "l1_weight": paired,
        "kimg": Setting(
            _two_digits(kimg),
            f"{PASSES} passes over {patches:,} patches, between {KIMG[0]:g} and {KIMG[1]:g}",
        ),
    }


def default_hours(device: torch.device) -> float | None:
    """Hours of training that nobody asked for; None if its length follows from the data alone."""
    return CUDA_HOURS if device.type == "cuda" else None


def choose_length(hours: float, seconds: float, *, most: float) -> Setting:
    """`kimg` for so many hours, if 1,000 images take so many seconds; at most `most`."""
    kimg = _two_digits(min(hours * 3600 / seconds, most))
    return Setting(kimg, f"{hours:g} hours, as 1,000 images take {_two_digits(seconds):g} s; at most {most:,.0f}")


def choose_precision(device: torch.device) -> Setting:
    """The fastest precision that the device supports and training tolerates."""
    if device.type != "cuda":
        return Setting("float32", f"no lower precision has been tried on the device {device}")
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Setting("bfloat16", "supported by the device")
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Setting("tf32", "the device supports TF32, but not bfloat16")
    return Setting("float32", "the device supports neither bfloat16 nor TF32")


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
