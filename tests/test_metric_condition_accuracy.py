"""Condition accuracy: against counting one by one, scipy's rank correlation, and planted positions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import SampleSet, compare, default_metrics
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.condition_accuracy import estimate_positions
from stylegan2_cond.metrics.features import FeatureExtractor
from stylegan2_cond.metrics.inputs import as_sample_set
from stylegan2_cond.metrics.reference_sets import ReferenceSet
from stylegan2_cond.metrics.report import Evaluation, Measurement, table

CLASSES = (1, 2)


class MeanIntensity(FeatureExtractor):
    """The mean intensity of each patch."""

    name = "mean"
    standardised = False

    def identity(self):
        return self.name

    def __call__(self, samples):
        return torch.from_numpy(samples.image.reshape(len(samples), -1).mean(axis=1, keepdims=True))


def blobs(count, seed=0, chance=0.6, size=(12, 12)):
    """Label maps that show each class with some chance, at many sizes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, *size), np.int16)
    for patch_size in labels:
        for label in CLASSES:
            if rng.random() < chance:
                rows = slice(0, 6) if label == 1 else slice(6, 12)
                patch_size[rows] = label * (rng.random((6, *size[1:])) < rng.uniform(0.05, 1))
    return labels


def samples_of(label, condition=None, *, value=None, case=None):
    value = np.zeros(len(label)) if value is None else value
    image = np.zeros((len(label), 1, *label.shape[1:]), np.float32)
    return SampleSet(image + value.astype(np.float32).reshape(-1, *[1] * label.ndim), label, case, condition)


def measured(conditions, label, position=None):
    return conditions.measure(torch.from_numpy(label), None if position is None else torch.from_numpy(position)).numpy()


def judged(real, generated, conditions):
    return compare(real, generated, ["conditions"], MeanIntensity(), conditions=conditions)["conditions"]


REAL = blobs(300)
CONDITIONS = Conditions.from_patches(CLASSES, REAL, None)


def test_patches_meet_what_was_measured_on_themselves():
    generated = blobs(200, seed=1)
    result = judged(samples_of(REAL), samples_of(generated, measured(CONDITIONS, generated)), CONDITIONS)
    assert (result.value, result.standard_error, result.warning) == (1, 0, None)
    ones = [f"{label} {what}" for label in CLASSES for what in ("shown when in condition", "area")]
    assert [result.details.pop(name) for name in [*ones, "areas"]] == pytest.approx([1] * 5)
    assert [result.details.pop(f"{label} shown when not in condition") for label in CLASSES] == [0, 0]
    assert list(result.details) == ["by chance"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0.2, 0.6, 0.95]))
def test_every_figure_is_what_counting_one_by_one_and_scipy_say(seed, chance):
    wanted, generated = blobs(120, seed, chance), blobs(120, seed + 1, 0.6)
    generated[::3] = wanted[::3]
    generated[::5] = 0
    result = judged(samples_of(REAL), samples_of(generated, measured(CONDITIONS, wanted)), CONDITIONS)
    sets = [
        [{label for label in CLASSES if (patch_size == label).any()} for patch_size in side]
        for side in (wanted, generated)
    ]
    assert result.value == pytest.approx(np.mean([asked == shown for asked, shown in zip(*sets, strict=True)]))
    expected, ranks = {"by chance": np.mean([asked == shown for asked in sets[0] for shown in sets[1]])}, []
    for label in CLASSES:
        shown = {True: [], False: []}
        areas = []
        for asked, there, before, after in zip(*sets, wanted, generated, strict=True):
            shown[label in asked].append(label in there)
            if label in asked & there:
                areas.append([np.log((side == label).mean()) for side in (before, after)])
        for asked, when in ((True, "in condition"), (False, "not in condition")):
            if shown[asked]:  # most likely
                expected[f"{label} shown when {when}"] = np.mean(shown[asked])
        if len(areas) >= 10:
            ranks.append(spearmanr(*np.array(areas).T).statistic)
            expected[f"{label} area"] = ranks[-1]
    if ranks:
        expected["areas"] = np.mean(ranks)
    assert result.details == pytest.approx(expected, abs=1e-6)


def test_the_error_is_that_of_a_share():
    rng = np.random.default_rng(0)
    wanted = blobs(2000, seed=1, chance=1.0)
    generated = wanted * (rng.random(2000) < 0.7)[:, None, None].astype(np.int16)
    result = judged(samples_of(REAL), samples_of(generated, measured(CONDITIONS, wanted)), CONDITIONS)
    assert result.value == pytest.approx(0.7, abs=0.04)
    assert 0.6 < result.standard_error / np.sqrt(0.7 * 0.3 / 2000) < 1.5
    cases = np.repeat(np.arange(25), 80).astype(str)
    by_case = wanted * (rng.random(25) < 0.7)[:, None, None].repeat(80, axis=0).astype(np.int16)
    result = judged(samples_of(REAL), samples_of(by_case, measured(CONDITIONS, wanted), case=cases), CONDITIONS)
    assert 0.6 < result.standard_error / np.sqrt(result.value * (1 - result.value) / 25) < 1.5


