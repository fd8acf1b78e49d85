"""Paired comparisons of an arm with nnU-Net alone, over test cases and over runs.

A difference is an array `[sizes, sets, cases]`: score of the arm minus that of nnU-Net alone, with the same training
set and test case; NaN where one is missing. It has two sources of chance: the test cases are a sample of future ones,
and each run has its seed. All cases of a run share the chance of that run, so a test over cases alone takes a lucky
seed for an effect (Bouthillier et al. 2021, Accounting for Variance in Machine Learning Benchmarks, MLSys), and one
over runs alone holds for these test cases only (Clark 1973, The language-as-fixed-effect fallacy, J Verbal Learning
Verbal Behav 12:335).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval; tests use 1 - LEVEL
POWER = 0.8  # of the design for an effect of `detectable`
RESAMPLES = 4999  # of the bootstrap
P_VALUES = ("p_cases", "p_runs", "p_both")


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, and its degrees of freedom; NaN and 0 if unknown."""

    variance: float
    dof: float

    def p(self, estimate: float) -> float:
        """Two-sided p-value of Student's t test."""
        if self.dof > 0 and self.variance == 0:
            return float(estimate == 0)
        return float(2 * stats.t.sf(abs(estimate) / np.sqrt(self.variance), self.dof)) if self.dof > 0 else np.nan

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval around the estimate."""
        return float(stats.t.ppf((1 + level) / 2, self.dof) * np.sqrt(self.variance)) if self.dof > 0 else np.nan


@dataclass(frozen=True)
class Comparison:
    """An arm against nnU-Net alone, in the metric's own units.

    Attributes:
        cases, runs: numbers of compared cases, and of compared pairs of runs.
        difference: mean over sizes, sets and cases.
        p_cases: Wilcoxon's signed-rank test over cases.
        p_runs: t test over runs; NaN with one training set.
        p_both: the larger of that and the t test with both runs and cases as samples; NaN with one training set.
        p_training_sets: t test over training sets, those of one number taken as one; NaN with one training set.
        low, high: interval of the difference for other runs and other cases, which matches `p_both`.
        detectable: the smallest difference that the design detects with a probability of `POWER`.
        rank_biserial: matched-pairs rank-biserial correlation over cases, -1 to 1.
        cohens_dz: mean of the difference over cases, divided by its standard deviation.
        adjusted: Holm's correction by name of the p-value; empty without a family of arms.
    """

    cases: int
    runs: int
    difference: float
    p_cases: float
    p_runs: float
    p_both: float
    p_training_sets: float
    low: float
    high: float
    detectable: float
    rank_biserial: float
    cohens_dz: float
    adjusted: Mapping[str, float]


def compare(difference: np.ndarray, family: int = 1) -> Comparison:
    """Compare one arm with nnU-Net alone.

    Args:
        difference: `[sizes, sets, cases]`.
        family: number of arms compared at once, for which `detectable` is Bonferroni-corrected.
    """
    difference = comparable(difference)
    by_case, by_run = case_means(difference), run_means(difference)
    present = by_case[np.isfinite(by_case)]
    if not len(present):
        return Comparison(0, 0, *[np.nan] * 10, adjusted={})
    estimate = float(present.mean())
    p_cases, rank_biserial = signed_rank(present)
    runs, crossed = runs_spread(by_run), crossed_spread(difference)
    both = max(runs, crossed, key=Spread.half_width) if crossed.dof > 0 else crossed
    deviation = present.std(ddof=1) if len(present) > 1 else np.nan
    reach = stats.t.ppf(1 - (1 - LEVEL) / 2 / family, both.dof) + stats.t.ppf(POWER, both.dof)
    return Comparison(
        cases=len(present),
        runs=int(np.isfinite(by_run).sum()),
        difference=estimate,
        p_cases=p_cases,
        p_runs=runs.p(estimate),
        p_both=max(runs.p(estimate), crossed.p(estimate)) if crossed.dof > 0 else np.nan,
        p_training_sets=mean_spread(mean(by_run, axis=0)).p(estimate),
        low=estimate - both.half_width(),
        high=estimate + both.half_width(),
        detectable=float(reach * np.sqrt(both.variance)) if both.dof > 0 else np.nan,
        rank_biserial=rank_biserial,
        cohens_dz=float(estimate / deviation) if deviation > 0 else np.nan,
        adjusted={},
    )


def compare_all(differences: Mapping[str, np.ndarray]) -> dict[str, Comparison]:
    """Compare several arms with nnU-Net alone, each kind of p-value Holm-corrected over them.

    Args:
        differences: by arm, `[sizes, sets, cases]`.
    """
    found = {name: compare(difference, len(differences)) for name, difference in differences.items()}
    adjusted = {kind: holm([getattr(one, kind) for one in found.values()]) for kind in P_VALUES}
    return {
        name: replace(one, adjusted={kind: float(adjusted[kind][index]) for kind in P_VALUES})
        for index, (name, one) in enumerate(found.items())
    }


def comparable(difference: np.ndarray) -> np.ndarray:
    """`[sizes, sets, cases]` without sizes of one run, if others have more: they show no variation of runs."""
    runs = np.isfinite(difference).any(axis=2).sum(axis=1)
    return difference[runs >= min(2, runs.max(initial=0))]


def case_means(difference: np.ndarray) -> np.ndarray:
    """`[sizes, sets, cases]` → `[cases]`: mean over sets, then over sizes, so that sizes count equally."""
    return mean(mean(difference, axis=1), axis=0)


def run_means(difference: np.ndarray) -> np.ndarray:
    """`[sizes, sets, cases]` → `[sizes, sets]`: mean over cases."""
    return mean(difference, axis=2)


def signed_rank(values: np.ndarray) -> tuple[float, float]:
    """Wilcoxon's signed-rank test of `[N]` paired differences, zeros left out.

    Returns:
        Two-sided p-value, and the matched-pairs rank-biserial correlation (Kerby 2014, Comprehensive Psychology 3:1):
        the share of the rank sum in favour of the arm minus the share against it.
    """
    values = values[values != 0]
    if not len(values):
        return 1.0, 0.0
    ranks = stats.rankdata(abs(values))
    biserial = float((ranks * np.sign(values)).sum() / ranks.sum())
    return float(stats.wilcoxon(values).pvalue), biserial


def runs_spread(by_run: np.ndarray) -> Spread:
    """Spread of the mean over sizes of the means over training sets, `[sizes, sets]`.

    Sizes may differ in their variance (Welch 1947, Biometrika 34:28; Satterthwaite 1946, Biometrics 2:110).
    """
    count = np.isfinite(by_run).sum(axis=1)
    if not len(count) or count.min() < 2:
        return Spread(np.nan, 0)
    variance = np.nanvar(by_run, axis=1, ddof=1) / count / len(by_run) ** 2
    return _sum(variance, count - 1)


def mean_spread(values: np.ndarray) -> Spread:
    """Spread of the mean of `[N]` values."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Spread(np.nan, 0)
    return Spread(float(values.var(ddof=1) / len(values)), len(values) - 1)


