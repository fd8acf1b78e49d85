"""What a benchmark's statistics promise: they know luck from effect, and are what the textbooks say."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
from statsmodels.stats.multitest import multipletests

from nnunet_synth.benchmark.report.verdict import Effect, effect_of
from nnunet_synth.benchmark.statistics import (
    Noise,
    baseline_noise,
    case_means,
    comparable,
    compare,
    compare_all,
    crossed_spread,
    holm,
    mean_spread,
    run_means,
)

ARMS, SHAPE = 3, (3, 3, 40)  # sizes, training sets, cases


def simulate(rng, *, run=0.004, case=0.0, score=0.02, effects=(0.0,) * ARMS, shape=SHAPE):
    """Differences to one and the same nnU-Net alone, by arm; in Dice.

    Args:
        run: standard deviation of a run's luck, of the arm's as of the baseline's.
        case: of what an arm does to a case, about its effect.
        score: of what is left, heavy-tailed as Dice is.
    """
    sizes, training_sets, cases = shape

    def scores():
        return rng.normal(0, run, (sizes, training_sets, 1)) + score * rng.standard_t(4, shape) / np.sqrt(2)

    alone = scores()
    return {
        f"arm {number}": effect + rng.normal(0, case, cases) + scores() - alone for number, effect in enumerate(effects)
    }


def effect_on(found):
    return effect_of(found.difference, found.p_cases_holm, found.p_both_holm)


def wrong_verdicts(seed, benchmarks=200, **luck):
    """Shares of benchmarks without effect in which any arm helps or harms: by the verdict, and by Wilcoxon alone."""
    rng, verdicts, over_cases = np.random.default_rng(seed), 0, 0
    for _ in range(benchmarks):
        found = compare_all(simulate(rng, **luck)).values()
        verdicts += any(effect_on(one) in (Effect.HELPS, Effect.HARMS) for one in found)
        over_cases += any(one.p_cases_holm <= 0.05 for one in found)
    return verdicts / benchmarks, over_cases / benchmarks


@pytest.mark.parametrize(
    "luck",
    [
        {"run": 0.004},
        {"run": 0.004, "case": 0.012},  # variances of the mean by runs and by cases are about the same
        {"run": 0.0, "case": 0.02},
        {"run": 0.006, "shape": (1, 2, 40)},
    ],
)
def test_luck_is_no_verdict(luck):
    verdicts, over_cases = wrong_verdicts(1, **luck)
    assert verdicts <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    if luck["run"] >= 0.004 and luck.get("case", 0) == 0:
        assert over_cases > 0.25  # which is why Wilcoxon's test alone decides nothing


@pytest.mark.parametrize(("effect", "expected"), [(0.03, Effect.HELPS), (-0.03, Effect.HARMS)])
def test_a_strong_effect_is_found_in_its_arm_and_in_no_other(effect, expected):
    rng, found, others = np.random.default_rng(2), 0, 0
    for _ in range(100):
        judged = {arm: effect_on(one) for arm, one in compare_all(simulate(rng, effects=(0, effect, 0))).items()}
        found += judged["arm 1"] is expected
        others += judged["arm 0"] is not Effect.NO_EVIDENCE
    assert found >= 97
    assert others <= 8


def test_intervals_over_runs_and_cases_hold_what_they_promise():
    rng, inside = np.random.default_rng(3), 0
    for _ in range(400):
        one = compare(simulate(rng, case=0.012, effects=(0.01,))["arm 0"])
        inside += one.low <= 0.01 <= one.high
    assert inside / 400 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)
    assert inside / 400 <= 0.99


def test_holm_is_statsmodels():
    rng = np.random.default_rng(5)
    for count in (1, 2, 5, 9):
        p_values = rng.uniform(0, 0.2, count)
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)  # NaN is no member


def test_wilcoxon_is_of_cases_without_ties():
    difference = simulate(np.random.default_rng(6), effects=(0.002,))["arm 0"]
    one = compare(difference)
    assert one.p_cases == pytest.approx(stats.wilcoxon(difference.mean(axis=(0, 1))).pvalue)
    assert one.difference == pytest.approx(difference.mean())
    assert (one.paired_cases, one.paired_runs) == (40, 9)
    # R. A. Fisher's data of Darwin's maize: W- is 24 (Wilcoxon's own example of 1945)
    darwin = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])[None, None]
    assert compare(darwin).p_cases == pytest.approx(0.041, abs=0.001)
    same = np.zeros((1, 1, 2))
    assert compare(np.concatenate([same, darwin], axis=2)).p_cases == compare(darwin).p_cases
    assert compare(same).p_cases == 1


def test_with_one_size_the_test_over_runs_is_students():
    by_run = simulate(np.random.default_rng(7), shape=(1, 5, 40))["arm 0"].mean(axis=2)
    expected = stats.ttest_1samp(by_run[0], 0)
    assert mean_spread(by_run).p(by_run.mean()) == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert mean_spread(by_run).half_width() == pytest.approx((interval.high - interval.low) / 2)


def test_with_two_sizes_of_opposite_sign_the_test_over_runs_is_welchs():
    """The mean of two sizes is half their difference, when one is turned round."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(1, 1, 6), rng.normal(0, 4, 6)
    spread = mean_spread(np.stack([first, -second]))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert spread.p((first.mean() - second.mean()) / 2) == pytest.approx(expected.pvalue)
    assert spread.dof == pytest.approx(expected.df)


