"""The generator's self-configuration: what nnU-Net's plans and one look at the training cases decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.data.canvases import Canvases
from stylegan2_cond.data.codec import Codec
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.preprocessed import OUTSIDE, Fold, Preprocessed, require_folder
from stylegan2_cond.data.survey import Survey
from stylegan2_cond.documents import Document
from stylegan2_cond.errors import UserError

FILLED_SHARE = 0.95  # of the training images must fill the canvas along each axis
LARGEST_BASE = 8  # voxels per axis of the coarsest stage, above which stages are added
FINEST_CHANNELS = 32
CONDITION_CANVASES = 2000  # drawn to see how often which condition occurs
DEFAULT_KIMG = 200.0
SNAPSHOTS = 20  # of a whole training
# Float32 copies of all activations of one network at the peak of a step; 29 to 36 measured on a CPU (48×32 at batch 16,
# 64×64 at 8, 32×32×32 at 4).
ACTIVATION_COPIES = 36


class Source(BaseModel):
    """Where a generator's training cases came from; a bank carries it on, and the leak guard reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset_name: str
    plans_name: str
    configuration: str
    data_identifier: str
    preprocessing: str  # fingerprint of what decides the values of preprocessed voxels
    fold: str
    training_cases: tuple[str, ...]

    @classmethod
    def of(cls, preprocessed: Preprocessed, fold: Fold) -> Source:
        return cls(
            dataset_name=preprocessed.dataset_name,
            plans_name=preprocessed.plans_name,
            configuration=preprocessed.configuration_name,
            data_identifier=preprocessed.configuration.data_identifier,
            preprocessing=preprocessed.fingerprint,
            fold=fold.name,
            training_cases=fold.training,
        )


class Plan(Document):
    """Everything that training a generator depends on, and the reason for each choice that was made."""

    remedy: ClassVar[str] = "Mend the key, or delete the file; training then makes a new plan."
    variant: Literal["pair"] = "pair"
    source: Source
    canvas: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    codec: Codec
    conditions: Conditions
    latent_dim: int = 128
    style_dim: int = 128
    mapping_layers: int = 2
    foreground_share: float = 0.5
    batch_size: int = 16
    learning_rate: float = 0.0025
    r1_weight: float = 0.1
    r1_interval: int = 16
    ema_share: float = 0.05  # half-life of the weights' moving average, as a share of the images seen so far
    kimg: float = DEFAULT_KIMG
    seed: int = 0
    reasons: dict[str, str] = Field(default_factory=dict)


def make_plan(
    preprocessed: Preprocessed,
    fold: Fold,
    seen: Survey,
    *,
    canvas: Sequence[int] | None = None,
    kimg: float | None = None,
    seed: int = 0,
    free_bytes: int | None = None,
) -> Plan:
    """Derive a plan.

    Args:
        preprocessed: dataset and configuration.
        fold: of which the training cases are learnt from.
        seen: the survey of those cases.
        canvas: instead of the derived one.
        kimg: thousands of real images to train on, instead of the default.
        seed: of all randomness in training.
        free_bytes: memory that training may take; unlimited, when None.

    Raises:
        UserError: the canvas does not fit the patch size, the pyramid or the memory.
    """
    patch = preprocessed.patch_size
    canvas = choose_canvas(patch, seen.sizes) if canvas is None else _checked_canvas(canvas, patch)
    factors = choose_factors(canvas, preprocessed.configuration.pool_op_kernel_sizes)
    plan = Plan(
        source=Source.of(preprocessed, fold),
        canvas=canvas,
        factors=factors,
        channels=choose_channels(canvas, len(factors) + 1),
        codec=choose_codec(preprocessed, seen, canvas),
        conditions=Conditions(classes=(), combinations=((),), shares=(1.0,)),
        kimg=DEFAULT_KIMG if kimg is None else kimg,
        seed=seed,
        reasons={
            "canvas": f"at most the patch size {list(patch)}, and filled by {FILLED_SHARE:.0%} of the training images",
            "factors": f"strides of nnU-Net's plan read backwards, stages added while the base exceeds {LARGEST_BASE}",
            "channels": f"{FINEST_CHANNELS} at the canvas, doubling to a limit that grows with the canvas",
            "codec": "robust intensity range of the training cases",
            "foreground_share": "classes fill few voxels; half of the canvases lie around one of them",
        },
    )
    _check_memory(plan, free_bytes)
    classes = [int(label) for label in preprocessed.label_manager.all_labels if label != 0]
    return plan.model_copy(update={"conditions": _conditions(preprocessed, plan, classes)})