def crossed_spread(difference: np.ndarray) -> Spread:
    """Spread of the mean with runs and cases as crossed random factors (Clark 1973, quasi-F).

    The variance over runs plus that over cases, minus that of single scores, which is in both, and at least the larger
    of the two. In simulations with both sources of chance it keeps its level, where the worse of the two tests doubles
    or triples it (tests/test_benchmark_statistics.py).
    """
    runs, cases = runs_spread(run_means(difference)), mean_spread(case_means(difference))
    if runs.dof <= 0 or cases.dof <= 0:
        return Spread(np.nan, 0)
    total = _sum(np.array([runs.variance, cases.variance]), np.array([runs.dof, cases.dof]))
    variance = max(runs.variance, cases.variance, total.variance - _single_scores(difference))
    dof = total.dof * (variance / total.variance) ** 2 if total.variance else total.dof
    return Spread(float(variance), float(max(1.0, dof)))


def _single_scores(difference: np.ndarray) -> float:
    """Variance of the mean due to what neither run nor case explains."""
    squares = dof = scores = 0.0
    for size in difference:
        size = size[np.isfinite(size).any(axis=1)]
        size = size[:, np.isfinite(size).all(axis=0)]
        if size.shape[1] > 1:
            rest = size - size.mean(axis=0) - size.mean(axis=1, keepdims=True) + size.mean()
            squares += (rest**2).sum()
            dof += (size.shape[0] - 1) * (size.shape[1] - 1)
            scores += 1 / size.size
    return squares / dof * scores / len(difference) ** 2 if dof else 0.0


