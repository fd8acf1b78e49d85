"""Everything that is computed from a benchmark's results: the table that report, verdict and figures read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.results import METRICS, Benchmark
from nnunet_synth.benchmark.statistics import (
    P_VALUES,
    RESAMPLES,
    Comparison,
    Noise,
    Ranks,
    baseline_noise,
    bootstrap_interval,
    case_means,
    comparable,
    compare,
    compare_all,
    mean,
    rank_arms,
    rank_correlation,
    run_means,
)
from stylegan2_cond.progress_bar import ProgressBar

SEED = 0  # of the bootstrap: the same tables give the same report
POOLED = "pooled"  # in the column size: the mean over sizes
CLASSES = "mean"  # in the column label: the mean over classes
QUALITY = ("kid", "coverage", "copies")


@dataclass(frozen=True)
class Cost:
    """Seconds of computing per run, generator included, of an arm and of nnU-Net alone; NaN if unknown."""

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
        noise: by metric, of nnU-Net alone, for the mean over classes.
        ranks: of all arms by Dice, with `cases` or `runs` as blocks; None with too few.
        quality: a row for each run with a generator: quality of its generator, and its gain in Dice.
        correlations: a row for each quality metric: its rank correlation with the gain.
        costs: by arm.
    """

    benchmark: Benchmark
    table: pd.DataFrame
    noise: Mapping[str, Noise]
    ranks: Mapping[str, Ranks | None]
    quality: pd.DataFrame
    correlations: pd.DataFrame
    costs: Mapping[str, Cost]

    def row(self, arm: str, size: str = POOLED, label: str = CLASSES, metric: str = "dice") -> pd.Series:
        """A row of the table."""
        return self.table.loc[(metric, arm, size, label)]


def analyse(benchmark: Benchmark, resamples: int = RESAMPLES, *, briefly: bool = False) -> Analysis:
    """Compute everything.

    Args:
        resamples: number of resamples of each bootstrap.
        briefly: only Dice, and only its mean over classes, which is all that a verdict needs.
    """
    noise = {metric: _noise(benchmark, metric) for metric in METRICS}
    metrics, labels = (METRICS[:1], ()) if briefly else (METRICS, benchmark.labels)
    sizes = (POOLED, *benchmark.sizes)
    keys = [(metric, size, label) for metric in metrics for size in sizes for label in (CLASSES, *labels)]
    rows = []
    for metric, size, label in ProgressBar(keys, desc="Statistics", unit="table", delay=3):
        rows += _rows(benchmark, metric, size, label, noise[metric], resamples)
    table = pd.DataFrame(rows).set_index(["metric", "arm", "size", "label"]).sort_index()
    quality = _quality(benchmark)
    return Analysis(benchmark, table, noise, _ranks(benchmark), quality, _correlations(quality), _costs(benchmark))


def differences(benchmark: Benchmark, index: int, metric: str = "dice", label: str = CLASSES) -> np.ndarray:
    """`[sizes, sets, subjects]`: an arm's scores minus those of nnU-Net alone; NaN if either is missing.

    The mean over classes is one of differences, so a class that is undefined on one side is left out on both.
    """
    scores = benchmark.scores[metric]
    return benchmark.subject_means(_one_label(benchmark, scores[index] - scores[benchmark.baseline], label))


def _one_label(benchmark: Benchmark, scores: np.ndarray, label: str) -> np.ndarray:
    return mean(scores, axis=-1) if label == CLASSES else scores[..., benchmark.labels.index(label)]


def _one_size(benchmark: Benchmark, array: np.ndarray, size: str) -> np.ndarray:
    """`[sizes, …]` → the same with one size, or with all."""
    return array if size == POOLED else array[[benchmark.sizes.index(size)]]


def _rows(benchmark: Benchmark, metric: str, size: str, label: str, noise: Noise, resamples: int) -> list[dict]:
    paired = {
        index: _one_size(benchmark, differences(benchmark, index, metric, label), size)
        for index in range(len(benchmark.arms))
    }
    found = compare_all({index: paired[index] for index in benchmark.treatments})
    if benchmark.again is not None:
        found[benchmark.again] = compare(paired[benchmark.again])
    rows = []
    for index, arm in enumerate(benchmark.arms):
        row = {"metric": metric, "arm": arm.name, "size": size, "label": label}
        row |= _mean(benchmark, index, metric, size, label, resamples)
        if index in found:
            row |= _difference(found[index], paired[index], resamples)
            row["undefined"] = _undefined(benchmark, index, metric, size, label)
            if label == CLASSES:
                row["p_noise"] = _p_noise(benchmark, noise, paired[index], size, row["difference"])
                row["noise_measured"] = noise.measured
        rows.append(row)
    return rows