def test_crossed_spread_is_that_of_a_mixed_model():
    """Against restricted maximum likelihood with crossed random effects, which agrees where all parts are positive."""
    rng = np.random.default_rng(9)
    runs, cases = 8, 30
    size = rng.normal(0, 1, (runs, 1)) + rng.normal(0, 1.5, cases) + rng.normal(0, 1, (runs, cases))
    run, case = (index.ravel() for index in np.indices(size.shape))
    parts = {"run": _dummies(run), "case": _dummies(case)}
    model = MixedLM(
        size.ravel(),
        np.ones((size.size, 1)),
        groups=np.zeros(size.size),
        exog_vc=_components(parts),
    ).fit(reml=True)
    assert np.sqrt(crossed_spread(size[None]).variance) == pytest.approx(float(model.bse[0]), rel=0.02)


def _dummies(level):
    return (level[:, None] == np.unique(level)).astype(float)


def _components(parts):
    names = list(parts)
    columns = [[[f"{name}{index}" for index in range(parts[name].shape[1])]] for name in names]
    return VCSpec(names, columns, [[parts[name]] for name in names])


def test_crossed_spread_is_never_less_than_either_part():
    rng = np.random.default_rng(10)
    for _ in range(50):
        difference = rng.normal(0, 1, (2, 3, 8))
        parts = mean_spread(run_means(difference)), mean_spread(case_means(difference)[None])
        assert crossed_spread(difference).variance >= max(part.variance for part in parts)


def test_the_test_over_cases_gains_nothing_from_more_runs_of_the_same():
    """Repeats are no new cases."""
    by_case = np.random.default_rng(12).normal(0, 1, 40)
    once, often = np.tile(by_case, (1, 1, 1)), np.tile(by_case, (3, 5, 1))
    assert compare(once).p_cases == pytest.approx(compare(often).p_cases)


def test_one_repeat_allows_no_verdict_however_large_the_effect():
    one = compare_all({"arm": simulate(np.random.default_rng(13), effects=(0.5,), shape=(3, 1, 40))["arm 0"]})["arm"]
    assert one.p_cases_holm < 1e-6
    assert np.isnan([one.p_both, one.low, one.high]).all()
    assert effect_on(one) is Effect.TOO_FEW


def test_missing_runs_and_undefined_scores_are_left_out():
    difference = simulate(np.random.default_rng(14))["arm 0"]
    holed = difference.copy()
    holed[0, 1:] = np.nan  # one run is left of this size: nothing is known of its luck
    assert comparable(holed).shape == (2, 3, 40)
    whole, without = compare(difference[1:]), compare(holed)
    assert without == whole
    holed = difference.copy()
    holed[:, :, 7] = np.nan
    whole, without = compare(np.delete(difference, 7, axis=2)), compare(holed)
    assert [without.p_cases, without.p_both, without.low] == pytest.approx([whole.p_cases, whole.p_both, whole.low])
    assert without.paired_cases == 39
    nothing = compare(np.full(SHAPE, np.nan))
    assert nothing.paired_cases == nothing.paired_runs == 0
    assert np.isnan(nothing.difference)


def test_sizes_count_alike_whatever_their_number_of_runs():
    difference = np.full((2, 4, 3), np.nan)
    difference[0, :2], difference[1] = 1.0, 4.0
    assert compare(difference).difference == pytest.approx(2.5)


def test_noise_is_that_of_nnunet_against_itself():
    """Two runs with luck of 0.01 each differ with a standard deviation of 0.01 √2."""
    rng = np.random.default_rng(15)
    baseline, again = (rng.normal(0, 0.01, (1, 4000, 1)) + np.zeros((1, 1, 5)) for _ in range(2))
    subset = rng.normal(0, 0.05, (1, 4000, 1))  # of the training cases, shared by both
    measured, bound = baseline_noise(baseline + subset, again + subset), baseline_noise(baseline + subset, None)
    assert np.sqrt(measured.variance[0]) == pytest.approx(0.01 * np.sqrt(2), rel=0.05)
    assert np.sqrt(bound.variance[0]) == pytest.approx(np.sqrt(2) * np.hypot(0.01, 0.05), rel=0.05)
    assert (measured.measured, bound.measured) == (True, False)
    noise = Noise(np.array([4.0, 16.0]), np.array([1e9, 1e9]), True)
    spread = noise.spread(np.array([4, 4]))  # of the mean of two sizes: (4/4 + 16/4) / 4
    assert spread.p(np.sqrt(5 / 4) * 1.959964) == pytest.approx(0.05, abs=1e-4)
    assert np.isnan(baseline_noise(baseline[:, :1], None).spread(np.array([1])).p(0.1))
