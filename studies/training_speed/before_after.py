"""How much faster a training step has become: CPU time of the same plan in two checkouts of this project, in turns.

git worktree add ../before COMMIT
OMP_NUM_THREADS=1 python studies/training_speed/before_after.py ../before .
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PLANS = ({"side": 64, "batch_size": 16}, {"side": 32, "dims": 3, "batch_size": 2})
ROUNDS, SECONDS = 5, 3.0  # the least that is timed at once


def work() -> None:
    """Answer each number of a step on standard input with the CPU seconds of such a step."""
    import torch  # the checkout's, as all below

    from stylegan2_cond.planning import Plan
    from stylegan2_cond.training.profile_step import random_patches
    from stylegan2_cond.training.state import TrainingState
    from stylegan2_cond.training.step import take_step

    given = json.loads(sys.stdin.readline())
    plan = Plan.model_validate({key: value for key, value in given.items() if key in Plan.model_fields})
    state, patches = TrainingState.start(plan, torch.device("cpu")), random_patches(plan)
    if state.adaptive:
        state.adaptive.p = 0.5
    for number in map(int, sys.stdin):
        start, steps = time.process_time(), 0
        while steps == 0 or time.process_time() - start < SECONDS:
            state.images_seen = number * plan.batch_size
            take_step(state, *patches)
            steps += 1
        print((time.process_time() - start) / steps, flush=True)


def main() -> None:
    """Print a line for each plan: mean and standard error of the ratio."""
    from stylegan2_cond.speed.step import speed_plan

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs=2, type=Path, help="before and after")
    checkouts = parser.parse_args().checkouts
    for options in PLANS:
        plan, workers = speed_plan(**options), []
        for checkout in checkouts:
            worker = subprocess.Popen(
                [sys.executable, __file__, "--work"],
                env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            worker.stdin.write(plan.model_dump_json() + "\n")
            workers.append(worker)

        def seconds(worker: subprocess.Popen, number: int) -> float:
            worker.stdin.write(f"{number}\n")
            worker.stdin.flush()
            return float(worker.stdout.readline())

        ratios = []
        for _ in range(ROUNDS + 1):  # the first does not count
            plain, penalized = ([seconds(worker, number) for worker in workers] for number in (1, plan.r1_interval))
            before, after = ((p - q) / plan.r1_interval + q for p, q in zip(penalized, plain, strict=True))
            ratios.append(before / after)
        error = np.std(ratios[1:], ddof=1) / np.sqrt(ROUNDS)
        size = "×".join(map(str, plan.patch_size))
        print(
            f"{size}, batches of {plan.batch_size}: {np.mean(ratios[1:]):.2f} ± {error:.2f} times as fast", flush=True
        )
        for worker in workers:
            worker.stdin.close()
            worker.wait()


if __name__ == "__main__":
    work() if "--work" in sys.argv else main()
