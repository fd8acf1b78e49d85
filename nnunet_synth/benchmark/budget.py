"""How much work goes into a cell: nnU-Net's own amount, or so little that a machine without a GPU does dozens."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.errors import UserError

BLOCK = "benchmark"  # of a configuration in a plans file
SUFFIX = "_benchmark"  # of the name of a trainer that reads the block


class Length(BaseModel):
    """The `benchmark` block of a configuration; what is None is left to the trainer.

    Attributes:
        epochs: of a training.
        iterations: of an epoch.
        validation_iterations: of an epoch, for nnU-Net's running Dice, which decides nothing here.
        mirroring: whether the test cases are predicted with all mirrorings, as nnU-Net does.
        adamw: initial learning rate of AdamW, which takes the place of SGD with momentum 0.99 where trainings are
            short; it decays as nnU-Net's does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    validation_iterations: int | None = Field(default=None, ge=1)
    mirroring: bool = True
    adamw: float | None = Field(default=None, gt=0)


NNUNET_EPOCHS, NNUNET_ITERATIONS = 1000, 250  # nnUNetTrainer's own
# Hippocampus 2d, 8 cases, after 800 steps: Dice 0.70 with SGD at 0.05, 0.77 with AdamW at 0.003, 0.72 at 0.012.
QUICK_LENGTH = Length(epochs=20, iterations=50, validation_iterations=1, mirroring=False, adamw=3e-3)
QUICK_KIMG = 8.0
QUICK_SAMPLES, FULL_SAMPLES = 500, 5000
FIRST_FEATURES, MOST_FEATURES = 8, 64
VOXELS = 8 * 56 * 40  # of a batch, about
LARGEST_BATCH, SMALLEST_BATCH = 8, 2


class Effort(BaseModel):
    """The amount of work, which is the same for all arms.

    Attributes:
        quick: nnU-Net is narrower than planned.
        length: of nnU-Net's training.
        kimg: thousands of images that a generator sees; None is what its plan derives.
        samples: of a bank.
        judged: samples that a generator is judged by; None is what `stylegan2-cond evaluate` takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    quick: bool = False
    length: Length = Length()
    kimg: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    samples: int = Field(default=FULL_SAMPLES, ge=1)
    judged: int | None = Field(default=None, ge=20)

    @property
    def epochs(self) -> int:
        return self.length.epochs or NNUNET_EPOCHS

    @property
    def iterations(self) -> int:
        """Of an epoch."""
        return self.length.iterations or NNUNET_ITERATIONS


def choose_effort(
    *, quick: bool, epochs: int | None = None, iterations: int | None = None, kimg: float | None = None
) -> Effort:
    """The quick or the full amount, with what was asked for in its place.

    Raises:
        UserError: an endless training.
    """
    if kimg is not None and not math.isfinite(kimg):
        raise UserError(f"--kimg {kimg} is not a number of images. Type for example --kimg {QUICK_KIMG:g}")
    length = QUICK_LENGTH if quick else Length()
    asked = {key: value for key, value in {"epochs": epochs, "iterations": iterations}.items() if value is not None}
    return Effort(
        quick=quick,
        length=length.model_copy(update=asked),
        kimg=kimg or (QUICK_KIMG if quick else None),
        samples=QUICK_SAMPLES if quick else FULL_SAMPLES,
        judged=QUICK_SAMPLES if quick else None,
    )


def with_effort(plans: Mapping, configuration: str, effort: Effort) -> dict:
    """A copy of plans whose configuration has the effort's length, and if quick a narrow network and small batches."""
    changed = {**plans["configurations"][configuration]}
    changed[BLOCK] = effort.length.model_dump(exclude_none=True)
    if effort.quick:
        arguments = {**changed["architecture"]["arch_kwargs"]}
        arguments["features_per_stage"] = narrow(arguments["features_per_stage"])
        changed["architecture"] = {**changed["architecture"], "arch_kwargs": arguments}
        changed["batch_size"] = small_batch(changed["batch_size"], changed["patch_size"])
    return {**plans, "configurations": {**plans["configurations"], configuration: changed}}


def narrow(features: list[int]) -> list[int]:
    """8, doubling to 64; never more than there were."""
    return [min(old, FIRST_FEATURES * 2**stage, MOST_FEATURES) for stage, old in enumerate(features)]


def small_batch(batch: int, patch: list[int]) -> int:
    """About as many voxels as 8 slices of 56 × 40, between 2 and 8 patches, and never more than there were."""
    return min(batch, max(SMALLEST_BATCH, min(LARGEST_BATCH, round(VOXELS / math.prod(patch)))))