def _sum(variance: np.ndarray, dof: np.ndarray) -> Spread:
    """Spread of a sum of independent parts (Satterthwaite 1946)."""
    total = float(variance.sum())
    if not total:
        return Spread(0.0, float(dof.sum()))
    return Spread(total, float(total**2 / (variance**2 / dof).sum()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) correction; NaN stays NaN and does not count in the family."""
    p_values = np.array(p_values, float)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN comes last
    steps = p_values[order] * np.arange(len(order), 0, -1)  # statsmodels' takes 80 ms a call
    p_values[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return p_values


def bootstrap_interval(
    by_case: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `[cases]` (BCa: Efron 1987, JASA 82:171).

    A case is resampled with all its runs, so the interval holds for other cases and the same runs.
    """
    by_case = by_case[np.isfinite(by_case)]
    if len(by_case) < 2:
        return np.nan, np.nan
    if np.ptp(by_case) == 0:
        return float(by_case[0]), float(by_case[0])
    found = stats.bootstrap(
        (by_case,), np.mean, n_resamples=resamples, confidence_level=LEVEL, rng=rng, vectorized=True
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@dataclass(frozen=True)
class Noise:
    """Run-to-run noise of nnU-Net alone, in the mean over cases.

    Attributes:
        variance: `[sizes]`, of the difference of two runs with the same training set.
        dof: `[sizes]`; 0 if unknown.
        measured: by a second arm of nnU-Net alone; else an upper bound from runs with different training sets.
    """

    variance: np.ndarray
    dof: np.ndarray
    measured: bool

    def spread(self, runs: np.ndarray) -> Spread:
        """Spread of the mean over sizes, with `runs` `[sizes]` pairs of runs each; sizes without runs do not count."""
        used = runs > 0
        if not used.any() or (self.dof[used] < 1).any():
            return Spread(np.nan, 0)
        return _sum(self.variance[used] / runs[used] / used.sum() ** 2, self.dof[used])


def baseline_noise(baseline: np.ndarray, again: np.ndarray | None) -> Noise:
    """Noise of nnU-Net alone.

    Args:
        baseline: `[sizes, sets, cases]` scores of nnU-Net alone.
        again: the same for a second arm of nnU-Net alone; None without one.
    """
    if again is not None and np.isfinite(again - baseline).any():
        by_run = run_means(again - baseline)  # the expected difference is zero
        return Noise(mean(by_run**2, axis=1), np.isfinite(by_run).sum(axis=1), measured=True)
    by_run = run_means(baseline)
    count = np.isfinite(by_run).sum(axis=1)
    variance = [
        2 * np.var(run[np.isfinite(run)], ddof=1) if n > 1 else np.nan for run, n in zip(by_run, count, strict=True)
    ]
    return Noise(np.array(variance), np.maximum(count - 1, 0), measured=False)


@dataclass(frozen=True)
class Ranks:
    """Friedman's test of all arms at once, and Nemenyi's of each two (Demšar 2006, JMLR 7:1).

    Attributes:
        blocks: number of blocks, within which arms are ranked.
        mean: `[arms]` mean rank, 1 is best.
        p: of Friedman's test.
        critical_difference: of mean ranks, by Nemenyi's test at 5 %.
    """

    blocks: int
    mean: np.ndarray
    p: float
    critical_difference: float


def rank_arms(scores: np.ndarray) -> Ranks | None:
    """Rank `[blocks, arms]` scores, higher is better; None with fewer than three arms or two blocks.

    Blocks with a NaN are left out.
    """
    scores = scores[np.isfinite(scores).all(axis=1)]
    blocks, arms = scores.shape
    if arms < 3 or blocks < 2:
        return None
    tied = bool((scores == scores[:, :1]).all())
    width = stats.studentized_range.ppf(LEVEL, arms, np.inf) / np.sqrt(2) * np.sqrt(arms * (arms + 1) / (6 * blocks))
    return Ranks(
        blocks,
        stats.rankdata(-scores, axis=1).mean(axis=0),
        1.0 if tied else float(stats.friedmanchisquare(*scores.T).pvalue),
        float(width),
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float, int]:
    """Spearman's correlation, its p-value and the number of pairs; NaN with fewer than three, or if one is constant."""
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan, np.nan, len(first)
    found = stats.spearmanr(first, second)
    return float(found.statistic), float(found.pvalue), len(first)


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of finite values; NaN, without a warning, if there are none."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
