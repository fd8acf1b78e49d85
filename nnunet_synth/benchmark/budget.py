"""How much computing goes into a run: nnU-Net's own amount, or so little that a machine without a GPU does dozens."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from nnunet_synth.benchmark.options import BenchmarkOptions
from stylegan2_cond.errors import UserError

BLOCK = "benchmark"  # of a configuration in a plans file
SUFFIX = "_benchmark"  # of the name of a trainer that reads the block


class TrainingLength(BaseModel):
    """The `benchmark` block of a configuration; what is None is left to the trainer.

    Attributes:
        epochs: number of epochs.
        iterations: iterations per epoch.
        validation_iterations: iterations per epoch for nnU-Net's running Dice, which decides nothing here.
        mirroring: whether the test cases are predicted with all mirrorings, as nnU-Net does.
        adamw: initial learning rate of AdamW, which replaces SGD with momentum 0.99 where trainings are short; it
            decays as nnU-Net's does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    validation_iterations: int | None = Field(default=None, ge=1)
    mirroring: bool = True
    adamw: float | None = Field(default=None, gt=0)


NNUNET_EPOCHS, NNUNET_ITERATIONS = 1000, 250  # nnUNetTrainer's own
# Hippocampus 2d, 8 cases, after 800 steps: Dice 0.70 with SGD at 0.05, 0.77 with AdamW at 0.003, 0.72 at 0.012.
# With 4 cases, runs have a standard deviation of 1.2 Dice points after 1,000 steps, 1.4 after 2,000, 0.2 after 4,000,
# while all true labels gain 4.4, 5.0 and 5.3: studies/six_datasets.
QUICK_STEPS, QUICK_ITERATIONS = 4000, 50  # of a training, and of an epoch
QUICK_LENGTH = TrainingLength(
    epochs=QUICK_STEPS // QUICK_ITERATIONS,
    iterations=QUICK_ITERATIONS,
    validation_iterations=1,
    mirroring=False,
    adamw=3e-3,
)
QUICK_KIMG = 8.0
QUICK_SAMPLES, FULL_SAMPLES = 500, 5000
FIRST_FEATURES, MAX_FEATURES = 8, 64
VOXELS_PER_BATCH = 8 * 56 * 40
MIN_BATCH, MAX_BATCH = 2, 8


class Budget(BaseModel):
    """The amount of computing, which is the same for all arms.

    Attributes:
        quick: nnU-Net is narrower than planned.
        length: length of nnU-Net's training.
        kimg: thousands of images that a generator is trained on; None for the default of its plan.
        bank_samples: size of a bank.
        evaluation_samples: samples that a generator is evaluated by; None for the default of `stylegan2-cond evaluate`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    quick: bool = False
    length: TrainingLength = TrainingLength()
    kimg: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bank_samples: int = Field(default=FULL_SAMPLES, ge=1)
    evaluation_samples: int | None = Field(default=None, ge=20)

    @property
    def epochs(self) -> int:
        """Number of epochs of nnU-Net's training."""
        return self.length.epochs or NNUNET_EPOCHS

    @property
    def iterations(self) -> int:
        """Iterations of nnU-Net's training, all epochs together."""
        return self.epochs * (self.length.iterations or NNUNET_ITERATIONS)


def choose_budget(options: BenchmarkOptions) -> Budget:
    """The quick or the full budget, with the user's own numbers; steps are rounded up to whole epochs.

    Raises:
        UserError: an endless training.
    """
    if options.kimg is not None and not math.isfinite(options.kimg):
        raise UserError(f"--kimg {options.kimg} is not a number of images. Type for example --kimg {QUICK_KIMG:g}")
    length = QUICK_LENGTH if options.quick else TrainingLength()
    if steps := options.steps:
        iterations = min(steps, length.iterations or NNUNET_ITERATIONS)
        length = length.model_copy(update={"epochs": math.ceil(steps / iterations), "iterations": iterations})
    return Budget(
        quick=options.quick,
        length=length,
        kimg=options.kimg or (QUICK_KIMG if options.quick else None),
        bank_samples=QUICK_SAMPLES if options.quick else FULL_SAMPLES,
        evaluation_samples=QUICK_SAMPLES if options.quick else None,
    )


def apply_budget(plans: Mapping, configuration: str, budget: Budget) -> dict:
    """A copy of nnU-Net's plans with the budget's length, and if quick a narrow network and small batches."""
    changed = {**plans["configurations"][configuration]}
    changed[BLOCK] = budget.length.model_dump(exclude_none=True)
    if budget.quick:
        arguments = {**changed["architecture"]["arch_kwargs"]}
        arguments["features_per_stage"] = [
            min(features, FIRST_FEATURES * 2**stage, MAX_FEATURES)
            for stage, features in enumerate(arguments["features_per_stage"])
        ]
        changed["architecture"] = {**changed["architecture"], "arch_kwargs": arguments}
        fitting = round(VOXELS_PER_BATCH / math.prod(changed["patch_size"]))
        changed["batch_size"] = min(changed["batch_size"], max(MIN_BATCH, min(MAX_BATCH, fitting)))
    return {**plans, "configurations": {**plans["configurations"], configuration: changed}}


def network_size(plans: Mapping, configuration: str, budget: Budget) -> dict[str, int | tuple[int, ...]]:
    """Features per stage and batch size of nnU-Net under a budget."""
    changed = apply_budget(plans, configuration, budget)["configurations"][configuration]
    features = changed["architecture"]["arch_kwargs"]["features_per_stage"]
    return {"features": tuple(features), "batch_size": changed["batch_size"]}