def run_folder(source: Source, variant: str = "pair") -> Path:
    """Where a generator of this source lives: plan, checkpoint, previews and snapshots."""
    model = f"StyleGAN2Cond_{variant}__{source.plans_name}__{source.configuration}"
    return require_folder("nnUNet_results") / source.dataset_name / model / f"fold_{source.fold}"


def choose_canvas(patch: Sequence[int], sizes: np.ndarray) -> tuple[int, ...]:
    """Largest size within the patch that `FILLED_SHARE` of the images, `sizes` `[cases, dims]`, fill on each axis."""
    exceptions = math.floor(len(sizes) * (1 - FILLED_SHARE) + 1e-9)  # images that need not fill an axis
    filled = np.sort(sizes, axis=0)[exceptions]
    return tuple(int(min(limit, length)) for limit, length in zip(patch, filled, strict=True))


def choose_factors(canvas: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Upsampling of each stage, coarse to fine: nnU-Net's strides, without such as would leave an axis below 4."""
    lengths = list(canvas)
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


def choose_channels(canvas: Sequence[int], stages: int) -> tuple[int, ...]:
    """Channels of each stage, coarse to fine."""
    side = math.prod(canvas) ** (1 / len(canvas))
    limit = 128 if side <= 64 else 256 if side <= 128 else 512
    return tuple(min(FINEST_CHANNELS * 2**level, limit) for level in reversed(range(stages)))


def choose_codec(preprocessed: Preprocessed, seen: Survey, canvas: Sequence[int]) -> Codec:
    """Intensity range, label channels, and what lies outside of the images."""
    padded = bool((seen.sizes < np.array(canvas)).any())
    constant = seen.outside if seen.has_outside else (0.0,) * len(seen.low)
    if padded and constant is not None and any(abs(value) > 1e-6 for value in constant):
        constant = None  # nnU-Net's padding (0) and the dataset's own outside differ: the networks draw both
    has_outside = padded or seen.has_outside
    labels = tuple(int(label) for label in preprocessed.label_manager.all_labels)
    return Codec(
        low=seen.low,
        high=seen.high,
        labels=(*labels, OUTSIDE) if has_outside else labels,
        outside=constant if has_outside else None,
        ignore=preprocessed.label_manager.ignore_label,
    )


def training_bytes(plan: Plan) -> int:
    """Rough peak memory of a training step, which the activations of both networks decide."""
    lengths, per_image = list(plan.canvas), 0
    for width, factors in zip(reversed(plan.channels), (*reversed(plan.factors), (1,) * len(lengths)), strict=True):
        per_image += width * math.prod(lengths)
        lengths = [-(-length // factor) for length, factor in zip(lengths, factors, strict=True)]
    return 4 * ACTIVATION_COPIES * per_image * plan.batch_size


def _conditions(preprocessed: Preprocessed, plan: Plan, classes: Sequence[int]) -> Conditions:
    stream = Canvases(
        preprocessed,
        plan.source.training_cases,
        plan.canvas,
        foreground_share=plan.foreground_share,
        seed=plan.seed,
    )
    labels = np.stack([stream.draw(index)[1] for index in range(CONDITION_CANVASES)])
    return Conditions.from_labels(classes, labels)


def _checked_canvas(canvas: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    if len(canvas) != len(patch):
        raise UserError(
            f"--canvas has {len(canvas)} sizes, the configuration has {len(patch)} dimensions: {list(patch)}."
        )
    least = [min(4, limit) for limit in patch]
    if any(not low <= length <= limit for low, length, limit in zip(least, canvas, patch, strict=True)):
        raise UserError(
            f"--canvas {list(canvas)} must lie between {least} and the patch size {list(patch)} on each axis."
        )
    return tuple(canvas)


def _check_memory(plan: Plan, free: int | None) -> None:
    needed = training_bytes(plan)
    if free is not None and needed > free:
        raise UserError(
            f"Training at canvas {list(plan.canvas)} needs about {needed / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are "
            f"free. Close other programs, or draw a smaller part of the images: --canvas {smaller_canvas(plan.canvas)}"
        )


def smaller_canvas(canvas: Sequence[int]) -> str:
    """Half the canvas, as the option is typed."""
    return ",".join(str(max(4, length // 2)) for length in canvas)


def available_bytes() -> int | None:
    """Memory that this machine can give without swapping (Linux); None where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
