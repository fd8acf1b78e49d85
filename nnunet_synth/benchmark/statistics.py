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

    def half_width(self) -> float:
        """Half the width of the interval around the estimate."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.dof) * np.sqrt(self.variance)) if self.dof > 0 else np.nan


@dataclass(frozen=True)
class Comparison:
    """An arm against nnU-Net alone, in the metric's own units.

    Attributes:
        paired_cases, paired_runs: numbers of compared cases, and of compared pairs of runs.
        difference: mean over sizes, sets and cases.
        low, high: interval of the difference for other runs and other cases; NaN with one training set.
        p_cases: Wilcoxon's signed-rank test over cases.
        p_both: the larger p-value of the t test over runs, and of that with both runs and cases as samples; NaN with
            one training set.
        p_cases_holm, p_both_holm: the same with Holm's correction; NaN without a family of arms.
    """

    paired_cases: int
    paired_runs: int
    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_cases: float = np.nan
    p_both: float = np.nan
    p_cases_holm: float = np.nan
    p_both_holm: float = np.nan


def compare(difference: np.ndarray) -> Comparison:
    """Compare one arm with nnU-Net alone.

    Args:
        difference: `[sizes, sets, cases]`.
    """
    difference = comparable(difference)
    by_case, by_run = case_means(difference), run_means(difference)
    present = by_case[np.isfinite(by_case)]
    if not len(present):
        return Comparison(0, 0)
    estimate, changed = float(present.mean()), present[present != 0]
    runs, crossed = mean_spread(by_run), crossed_spread(difference)
    widest = max(runs, crossed, key=Spread.half_width).half_width() if crossed.dof > 0 else np.nan
    return Comparison(
        paired_cases=len(present),
        paired_runs=int(np.isfinite(by_run).sum()),
        difference=estimate,
        low=estimate - widest,
        high=estimate + widest,
        p_cases=float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0,
        p_both=max(runs.p(estimate), crossed.p(estimate)) if crossed.dof > 0 else np.nan,
    )


def compare_all(differences: Mapping[str, np.ndarray]) -> dict[str, Comparison]:
    """Compare several arms with nnU-Net alone, each kind of p-value Holm-corrected over them.

    Args:
        differences: by arm, `[sizes, sets, cases]`.
    """
    found = {name: compare(difference) for name, difference in differences.items()}
    for kind in ("p_cases", "p_both"):
        corrected = holm([getattr(one, kind) for one in found.values()]).tolist()
        for name, p in zip(found, corrected, strict=True):
            found[name] = replace(found[name], **{f"{kind}_holm": p})
    return found


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


def mean_spread(values: np.ndarray) -> Spread:
    """Spread of the mean over sizes of the means of `[sizes, N]` values; NaN are left out.

    Sizes may differ in their variance (Welch 1947, Biometrika 34:28; Satterthwaite 1946, Biometrics 2:110).
    """
    count = np.isfinite(values).sum(axis=1)
    if not len(count) or count.min() < 2:
        return Spread(np.nan, 0)
    return _sum(np.nanvar(values, axis=1, ddof=1) / count / len(values) ** 2, count - 1)


def crossed_spread(difference: np.ndarray) -> Spread:
    """Spread of the mean with runs and cases as crossed random factors (Clark 1973, quasi-F).

    The variance over runs plus that over cases, minus that of single scores, which is in both, and at least the larger
    of the two. In simulations with both sources of chance it keeps its level, where the worse of the two tests doubles
    or triples it (tests/test_benchmark_statistics.py).
    """
    runs, cases = mean_spread(run_means(difference)), mean_spread(case_means(difference)[None])
    if runs.dof <= 0 or cases.dof <= 0:
        return Spread(np.nan, 0)
    squares = rest_dof = scores = 0.0  # of what neither run nor case explains
    for size in difference:
        size = size[np.isfinite(size).any(axis=1)]
        size = size[:, np.isfinite(size).all(axis=0)]
        if size.shape[1] > 1:
            rest = size - size.mean(axis=0) - size.mean(axis=1, keepdims=True) + size.mean()
            squares += (rest**2).sum()
            rest_dof += (size.shape[0] - 1) * (size.shape[1] - 1)
            scores += 1 / size.size
    single = squares / rest_dof * scores / len(difference) ** 2 if rest_dof else 0.0
    total = _sum(np.array([runs.variance, cases.variance]), np.array([runs.dof, cases.dof]))
    variance = max(runs.variance, cases.variance, total.variance - single)
    dof = total.dof * (variance / total.variance) ** 2 if total.variance else total.dof
    return Spread(float(variance), float(max(1.0, dof)))


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


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of finite values; NaN, without a warning, if there are none."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