def test_details_that_no_sample_determines_are_left_out():
    wanted = np.zeros((40, 12, 12), np.int16)
    wanted[:, 0, :3] = 1  # always, and always as large
    wanted[:9, 6, :5] = 2  # in too few samples to rank
    result = judged(samples_of(REAL), samples_of(wanted, measured(CONDITIONS, wanted)), CONDITIONS)
    assert result.details == {
        "by chance": pytest.approx((9 / 40) ** 2 + (31 / 40) ** 2),
        "1 shown when in condition": 1,
        "2 shown when in condition": 1,
        "2 shown when not in condition": 0,
    }


# --- position


def placed(count=200, seed=0):
    """Conditions with positions, real patches whose intensity is their place, and more such places."""
    rng = np.random.default_rng(seed)
    label, places, further = blobs(count, seed), rng.random(count), rng.random(count)
    conditions = Conditions.from_patches(CLASSES, label, places)
    return conditions, samples_of(label, measured(conditions, label, places), value=places), further


@pytest.mark.parametrize(("tell", "expected"), [(lambda place: place, 1.0), (lambda place: 1 - place, -1.0)])
def test_position_is_estimated_from_the_most_similar_real_patches(tell, expected):
    conditions, real, places = placed()
    generated = samples_of(real.label, measured(conditions, real.label, places), value=tell(places))
    assert judged(real, generated, conditions).details["position"] == pytest.approx(expected, abs=0.02)


def test_samples_that_ignore_their_position_have_no_correlation():
    conditions, real, places = placed()
    values = np.random.default_rng(9).random(200)
    generated = samples_of(real.label, measured(conditions, real.label, places), value=values)
    assert abs(judged(real, generated, conditions).details["position"]) < 0.25
    nearest = np.abs(values[:, None] - real.image[:, 0, 0, 0]).argsort(axis=1)[:, :5]
    estimated = (real.condition[:, -1][nearest].mean(axis=1) + 1) / 2
    expected = spearmanr(places, estimated).statistic
    found = judged(real, generated, conditions).details["position"]
    assert found == pytest.approx(expected, abs=5e-3)  # which of two neighbours is nearer may be left to rounding


def test_a_case_does_not_estimate_the_position_of_its_own_patches():
    conditions, real, places = placed()
    cases = np.array(list("abcd")).repeat(50)
    values = 10.0 * np.arange(4).repeat(50)  # nearest beside the own case are the ends of the next ones
    label = real.label
    real = samples_of(label, real.condition, value=values + real.image[:, 0, 0, 0], case=cases)
    generated = measured(conditions, label, places)
    strangers = judged(real, samples_of(label, generated, value=values + places), conditions)
    assert strangers.details["position"] > 0.95
    again = judged(real, samples_of(label, generated, value=values + places, case=cases), conditions)
    assert again.details["position"] < 0.5
    alone = np.full(200, "a")
    one_case = samples_of(label, real.condition, value=real.image[:, 0, 0, 0], case=alone)
    assert "position" not in judged(one_case, samples_of(label, generated, case=alone), conditions).details


def test_all_patches_of_few_other_cases_are_used(monkeypatch):
    conditions, real, _ = placed()
    cases = np.array(["a"] * 197 + ["b"] * 3)
    real = samples_of(real.label, real.condition, value=real.image[:, 0, 0, 0], case=cases)
    comparison = Comparison(real, real, features=MeanIntensity(), conditions=conditions)
    monkeypatch.setattr("stylegan2_cond.metrics.condition_accuracy.CHUNK", 7)
    estimated, places = estimate_positions(comparison), (real.condition[:, -1] + 1) / 2
    np.testing.assert_allclose(estimated[:197], places[197:].mean(), rtol=1e-5)
    for number in (197, 198, 199):
        nearest = np.abs(places[:197] - places[number]).argsort()[:5]
        assert estimated[number] == pytest.approx(places[nearest].mean(), abs=1e-4)


def test_without_positions_of_real_patches_position_is_left_out():
    conditions, real, places = placed()
    generated = samples_of(real.label, measured(conditions, real.label, places), value=places)
    assert "position" not in judged(samples_of(real.label), generated, conditions).details


# --- requirements


