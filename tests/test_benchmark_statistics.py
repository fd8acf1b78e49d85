"""What a benchmark's statistics promise: they know luck from effect, and are what the textbooks say."""

import numpy as np
import pytest
from made_benchmark import make_benchmark
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from nnunet_synth.benchmark.analysis import CLASSES, analyse
from nnunet_synth.benchmark.protocol import LOOKS, OBRIEN_FLEMING, Effect, Protocol
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import compare, holm, run_noise, set_gains, sign_flip_test

# Measured on Hippocampus, in Dice: deviations of a training set and of a run, with 4 cases and with more.
SET, RUN_OF_4, RUN = 0.012, 0.015, 0.012
TOLERANCE = {"margin": 0.01, "equivalence": 0.9}


def simulate(rng, arms=1, sets=12, runs=1, baseline_runs=3, cases=1, effect=0.0, set_effect=0.0, score=0.003):
    """`[arms + 1, sets, runs, cases]` scores; the first are of nnU-Net alone. An arm's effect varies with the set.

    One case stands for the mean of 40.
    """
    scores = rng.normal(0.7, SET, (sets, 1, 1)) + rng.normal(0, RUN, (arms + 1, sets, baseline_runs, 1))
    scores = scores + score * rng.standard_t(4, (*scores.shape[:3], cases)) / np.sqrt(2 * cases)
    scores[1:] += effect + rng.normal(0, set_effect, (arms, sets, 1, 1))
    scores[1:, :, runs:] = np.nan
    return scores


# --- planted truths


@pytest.mark.parametrize("seed", range(20))
def test_planted_truths_get_their_verdicts(tmp_path, seed):
    """Real cases, shuffled masks, copies, and nnU-Net itself, with simulated luck of sets, runs and cases."""
    effects = {"true-labels": 0.06, "shuffled": -0.1, "copies": 0.0, "again": 0.0}
    luck = {"run_luck": RUN_OF_4, "set_luck": SET}
    make_benchmark(tmp_path, effects, sizes=(4,), training_sets=12, cases=10, labels=("1",), seed=seed, **luck)
    analysis = analyse(read_benchmark(tmp_path))
    found = {arm: analysis.row(arm, 4)["effect"] for arm in effects}
    nothing = {Effect.NO_EVIDENCE.value, Effect.EQUIVALENT.value}
    assert (found["true-labels"], found["shuffled"]) == (Effect.HELPS.value, Effect.HARMS.value)
    assert {found["copies"], found["again"]} <= nothing


@pytest.mark.parametrize(
    ("set_effect", "count"), [(0.01, 150), *(pytest.param(e, 2000, marks=pytest.mark.slow) for e in (0.0, 0.01, 0.02))]
)
def test_at_most_5_of_100_benchmarks_without_effect_get_a_verdict_at_any_look(set_effect, count):
    """Three arms that share their nnU-Net alone, looked at after 6, 12 and 18 training sets."""
    rng, protocol, wrong = np.random.default_rng(1), Protocol(), 0
    for _ in range(count):
        alone, *arms = simulate(rng, arms=3, sets=18, set_effect=set_effect)
        gains = [set_gains(arm, alone) for arm in arms]
        for look in LOOKS:
            p_values = holm([sign_flip_test(gain[:look]) for gain in gains])
            verdicts = [protocol.effect(look, g[:look].mean(), p, -1, 1) for g, p in zip(gains, p_values, strict=True)]
            if {*verdicts} & {Effect.HELPS, Effect.HARMS}:
                wrong += 1
                break
    print(f"{wrong} of {count}")
    assert wrong / count <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / count)


def test_two_points_are_found_with_12_training_sets():
    rng, protocol, found = np.random.default_rng(2), Protocol(), 0
    for _ in range(200):
        alone, arm = simulate(rng, effect=0.02)
        gains = set_gains(arm, alone)
        found += protocol.effect(12, gains.mean(), sign_flip_test(gains), -1, 1) is Effect.HELPS
    assert found >= 180


