"""Speed and memory of a training step and of sampling."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.memory import keep_freed_memory
from stylegan2_cond.planning import Plan, Source
from stylegan2_cond.planning.heuristics import PlanInputs, training_settings
from stylegan2_cond.speed.reference import reference_ops
from stylegan2_cond.speed.timing import Timing, compare_times, time_calls
from stylegan2_cond.training.profile_step import measure_step_here, random_patches
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.step import take_step

LABELS = (0, 1, 2)
SAMPLES = 16  # that are generated at once


def speed_plan(
    side: int, *, dims: int = 2, image_channels: int = 1, batch_size: int = 16, finest: int = 64, most: int = 128
) -> Plan:
    """A plan with three labels, `finest` channels at the finest stage, and `most` at most, without augmentation."""
    stages, patch_size = int(np.log2(side // 8)), (side,) * dims
    label = np.random.default_rng(0).choice(LABELS, (64, *[8] * dims))
    position = np.linspace(0, 1, 64, dtype=np.float32) if dims == 2 else None
    inputs = PlanInputs("pair", patch_size, patches=1000, device=torch.device("cpu"), batch_size=batch_size)
    settings = {key: setting.value for key, setting in training_settings(inputs).items()}
    values = settings | {"batch_size": batch_size, "augment_target": None}
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


def time_steps(plan: Plan, *, rounds: int, device: torch.device) -> Timing:
    """Seconds of a training step: generator, discriminator, and R1 once per interval."""
    ours, theirs = (TrainingState.start(plan, device) for _ in range(2))
    patches, every = random_patches(plan), plan.r1_interval
    timing = compare_times(
        lambda: [take_step(ours, *patches) for _ in range(every)],
        reference_ops()(lambda: [take_step(theirs, *patches) for _ in range(every)]),
        rounds=rounds,
        device=device,
    )
    return timing.per(every)


def time_sampling(plan: Plan, *, rounds: int, device: torch.device) -> Timing:
    """Seconds per sample, in a batch of `SAMPLES`."""
    sample = _sampling(plan, device)
    return compare_times(sample, reference_ops()(sample), rounds=rounds, device=device).per(SAMPLES)


def seconds_per_sample(side: int, *, rounds: int, device: torch.device) -> float:
    """Of sampling patches of `side`² voxels, with the same number of channels for every side."""
    plan = speed_plan(side, finest=32, most=32)
    return time_calls(_sampling(plan, device, count=4), rounds=rounds, device=device) / 4


def step_memory(plan: Plan, device: torch.device, *, reference: bool) -> int:
    """Peak bytes of a step with R1, measured in a process of its own."""
    command = [sys.executable, "-m", __name__, "reference" if reference else "ours", str(device)]
    done = subprocess.run(command, input=plan.model_dump_json(), capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def _sampling(plan: Plan, device: torch.device, *, count: int = SAMPLES) -> Callable[[], object]:
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
