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
    bootstrap_interval,
    case_means,
    comparable,
    compare,
    compare_all,
    crossed_spread,
    holm,
    mean_spread,
    rank_arms,
    rank_correlation,
    run_means,
    runs_spread,
    signed_rank,
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
    return effect_of(found.difference, found.rank_biserial, found.adjusted["p_cases"], found.adjusted["p_both"])


def wrong_verdicts(seed, benchmarks=200, **luck):
    """Shares of benchmarks without effect in which any arm helps or harms: by the verdict, and by Wilcoxon alone."""
    rng, verdicts, over_cases = np.random.default_rng(seed), 0, 0
    for _ in range(benchmarks):
        found = compare_all(simulate(rng, **luck)).values()
        verdicts += any(effect_on(one) in (Effect.HELPS, Effect.HARMS) for one in found)
        over_cases += any(one.adjusted["p_cases"] <= 0.05 for one in found)
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


def test_an_effect_as_large_as_detectable_is_found_four_times_of_five():
    rng = np.random.default_rng(4)
    shape = (3, 8, 40)  # many training sets, so that its own estimate is not all noise
    detectable = np.median([compare(simulate(rng, effects=(0,), shape=shape)["arm 0"]).detectable for _ in range(60)])
    hits = [compare(simulate(rng, effects=(detectable,), shape=shape)["arm 0"]).p_both <= 0.05 for _ in range(250)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.09)


def test_holm_is_statsmodels():
    rng = np.random.default_rng(5)
    for count in (1, 2, 5, 9):
        p_values = rng.uniform(0, 0.2, count)
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)  # NaN is no member


def test_wilcoxon_is_of_cases_and_effect_sizes_are_those_of_the_textbooks():
    difference = simulate(np.random.default_rng(6), effects=(0.002,))["arm 0"]
    by_case = difference.mean(axis=(0, 1))
    one = compare(difference)
    assert one.p_cases == pytest.approx(stats.wilcoxon(by_case).pvalue)
    assert one.difference == pytest.approx(difference.mean())
    assert one.cohens_dz == pytest.approx(stats.ttest_1samp(by_case, 0).statistic / np.sqrt(len(by_case)))
    assert (one.cases, one.runs) == (40, 9)
    # R. A. Fisher's data of Darwin's maize: W- is 24, W+ is 96 (Wilcoxon's own example of 1945)
    darwin = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
    p, biserial = signed_rank(darwin)
    assert biserial == pytest.approx((96 - 24) / (96 + 24))
    assert p == pytest.approx(0.041, abs=0.001)
    assert signed_rank(np.array([0.0, 0, 1, 2, 3, -1.5])) == signed_rank(np.array([1.0, 2, 3, -1.5]))
    assert signed_rank(np.zeros(5)) == (1.0, 0.0)


def test_with_one_size_the_test_over_runs_is_students():
    difference = simulate(np.random.default_rng(7), shape=(1, 5, 40))["arm 0"]
    one, expected = compare(difference), stats.ttest_1samp(difference.mean(axis=2)[0], 0)
    assert one.p_runs == pytest.approx(expected.pvalue)
    assert one.p_training_sets == pytest.approx(expected.pvalue)
    assert one.p_both >= one.p_runs


def test_with_two_sizes_of_opposite_sign_the_test_over_runs_is_welchs():
    """The mean of two sizes is half their difference, when one is turned round."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(1, 1, 6), rng.normal(0, 4, 6)
    spread = runs_spread(np.stack([first, -second]))
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
        parts = runs_spread(run_means(difference)), mean_spread(case_means(difference))
        assert crossed_spread(difference).variance >= max(part.variance for part in parts)


def test_bootstrap_interval_covers_and_is_of_cases():
    rng, inside = np.random.default_rng(11), 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(1, 2, 40), rng, resamples=499)
        inside += low <= 1 <= high
    assert inside / 300 == pytest.approx(0.94, abs=0.03)
    sample = rng.normal(0, 1, 200)
    low, high = bootstrap_interval(sample, rng)
    student = stats.t.interval(0.95, 199, sample.mean(), stats.sem(sample))
    assert (low, high) == pytest.approx(student, abs=0.02)
    assert bootstrap_interval(np.array([3.0, 3, 3, np.nan]), rng) == (3, 3)
    assert np.isnan(bootstrap_interval(np.array([3.0]), rng)).all()


def test_bootstrap_over_cases_does_not_shrink_with_more_runs_of_the_same():
    """Repeats are no new cases."""
    by_case = np.random.default_rng(12).normal(0, 1, 40)
    once, often = np.tile(by_case, (1, 1, 1)), np.tile(by_case, (3, 5, 1))
    intervals = [bootstrap_interval(case_means(d), np.random.default_rng(0), resamples=999) for d in (once, often)]
    assert intervals[0] == pytest.approx(intervals[1])
    assert compare(once).p_cases == pytest.approx(compare(often).p_cases)


def test_one_repeat_allows_no_verdict_however_large_the_effect():
    one = compare_all({"arm": simulate(np.random.default_rng(13), effects=(0.5,), shape=(3, 1, 40))["arm 0"]})["arm"]
    assert one.adjusted["p_cases"] < 1e-6
    assert np.isnan([one.p_runs, one.p_both, one.low, one.high, one.detectable]).all()
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
    assert without.cases == 39
    nothing = compare(np.full(SHAPE, np.nan))
    assert nothing.cases == nothing.runs == 0
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


def test_ranks_are_friedmans_and_nemenyis():
    """Demšar 2006, table 6: four algorithms on fourteen datasets."""
    scores = np.array(
        [
            [0.763, 0.768, 0.771, 0.798],
            [0.599, 0.591, 0.590, 0.569],
            [0.954, 0.971, 0.968, 0.967],
            [0.628, 0.661, 0.654, 0.657],
            [0.882, 0.888, 0.886, 0.898],
            [0.936, 0.931, 0.916, 0.931],
            [0.661, 0.668, 0.609, 0.685],
            [0.583, 0.583, 0.563, 0.625],
            [0.775, 0.838, 0.866, 0.875],
            [1.000, 1.000, 1.000, 1.000],
            [0.940, 0.962, 0.965, 0.962],
            [0.619, 0.666, 0.614, 0.669],
            [0.972, 0.981, 0.9751, 0.975],
            [0.957, 0.978, 0.946, 0.970],
        ]
    )
    ranks = rank_arms(scores)
    assert ranks.mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert ranks.critical_difference == pytest.approx(1.25, abs=0.005)
    assert ranks.blocks == 14
    assert ranks.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert rank_arms(scores[:, :2]) is None
    assert rank_arms(np.where(np.arange(14)[:, None] < 13, np.nan, scores)) is None


def test_rank_correlation_is_spearmans_over_what_is_known():
    first, second = np.array([1.0, 2, 3, 4, np.nan]), np.array([1.0, 4, 9, 8, 0])
    assert rank_correlation(first, second) == pytest.approx((0.8, stats.spearmanr(first[:4], second[:4])[1], 4))
    assert rank_correlation(first[:2], second[:2])[2] == 2
    assert np.isnan(rank_correlation(np.ones(4), second[:4])[0])