# --- tests and intervals


@pytest.mark.parametrize("sets", [2, 6, 9])
def test_the_sign_flip_test_is_scipys_exact_one(sets):
    rng = np.random.default_rng(sets)
    for gains in (rng.normal(0.3, 1, sets), np.round(rng.normal(0.3, 1, sets), 1), np.ones(sets)):
        expected = stats.permutation_test(
            (gains,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True
        )
        assert sign_flip_test(gains) == pytest.approx(expected.pvalue)
    assert sign_flip_test(np.ones(sets)) == pytest.approx(2 / 2**sets)
    assert sign_flip_test(np.zeros(sets)) == 1


def test_the_sign_flip_test_of_many_sets_is_that_of_random_flips():
    gains = np.random.default_rng(3).normal(0.4, 1, 24)
    exact = stats.norm.sf(gains.sum() / np.sqrt((gains**2).sum())) * 2  # for many sets
    assert sign_flip_test(gains) == pytest.approx(exact, abs=0.01)


def test_intervals_and_equivalence_are_students():
    alone, arm = simulate(np.random.default_rng(4), cases=5)
    gains = arm[:, 0].mean(axis=1) - alone.mean(axis=(1, 2))
    found, students = compare(arm, alone, **TOLERANCE), stats.ttest_1samp(gains, 0)
    assert found.difference == pytest.approx(gains.mean())
    assert (found.sets, found.won) == (12, pytest.approx((gains > 0).mean()))
    for low, high, level in (
        (found.low, found.high, 0.95),
        (found.equivalence_low, found.equivalence_high, TOLERANCE["equivalence"]),
    ):
        assert (low, high) == pytest.approx(students.confidence_interval(level))
    assert found.p_equivalence == pytest.approx(DescrStatsW(gains).ttost_mean(-0.01, 0.01)[0])


def test_equivalence_is_two_one_sided_tests_at_5_percent():
    rng, protocol, verdicts = np.random.default_rng(5), Protocol(), set()
    for _ in range(60):
        alone, arm = simulate(rng, effect=rng.uniform(-0.01, 0.01))
        found = compare(arm, alone, **TOLERANCE)
        interval = found.equivalence_low, found.equivalence_high
        verdicts.add(effect := protocol.effect(12, found.difference, 1.0, *interval))
        assert (effect is Effect.EQUIVALENT) == (found.p_equivalence < 0.05)
    assert verdicts == {Effect.EQUIVALENT, Effect.NO_EVIDENCE}


def test_the_bootstrap_holds_what_it_promises_where_t_over_sets_does_not():
    """Test cases on which an arm has an effect of its own are a sample too."""
    rng, inside = np.random.default_rng(6), {"t": 0, "bootstrap": 0}
    for _ in range(200):
        alone, arm = simulate(rng, cases=20, effect=0.01, score=0.02)
        arm = arm + rng.normal(0, 0.04, 20)
        found = compare(arm, alone, **TOLERANCE)
        inside["t"] += found.low <= 0.01 <= found.high
        inside["bootstrap"] += found.bootstrap_low <= 0.01 <= found.bootstrap_high
    assert inside["bootstrap"] / 200 >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / 200)  # four standard errors
    assert inside["t"] < inside["bootstrap"]


def test_holm_is_statsmodels():
    rng = np.random.default_rng(5)
    for count in (1, 2, 5, 9):
        p_values = rng.uniform(0, 0.2, count)
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)  # NaN is not a member


def test_noise_is_that_of_runs_with_one_training_set():
    rng = np.random.default_rng(15)
    baseline = rng.normal(0, 0.05, (4000, 1, 1)) + rng.normal(0, 0.01, (4000, 3, 1)) + np.zeros((1, 1, 5))
    baseline[0, 1:] = np.nan  # one run says nothing
    noise = run_noise(baseline)
    assert noise.dof == 3999 * 2
    assert noise.deviation == pytest.approx(0.01, rel=4 / np.sqrt(2 * noise.dof))
    expected = 1.96 * 0.01 * np.sqrt((1 + 1 / 3) / 12)
    assert noise.half_width(12, 1, 3) == pytest.approx(expected, rel=0.05)
    assert np.isnan(run_noise(baseline[:1]).half_width(1, 1, 3))