def test_samples_without_conditions_are_refused():
    asked = measured(CONDITIONS, REAL)
    known, unknown = samples_of(REAL, asked), samples_of(REAL)
    for generated, conditions in ((unknown, CONDITIONS), (known, None)):
        with pytest.raises(UserError, match="conditions needs samples with their condition"):
            judged(known, generated, conditions)
    with pytest.raises(UserError, match=r"needs conditions of width 4 .*\[3\]"):
        judged(unknown, samples_of(REAL, asked[:, :3]), CONDITIONS)
    with pytest.raises(UserError, match=r"needs conditions of width 4 .*\[3, 4\]"):
        judged(samples_of(REAL, asked[:, :3]), known, CONDITIONS)
    with pytest.raises(UserError, match="at least one class"):
        judged(unknown, samples_of(REAL, asked[:, :0]), Conditions(classes=(), has_position=False))
    with pytest.raises(UserError, match="needs masks"):
        compare(unknown, known.image, ["conditions"], conditions=CONDITIONS)


def test_it_is_a_default_metric_of_slices_and_volumes_with_conditions():
    assert "conditions" in default_metrics()
    for label in (REAL[:30], np.stack([blobs(4, seed=seed) for seed in range(30)])):
        conditions = Conditions.from_patches(CLASSES, label, None)
        pairs = SimpleNamespace(
            image=np.random.default_rng(0).random((30, 1, *label.shape[1:]), np.float32),
            label=label,
            condition=conditions.measure(torch.from_numpy(label)),
        )
        assert compare(pairs, pairs, conditions=conditions)["conditions"].value == 1
        assert "conditions" not in compare(pairs, pairs)


def test_sample_sets_carry_conditions():
    asked = measured(CONDITIONS, REAL)
    pairs = SimpleNamespace(image=samples_of(REAL).image, label=REAL, condition=torch.from_numpy(asked))
    whole = as_sample_set(pairs)
    np.testing.assert_array_equal(whole.condition, asked)
    assert whole.condition.dtype == np.float32
    np.testing.assert_array_equal(as_sample_set(whole).condition, asked)
    np.testing.assert_array_equal(whole.take(np.array([5, 2])).condition, asked[[5, 2]])
    np.testing.assert_array_equal(np.concatenate([part.condition for part in whole.batches(128)]), asked)
    np.testing.assert_array_equal(whole.cropped((6, 6)).condition, asked)
    np.testing.assert_array_equal(SampleSet.joined([whole, whole]).condition, np.concatenate([asked, asked]))
    assert SampleSet.joined([whole, samples_of(REAL)]).condition is None
    assert as_sample_set((pairs.image, REAL)).condition is None
    assert as_sample_set(SimpleNamespace(image=pairs.image, label=REAL)).condition is None
    for wrong in (asked[:-1], asked[:, 0]):
        with pytest.raises(UserError, match=r"300 images and conditions .*\[N, width\]"):
            as_sample_set(samples_of(REAL, wrong))


def test_real_patches_know_where_they_lie_and_what_they_show(preprocessed, plan):
    sets = ReferenceSet(preprocessed, plan, 40)
    for side in (sets.real, sets.again):
        shown, areas, _ = plan.conditions.decode(torch.from_numpy(side.condition))
        for column, label in enumerate(plan.conditions.classes):
            share = (side.label == label).mean(axis=(1, 2))
            np.testing.assert_array_equal(shown[:, column], share > 0)
            np.testing.assert_allclose(areas[:, column].exp().nan_to_num(0), share, rtol=1e-4)
    result = compare(sets.real, sets.again, ["conditions"], conditions=plan.conditions)["conditions"]
    assert (result.value, result.details["areas"]) == (1, pytest.approx(1))
    assert plan.conditions.has_position == ("position" in result.details)


# --- the line in the table


@pytest.mark.parametrize(
    ("details", "hint"),
    [
        ({"areas": 0.934, "position": 0.41}, "; rank correlation of areas 0.93, of position 0.41"),
        ({"areas": 0.934}, "; rank correlation of areas 0.93"),
        ({"1 shown when in condition": 1.0}, ""),
    ],
)
def test_the_table_has_a_line_for_it(details, hint):
    details |= {"by chance": 0.317}
    generated = Measurement(value=0.81, standard_error=0.012, details=details, warning=None, seconds=1)
    real = Measurement(value=1.0, standard_error=0.0, details={"areas": 1.0}, warning=None, seconds=1)
    evaluation = Evaluation.model_construct(
        generated={"conditions": generated}, real={"conditions": real}, held_out={}, missing={}, notes=()
    )
    _, line = table(evaluation).splitlines()
    parts = [part.strip() for part in line.split("  ") if part]
    assert parts == ["conditions met", "0.810 ± 0.012", "1 ± 0", f"higher is better, 0.32 by chance{hint}"]
