"""How many times as fast steps of trained generators are if denormal numbers are taken for 0, in turns, on one core.

python studies/training_speed/denormals.py RUN_FOLDER [RUN_FOLDER …]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.data.nnunet_folders import PLAN_FILE
from stylegan2_cond.planning import Plan
from stylegan2_cond.training.checkpoint import load_checkpoint
from stylegan2_cond.training.profile_step import random_patches
from stylegan2_cond.training.state import TrainingState, flush_denormals, set_precision
from stylegan2_cond.training.step import take_step

ROUNDS, STEPS = 5, 4


def seconds(state: TrainingState, batch: tuple[np.ndarray, ...]) -> float:
    """Of a few steps."""
    started = time.perf_counter()
    for _ in range(STEPS):
        take_step(state, *batch).read()
    return time.perf_counter() - started


def ratios(folder: Path) -> np.ndarray:
    """`[ROUNDS]`: time with denormal numbers over time without them."""
    plan = Plan.load(folder / PLAN_FILE)
    set_precision(plan)
    state, batch, found = TrainingState.start(plan, torch.device("cpu")), random_patches(plan), []
    load_checkpoint(folder, state)
    for _ in range(1 + ROUNDS):
        with_them = seconds(state, batch)
        with flush_denormals():
            found.append(with_them / seconds(state, batch))
    return np.array(found[1:])


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folder of a run of stylegan2-cond train")
    torch.set_num_threads(1)
    for folder in parser.parse_args().runs:
        found = ratios(folder)
        print(f"{folder}: {found.mean():.2f} ± {found.std(ddof=1) / ROUNDS**0.5:.2f}", flush=True)


if __name__ == "__main__":
    main()
