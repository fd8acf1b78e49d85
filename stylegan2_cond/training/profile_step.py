"""Measure memory and time of one training step, in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from stylegan2_cond.memory import is_out_of_memory, keep_freed_memory, peak_bytes
from stylegan2_cond.planning import Plan
from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import take_step
from stylegan2_cond.training.step_graphs import WARM_UP

OUT_OF_MEMORY = 12  # exit code; ENOMEM
_SIGKILL = getattr(signal, "SIGKILL", 9)  # Windows has none
KILLED = {-_SIGKILL, 128 + _SIGKILL}  # by Linux when memory runs out
SLOW_STEP = 60.0  # seconds; a first step that takes longer is not repeated for a better timing


@dataclass(frozen=True)
class StepCost:
    """What a training step takes.

    Attributes:
        peak_bytes: peak memory of a step with penalties and augmentation.
        seconds_per_step: mean over steps with and without penalties.
    """

    peak_bytes: int
    seconds_per_step: float


def measure_step(plan: Plan, device: torch.device | str) -> StepCost:
    """Train on random patches for a few steps, in another process, so that nothing else counts.

    Raises:
        MemoryError: there is not enough memory.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(device)], input=plan.model_dump_json(), capture_output=True, text=True
    )
    if done.returncode in {OUT_OF_MEMORY, *KILLED}:
        raise MemoryError(f"a step with batch size {plan.batch_size} in {plan.accumulate} parts does not fit")
    if done.returncode:
        raise RuntimeError(f"the measurement of a step failed:\n{done.stderr[-2000:]}")
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


def measure_step_here(plan: Plan, device: torch.device) -> StepCost:
    """Train on random patches for a few steps, in this process."""
    set_precision(plan)
    patch_size = tuple(min(8, length) for length in plan.patch_size)
    small = {"patch_size": patch_size, "factors": ((2,) * len(patch_size),), "channels": (8, 8), "accumulate": 1}
    small_plan = plan.model_copy(update={**small, "batch_size": 4})
    take_step(TrainingState.start(small_plan, device), *random_patches(small_plan))  # loads libraries, 180 MiB
    before = peak_bytes()
    state = TrainingState.start(plan, device)
    if state.adaptive:
        state.adaptive.p = LARGEST_P
    batch = random_patches(plan)
    due = plan.r1_interval  # with penalties
    if state.graphs:
        for step in (due, due + 1) * (WARM_UP + 1):
            _timed_step(state, step, batch)
    first = _timed_step(state, due, batch)
    plain, full = (_timed_step(state, step, batch) for step in (due + 1, due)) if first < SLOW_STEP else (first, first)
    rest = max(0.0, full - plain) / (plan.r1_interval if plan.r1_weight else 1)
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_bytes() - before
    return StepCost(peak_bytes=peak, seconds_per_step=plain + rest)


def _timed_step(state: TrainingState, number: int, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    state.images_seen = number * state.plan.batch_size
    started = time.perf_counter()
    take_step(state, *batch).read()
    return time.perf_counter() - started


def random_patches(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image `[N, C, *patch_size]`, label `[N, *patch_size]` and position `[N]` of one batch."""
    rng, codec, count = np.random.default_rng(0), plan.codec, plan.batch_size
    image = rng.standard_normal((count, codec.image_channels, *plan.patch_size), np.float32)
    label = rng.choice(np.array(codec.labels, np.int16), (count, *plan.patch_size))
    return image, label, rng.random(count, np.float32)


def main() -> int:
    """Measure a step of the plan on standard input, on the device given as the first argument."""
    keep_freed_memory()  # as training does
    plan, device = Plan.model_validate_json(sys.stdin.read()), torch.device(sys.argv[1])
    try:
        print(json.dumps(asdict(measure_step_here(plan, device))))
    except Exception as error:
        if is_out_of_memory(error):
            return OUT_OF_MEMORY
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
