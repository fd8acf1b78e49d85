"""Everything that is computed from a benchmark's results: the table that report, verdict and figure read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.results import METRICS, Benchmark
from nnunet_synth.benchmark.statistics import Noise, baseline_noise, case_means, compare, compare_all, mean, run_means

POOLED = "pooled"  # in the column size: the mean over sizes
CLASSES = "mean"  # in the column label: the mean over classes


@dataclass(frozen=True)
class Cost:
    """Seconds of computing per run, of an arm with all that it needs and of nnU-Net alone; NaN if unknown."""

    arm: float
    baseline: float

    @property
    def factor(self) -> float:
        """How many times the computing of nnU-Net alone."""
        return self.arm / self.baseline


@dataclass(frozen=True)
class Analysis:
    """What was computed.

    Attributes:
        table: a row for each metric, arm, size (or `POOLED`) and label (or `CLASSES`).
        noise: of nnU-Net alone in Dice, for the mean over classes.
        costs: by arm.
    """

    benchmark: Benchmark
    table: pd.DataFrame
    noise: Noise
    costs: Mapping[str, Cost]

    def row(self, arm: str, size: str = POOLED, label: str = CLASSES, metric: str = "dice") -> pd.Series:
        """A row of the table."""
        return self.table.loc[(metric, arm, size, label)]


def analyse(benchmark: Benchmark) -> Analysis:
    """Compute everything."""
    rows, noises = [], {}
    for metric in METRICS:
        scores = benchmark.subject_means(mean(benchmark.scores[metric], axis=-1))
        again = None if benchmark.again is None else scores[benchmark.again]
        noises[metric] = baseline_noise(scores[benchmark.baseline], again)
        for size in (POOLED, *benchmark.sizes):
            for label in (CLASSES, *benchmark.labels):
                rows += _rows(benchmark, metric, size, label, noises[metric])
    table = pd.DataFrame(rows).set_index(["metric", "arm", "size", "label"]).sort_index()
    return Analysis(benchmark, table, noises["dice"], _costs(benchmark))


def _rows(benchmark: Benchmark, metric: str, size: str, label: str, noise: Noise) -> list[dict]:
    """A row for each arm.

    The mean over classes is one of differences, so a class that is undefined on one side is left out on both.
    """
    sizes = [*range(len(benchmark.sizes))] if size == POOLED else [benchmark.sizes.index(size)]
    scores = benchmark.scores[metric][:, sizes]  # [arms, sizes, sets, cases, labels]
    scores = scores if label == CLASSES else scores[..., [benchmark.labels.index(label)]]
    differences = scores - scores[benchmark.baseline]
    paired = benchmark.subject_means(mean(differences, axis=-1))
    found = compare_all({index: paired[index] for index in benchmark.treatments})
    if benchmark.again is not None:
        found[benchmark.again] = compare(paired[benchmark.again])
    rows = []
    for index, arm in enumerate(benchmark.arms):
        own = benchmark.subject_means(mean(scores[index], axis=-1))
        row = {"metric": metric, "arm": arm.name, "size": size, "label": label}
        row |= {"runs": int(np.isfinite(run_means(own)).sum()), "mean": float(mean(case_means(own)))}
        if index in found:
            row |= asdict(found[index])
            both_done = (benchmark.done[index] & benchmark.done[benchmark.baseline])[sizes]
            row["undefined"] = int((np.isnan(differences[index]) & both_done[..., None, None]).sum())
        if index in found and label == CLASSES:
            runs = np.zeros(len(benchmark.sizes), int)
            runs[sizes] = np.isfinite(run_means(paired[index])).sum(axis=1)
            compared = np.where(runs >= min(2, runs.max()), runs, 0)  # as `comparable` selects them
            row["p_noise"] = noise.spread(compared).p(row["difference"])
            row["noise_measured"] = noise.measured
        rows.append(row)
    return rows


def _costs(benchmark: Benchmark) -> dict[str, Cost]:
    """Over the compared runs."""
    training, generator = benchmark.of_runs("seconds_nnunet"), benchmark.of_runs("seconds_generator")
    costs = {}
    for index, arm in enumerate(benchmark.arms):
        own = generator[index] if index in benchmark.synthetic else np.nan_to_num(generator[index])
        pairs = benchmark.done[index] & benchmark.done[benchmark.baseline]
        both = np.stack([training[index] + own, training[benchmark.baseline]])[:, pairs]
        both = both[:, np.isfinite(both).all(axis=0)]
        costs[arm.name] = Cost(*(float(mean(seconds)) for seconds in both))
    return costs
