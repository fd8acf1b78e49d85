"""Speed and memory of a training step and of sampling."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.io import Document
from stylegan2_cond.memory import keep_freed_memory
from stylegan2_cond.planning import Plan, Source
from stylegan2_cond.planning.heuristics import (
    FINEST_CHANNELS,
    PlanInputs,
    choose_batch_size,
    choose_channels,
    training_settings,
)
from stylegan2_cond.speed.reference import reference_ops
from stylegan2_cond.speed.timing import Timing, compare_times, time_calls
from stylegan2_cond.training.profile_step import measure_step_here, random_patches
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import take_step

LABELS = (0, 1, 2)
TYPICAL_P = 0.5  # probability of each augmentation: what trainings on 8 cases of Hippocampus and 14 of ACDC came to


class StepSpeed(Document):
    """Speed of the training steps of one patch size.

    Attributes:
        patch_size, batch_size, channels: of the plan.
        plain: seconds of a step.
        penalized: seconds of a step with R1 and R2, one in `r1_interval`.
        memory: peak bytes of a penalized step, ours and the reference's.
        operations: of PyTorch in a plain step, and in a penalized one.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    channels: tuple[int, ...]
    r1_interval: int
    plain: Timing
    penalized: Timing
    memory: tuple[int, int]
    operations: tuple[int, int]

    @property
    def seconds(self) -> tuple[float, float]:
        """Mean seconds of a step over an interval of penalties, ours and the reference's."""
        rest = self.r1_interval - 1
        ours, theirs = (
            (rest * getattr(self.plain, side) + getattr(self.penalized, side)) / self.r1_interval
            for side in ("ours", "reference")
        )
        return ours, theirs


class OperationCount(TorchDispatchMode):
    """Counts the operations of PyTorch that run in it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.count += 1
        return operator(*arguments, **(options or {}))


def speed_plan(
    side: int,
    *,
    dims: int = 2,
    image_channels: int = 1,
    batch_size: int | None = None,
    device: torch.device = torch.device("cpu"),
    finest: int = FINEST_CHANNELS,
    most: int | None = None,
) -> Plan:
    """A plan with three labels; its networks and its training are those that are planned by default.

    Args:
        batch_size: images of a step; by default as planned.
        device: that batch size and precision are planned for.
        finest: channels of the finest stage.
        most: channels of the coarser stages, which double up to that; by default as planned.
    """
    stages, patch_size = int(np.log2(side // 8)), (side,) * dims
    most = most or max(choose_channels(patch_size, stages + 1))
    label = np.random.default_rng(0).choice(LABELS, (64, *[8] * dims))
    position = np.linspace(0, 1, 64, dtype=np.float32) if dims == 2 else None
    batch_size = batch_size or choose_batch_size(patch_size, device).value
    inputs = PlanInputs("pair", patch_size, patches=1000, device=device, batch_size=batch_size)
    settings = {key: setting.value for key, setting in training_settings(inputs).items()}
    values = settings | {"batch_size": batch_size}
    return Plan(
        variant="pair",
        source=Source(
            dataset_name="Dataset000_Speed",
            plans_name="nnUNetPlans",
            configuration="2d" if dims == 2 else "3d_fullres",
            data_identifier="speed",
            preprocessing="speed",
            fold="0",
            training_cases=("speed",),
            training_sha256=("0" * 64,),
        ),
        patch_size=patch_size,
        spacing=(1.0,) * dims,
        factors=((2,) * dims,) * stages,
        channels=tuple(min(most, finest * 2**level) for level in reversed(range(stages + 1))),
        codec=Codec(low=(-2.0,) * image_channels, high=(2.0,) * image_channels, labels=LABELS),
        conditions=Conditions.from_patches(LABELS[1:], label.astype(np.int16), position),
        **values,
    )


def measure_steps(plan: Plan, *, rounds: int, device: torch.device) -> StepSpeed:
    """Time, memory and operations of training steps with augmentation."""
    set_precision(plan)
    penalized, plain = 0, 1  # number of the step

    def timing(number: int) -> Timing:
        ours, theirs = (repeated_step(plan, device, number) for _ in range(2))
        return compare_times(ours, reference_ops()(theirs), rounds=rounds, device=device)

    def operations(number: int) -> int:
        step = repeated_step(plan, device, number)
        step()  # constants are copied once
        with OperationCount() as counting:
            step()
        return counting.count

    return StepSpeed(
        patch_size=plan.patch_size,
        batch_size=plan.batch_size,
        channels=plan.channels,
        r1_interval=plan.r1_interval,
        plain=timing(plain),
        penalized=timing(penalized),
        memory=(step_memory(plan, device, reference=False), step_memory(plan, device, reference=True)),
        operations=(operations(plain), operations(penalized)),
    )


def repeated_step(plan: Plan, device: torch.device, number: int) -> Callable[[], object]:
    """A function that takes the step of that number, each time."""
    state, patches = TrainingState.start(plan, device), random_patches(plan)
    if state.adaptive:
        state.adaptive.p = TYPICAL_P

    def step() -> None:
        state.images_seen = number * plan.batch_size
        take_step(state, *patches)

    return step


def time_sampling(plan: Plan, count: int, *, rounds: int, device: torch.device) -> Timing:
    """Seconds per sample, in batches of `count`."""
    sample = _sampling(plan, device, count)
    return compare_times(sample, reference_ops()(sample), rounds=rounds, device=device).per(count)


def seconds_per_sample(side: int, *, rounds: int, device: torch.device) -> float:
    """Of sampling patches of `side`² voxels, with the same number of channels for every side."""
    plan = speed_plan(side, finest=32, most=32)
    return time_calls(_sampling(plan, device, 4), rounds=rounds, device=device) / 4


def step_memory(plan: Plan, device: torch.device, *, reference: bool) -> int:
    """Peak bytes of a step with R1, measured in a process of its own."""
    command = [sys.executable, "-m", __name__, "reference" if reference else "ours", str(device)]
    done = subprocess.run(command, input=plan.model_dump_json(), capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def _sampling(plan: Plan, device: torch.device, count: int) -> Callable[[], object]:
    generator = TrainingState.start(plan, device).average
    z = torch.randn(count, plan.latent_dim, device=device)
    condition = torch.zeros(count, plan.conditions.width, device=device)
    noises = [torch.randn(count, 1, *size, device=device) for size in generator.synthesis.noise_sizes]
    return torch.no_grad()(lambda: generator(z, condition, noises))


if __name__ == "__main__":
    keep_freed_memory()
    with reference_ops() if sys.argv[1] == "reference" else contextlib.nullcontext():
        cost = measure_step_here(Plan.model_validate_json(sys.stdin.read()), torch.device(sys.argv[2]))
    print(cost.peak_bytes)
