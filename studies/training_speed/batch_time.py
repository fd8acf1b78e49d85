"""How long an image takes in small batches, compared with batches of 16: CPU time of steps, in turns.

OMP_NUM_THREADS=1 python studies/training_speed/batch_time.py RUN/plan.json …
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.planning import Plan
from stylegan2_cond.speed.step import repeated_step

BATCHES, IMAGES, ROUNDS = (4, 8, 16), 48, 6


def seconds_per_image(step: Callable[[], object], batch: int) -> float:
    """CPU time of as many steps as `IMAGES` need."""
    start = time.process_time()
    for _ in range(IMAGES // batch):
        step()
    return (time.process_time() - start) / IMAGES


def main() -> None:
    """Print a line for each plan: mean and standard deviation of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="+", type=Path, help="plan.json of trainings")
    for path in parser.parse_args().plans:
        plan, device = Plan.load(path), torch.device("cpu")
        plans = {batch: plan.model_copy(update={"batch_size": batch}) for batch in BATCHES}
        steps = {batch: [repeated_step(one, device, number) for number in (0, 1)] for batch, one in plans.items()}
        rounds = []
        for _ in range(ROUNDS + 1):  # the first does not count
            seconds = []
            for batch, (penalized, plain) in steps.items():
                both = seconds_per_image(penalized, batch), seconds_per_image(plain, batch)
                seconds.append(both[1] + (both[0] - both[1]) / plan.r1_interval)
            rounds.append(np.array(seconds) / seconds[-1])
        means, deviations = np.mean(rounds[1:], axis=0), np.std(rounds[1:], axis=0)
        found = [f"{batch}: {mean:.2f} ± {deviation:.2f}" for batch, mean, deviation in zip(
            BATCHES[:-1], means, deviations, strict=False)]  # fmt: skip
        print(f"{plan.source.dataset_name}, patches of {'×'.join(map(str, plan.patch_size))}; {', '.join(found)}")


if __name__ == "__main__":
    main()