# --- what is missing


def test_missing_runs_sets_and_cases_are_left_out():
    alone, arm = simulate(np.random.default_rng(14), cases=6)
    whole = compare(arm[1:], alone[1:], **TOLERANCE)
    holed = arm.copy()
    holed[0] = np.nan
    assert compare(holed, alone, **TOLERANCE) == whole
    holed = alone.copy()
    holed[3, 2] = np.nan
    expected = arm[3, 0].mean() - alone[3, :2].mean()
    assert set_gains(arm, holed)[3] == pytest.approx(expected)
    without = compare(np.delete(arm, 2, axis=2), np.delete(alone, 2, axis=2), **TOLERANCE)
    arm[..., 2] = alone[..., 2] = np.nan  # no test case has the class
    assert compare(arm, alone, **TOLERANCE) == without


def test_one_training_set_allows_no_verdict_however_large_the_effect():
    alone, arm = simulate(np.random.default_rng(13), sets=1, cases=40, effect=0.5)
    found = compare(arm, alone, **TOLERANCE)
    assert np.isnan([found.p, found.low, found.bootstrap_low]).all()
    assert Protocol().effect(1, found.difference, found.p, np.nan, np.nan) is Effect.NO_EVIDENCE
    nothing = compare(np.full_like(arm, np.nan), alone, **TOLERANCE)
    assert (nothing.sets, Protocol().effect(0, nothing.difference, nothing.p, 0, 0)) == (0, Effect.NOTHING)


# --- looks


def exceeds(bound, looks):
    """Probability that the z statistic of any of equally spaced looks is beyond bound · √(looks / look)."""
    times = np.arange(1, looks + 1)
    normal = stats.multivariate_normal(np.zeros(looks), np.minimum.outer(times, times))  # of sums
    limit = np.full(looks, bound * np.sqrt(looks))
    return 1 - normal.cdf(limit, lower_limit=-limit)


@pytest.mark.parametrize(("looks", "printed"), [(2, 1.977), (3, OBRIEN_FLEMING), (4, 2.024), (5, 2.040)])
def test_bounds_are_obrien_and_flemings(looks, printed):
    """Jennison & Turnbull 2000, table 2.3; printed with three decimals."""
    bound = optimize.brentq(lambda bound: exceeds(bound, looks) - 0.05, 1.9, 2.2, xtol=1e-4)
    assert bound == pytest.approx(printed, abs=0.001)


def test_levels_are_those_of_the_bounds_and_wait_for_the_next_look():
    protocol = Protocol()
    expected = [2 * stats.norm.sf(OBRIEN_FLEMING * np.sqrt(3 / look)) for look in (1, 2, 3)]
    assert protocol.levels == pytest.approx(expected, abs=5e-6)
    assert [protocol.level(sets) for sets in (5, 6, 11, 12, 17, 18, 40)] == [
        0, *protocol.levels[:1] * 2, *protocol.levels[1:2] * 2, *protocol.levels[2:] * 2
    ]  # fmt: skip
    assert [protocol.next_look(sets) for sets in (1, 6, 12, 18)] == [6, 12, 18, None]
    assert protocol.effect(12, 0.02, 0.02, -1, 1) is Effect.NO_EVIDENCE
    assert protocol.effect(18, 0.02, 0.02, -1, 1) is Effect.HELPS


def test_nothing_but_dice_of_all_classes_is_tested(tmp_path):
    table = analyse(read_benchmark(make_benchmark(tmp_path, sizes=(4,), cases=6))).table
    tested = table[table[["p", "p_holm"]].notna().any(axis=1)].reset_index()
    assert {*zip(tested["metric"], tested["label"], strict=True)} == {("dice", CLASSES)}