def _mean(benchmark: Benchmark, index: int, metric: str, size: str, label: str, resamples: int) -> dict:
    """An arm by itself, over all its runs."""
    scores = benchmark.subject_means(_one_label(benchmark, benchmark.scores[metric][index], label))
    scores = _one_size(benchmark, scores, size)
    by_case, by_run = case_means(scores), run_means(scores)
    low, high = bootstrap_interval(by_case, np.random.default_rng(SEED), resamples)
    count = np.isfinite(by_run).sum(axis=1)
    deviation = [np.var(run[np.isfinite(run)], ddof=1) for run in by_run if np.isfinite(run).sum() > 1]
    return {
        "runs": int(count.sum()),
        "mean": float(mean(by_case)),
        "mean_low": low,
        "mean_high": high,
        "sd_training_sets": float(np.sqrt(np.mean(deviation))) if deviation else np.nan,
    }


def _difference(found: Comparison, paired: np.ndarray, resamples: int) -> dict:
    cases_low, cases_high = bootstrap_interval(case_means(comparable(paired)), np.random.default_rng(SEED), resamples)
    row = asdict(found)
    row |= {f"{kind}_holm": row["adjusted"].get(kind, np.nan) for kind in P_VALUES}
    row |= {"cases_low": cases_low, "cases_high": cases_high, "paired_cases": found.cases, "paired_runs": found.runs}
    return {name: value for name, value in row.items() if name not in ("cases", "runs", "adjusted")}


def _undefined(benchmark: Benchmark, index: int, metric: str, size: str, label: str) -> int:
    """Number of scores of paired runs that are undefined for the arm or for nnU-Net alone."""
    scores = benchmark.scores[metric]
    pairs = (benchmark.done[index] & benchmark.done[benchmark.baseline])[:, :, None, None]
    missing = np.isnan(scores[index] - scores[benchmark.baseline]) & pairs
    missing = missing if label == CLASSES else missing[..., [benchmark.labels.index(label)]]
    return int(_one_size(benchmark, missing, size).sum())


def _noise(benchmark: Benchmark, metric: str) -> Noise:
    scores = benchmark.subject_means(mean(benchmark.scores[metric], axis=-1))
    return baseline_noise(scores[benchmark.baseline], None if benchmark.again is None else scores[benchmark.again])


def _p_noise(benchmark: Benchmark, noise: Noise, paired: np.ndarray, size: str, difference: float) -> float:
    """How often as many pairs of runs of nnU-Net alone differ at least as much."""
    of_size = (_one_size(benchmark, part, size) for part in (noise.variance, noise.dof))
    runs = np.isfinite(run_means(paired)).sum(axis=1)
    compared = np.where(runs >= min(2, runs.max()), runs, 0)  # as `comparable` selects them
    return Noise(*of_size, noise.measured).spread(compared).p(difference)


def _ranks(benchmark: Benchmark) -> dict[str, Ranks | None]:
    """Over runs that all arms have."""
    scores = benchmark.subject_means(mean(benchmark.scores["dice"], axis=-1))  # [arms, sizes, sets, subjects]
    shared = benchmark.done.all(axis=0)
    scores = np.where(shared[None, :, :, None], scores, np.nan)
    return {
        "cases": rank_arms(np.stack([case_means(arm) for arm in scores], axis=1)),
        "runs": rank_arms(np.stack([run_means(arm).ravel() for arm in scores], axis=1)),
    }


def _quality(benchmark: Benchmark) -> pd.DataFrame:
    gains = np.stack([run_means(differences(benchmark, index)) for index in range(len(benchmark.arms))])
    table = benchmark.runs[["arm", "size", "training_set", *QUALITY, "kid_error"]].assign(gain=gains.ravel())
    treatments = [benchmark.arms[index].name for index in benchmark.treatments]
    evaluated = table["arm"].isin(treatments) & table[list(QUALITY)].notna().any(axis=1) & table["gain"].notna()
    return table[evaluated].reset_index(drop=True)


def _correlations(quality: pd.DataFrame) -> pd.DataFrame:
    """Over all runs, and after subtracting each size's mean, since the size affects both."""
    rows = []
    for measure in QUALITY:
        known = quality[quality[measure].notna()]
        within = {name: known[name] - known.groupby("size")[name].transform("mean") for name in (measure, "gain")}
        rho, p, runs = rank_correlation(known[measure].to_numpy(), known["gain"].to_numpy())
        # rounding keeps equal values equal after the subtraction
        equal, p_equal, _ = rank_correlation(*(within[name].round(12).to_numpy() for name in (measure, "gain")))
        rows.append(
            {"measure": measure, "runs": runs, "rho": rho, "p": p, "rho_equal_size": equal, "p_equal_size": p_equal}
        )
    return pd.DataFrame(rows)


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
