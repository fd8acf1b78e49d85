"""Benchmarks that nobody ran: tables with effects and luck that are known."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.budget import choose_budget
from nnunet_synth.benchmark.design import Design, make_training_sets
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.results import RUN_COLUMNS, SCORE_COLUMNS

TITLES = {
    "nnunet": "nnU-Net alone",
    "da5": "Stronger augmentation (DA5)",
    "pairs": "Pairs, ratio 0.25",
    "deformed": "Images on deformed masks",
    "half": "Pairs, ratio 0.5",
}
UNLABELLED = {"pseudo": "pseudo-labels", "true-labels": "true-labels", "oracle": "training-cases"}
SYNTHETIC = {"pairs": 4000, "deformed": 4000, "half": 8000}  # bank's samples


def make_benchmark(
    folder: Path,
    effects: dict[str, float] | None = None,
    *,
    sizes: tuple[int, ...] = (4, 8, 16),
    training_sets: int = 6,
    baseline_runs: int = 3,
    cases: int = 40,
    labels: tuple[str, ...] = ("1", "2"),
    run_luck: float = 0.004,
    set_luck: float | None = None,
    missing: dict[tuple[str, int, int, int], str] | None = None,
    quick: bool = False,
    seed: int = 0,
) -> Path:
    """Write `design.json`, `runs.csv` and `scores.csv`.

    Args:
        effects: by arm, the gain in Dice at the smallest size; it halves from size to size.
        run_luck, set_luck: standard deviations of the mean Dice of a run and of a training set; as that of a
            run if None.
        missing: by arm, size, training set and run, the error of a failed run; an empty one leaves the run out.
    """
    effects = {"nnunet": 0.0} | (effects if effects is not None else {"pairs": 0.03, "da5": 0.004})
    missing, rng = missing or {}, np.random.default_rng(seed)
    names = [f"case_{number:03d}" for number in range(cases)]
    hardness = rng.gamma(2, 0.03, (cases, len(labels)))
    scores, runs = [], []
    for arm, effect in effects.items():
        quality = rng.uniform(0.5, 1) if arm in SYNTHETIC else np.nan
        for step, size in enumerate(sizes):
            for training_set, run in product(range(training_sets), range(baseline_runs if arm == "nnunet" else 1)):
                error = missing.get((arm, size, training_set, run))
                if error == "":
                    continue
                runs.append(_run(arm, size, training_set, run, error, quality, rng))
                if error is not None:
                    continue
                luck = run_luck if set_luck is None else set_luck
                subset = np.random.default_rng([seed, size, training_set]).normal(0, luck)  # the same for all arms
                level = 0.72 + 0.05 * step + effect / 2**step + subset + rng.normal(0, run_luck)
                dice = np.clip(level - hardness + rng.normal(0, 0.02, hardness.shape), 0, 1)
                hd95 = 12 * (1 - dice) + rng.gamma(2, 0.4, dice.shape)
                scores += [
                    (arm, size, training_set, run, name, label, round(dice[c, k], 5), round(hd95[c, k], 3), "")
                    for c, name in enumerate(names)
                    for k, label in enumerate(labels)
                ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(scores, columns=SCORE_COLUMNS).to_csv(folder / "scores.csv", index=False)
    pd.DataFrame(runs, columns=RUN_COLUMNS).to_csv(folder / "runs.csv", index=False)
    _design(list(effects), sizes, training_sets, baseline_runs, names, labels, quick).save(folder / "design.json")
    return folder


def _run(
    arm: str, size: int, training_set: int, run: int, error: str | None, quality: float, rng: np.random.Generator
) -> tuple:
    of_generator = [""] * 7
    if arm in SYNTHETIC:
        kid = round(0.2 * quality / size**0.5 + rng.uniform(0, 0.02), 4)
        coverage, copies = round(quality - rng.uniform(0, 0.2), 3), round(rng.uniform(0, 0.02), 4)
        of_generator = [round(600 + rng.normal(0, 30), 1), 40000, SYNTHETIC[arm], kid, 0.003, coverage, copies]
    seconds = round(400 + rng.normal(0, 20), 1)
    state = "done" if error is None else "failed"
    trained = " ".join(f"case_{number}" for number in range(100, 100 + size))
    return (arm, size, training_set, run, trained, 1250, seconds, *of_generator, state, error or "")


def _design(
    arms: list[str],
    sizes: tuple[int, ...],
    training_sets: int,
    baseline_runs: int,
    cases: list[str],
    labels: tuple[str, ...],
    quick: bool,
) -> Design:
    """The training cases are numbered from 100 on, so none is a test case."""
    pool = [f"case_{number}" for number in range(100, 100 + max(sizes) * training_sets)]
    budget = choose_budget(BenchmarkOptions("4", "2d", quick=quick, steps=1250))
    return Design(
        dataset="Dataset004_Hippocampus",
        configuration="2d",
        plans="nnUNetPlansQuick" if quick else "nnUNetPlans",
        seed=0,
        sizes=sizes,
        arms=tuple(
            Arm(
                name=arm,
                title=TITLES.get(arm, arm),
                baseline=arm == "nnunet",
                variant="pair" if arm in SYNTHETIC else None,
                unlabelled=UNLABELLED.get(arm),
            )
            for arm in arms
        ),
        test_cases=tuple(cases),
        pool=tuple(pool),
        subjects=None,
        training_sets=make_training_sets(pool, {case: case for case in pool}, sizes, training_sets, 0),
        runs=1,
        baseline_runs=baseline_runs,
        labels={label: f"class {label}" for label in labels},
        budget=budget,
        network={"features": (8, 16, 32), "batch_size": 4},
        machine={"cores": 2},
        release="0.1.0",
    )
