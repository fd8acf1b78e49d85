"""One real step of a plan, in a process of its own: how much memory it takes, and how long."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from stylegan2_cond.memory import keep_freed_memory, peak_bytes
from stylegan2_cond.planning import Plan
from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import take_step

OUT_OF_MEMORY = 12  # exit code; ENOMEM
_SIGKILL = getattr(signal, "SIGKILL", 9)  # Windows has none
KILLED = {-_SIGKILL, 128 + _SIGKILL}  # as Linux does when memory runs out
NO_MEMORY = (  # what torch says; cuBLAS and cuDNN also fail in these ways where none is left for what they need
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
)
PATIENCE = 60.0  # seconds of the first step, from which on it is not taken again only to time it better


@dataclass(frozen=True)
class StepCost:
    """What a training step takes.

    Attributes:
        peak_bytes: of networks, optimizers and activations, when all that happens now and then happens at once.
        seconds_per_step: on average.
    """

    peak_bytes: int
    seconds_per_step: float


def measure_step(plan: Plan, device: torch.device | str) -> StepCost:
    """Train on random patches for a few steps, in another process, so that the peak is theirs alone.

    Raises:
        MemoryError: there is not enough.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(device)], input=plan.model_dump_json(), capture_output=True, text=True
    )
    if done.returncode in {OUT_OF_MEMORY, *KILLED}:
        raise MemoryError(f"a step at batch {plan.batch_size} in {plan.accumulate} parts does not fit")
    if done.returncode:
        raise RuntimeError(f"the trial of a step failed:\n{done.stderr[-2000:]}")
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy or Python say by this that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    )


def _measure(plan: Plan, device: torch.device) -> StepCost:
    set_precision(plan)
    _take_small_step(plan, device)  # libraries are loaded by the first step, 180 MiB on a CPU
    before = peak_bytes()
    state = TrainingState.start(plan, device)
    if state.adaptive:
        state.adaptive.p = LARGEST_P
    batch = _random_patches(plan)
    due = plan.r1_interval
    first = _timed_step(state, due, batch)
    plain, full = (_timed_step(state, step, batch) for step in (due + 1, due)) if first < PATIENCE else (first, first)
    rest = max(0.0, full - plain) / (plan.r1_interval if plan.r1_weight else 1)
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_bytes() - before
    return StepCost(peak_bytes=peak, seconds_per_step=plain + rest)


def _take_small_step(plan: Plan, device: torch.device) -> None:
    """A step of networks of two small stages."""
    patch_size = tuple(min(8, length) for length in plan.patch_size)
    small = {"patch_size": patch_size, "factors": ((2,) * len(patch_size),), "channels": (8, 8)}
    plan = plan.model_copy(update={**small, "batch_size": 4, "accumulate": 1})
    take_step(TrainingState.start(plan, device), *_random_patches(plan))


def _timed_step(state: TrainingState, number: int, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    state.images_seen = number * state.plan.batch_size
    started = time.perf_counter()
    take_step(state, *batch)
    return time.perf_counter() - started


def _random_patches(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image `[N, C, *spatial]`, label `[N, *spatial]` and position `[N]` of one batch."""
    rng, codec, count = np.random.default_rng(0), plan.codec, plan.batch_size
    image = rng.standard_normal((count, codec.image_channels, *plan.patch_size), np.float32)
    label = rng.choice(np.array(codec.labels, np.int16), (count, *plan.patch_size))
    return image, label, rng.random(count, np.float32)


def main() -> int:
    """Try the plan that stands in the standard input, on the device that the first argument names."""
    keep_freed_memory()  # as training does
    plan, device = Plan.model_validate_json(sys.stdin.read()), torch.device(sys.argv[1])
    try:
        print(json.dumps(asdict(_measure(plan, device))))
    except Exception as error:
        if is_out_of_memory(error):
            return OUT_OF_MEMORY
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
