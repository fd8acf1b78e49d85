"""Snapshots are evaluated during training: which metrics for which generator, on which patches."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from tiny import tiny_plan
from tolerance import assert_rounded

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.metrics import METRICS, SampleSet, compare
from stylegan2_cond.metrics import memorization as copies_room
from stylegan2_cond.metrics.features import RandomPyramid
from stylegan2_cond.metrics.reference_sets import ReferenceSet, average_blocks, block_factors
from stylegan2_cond.snapshot import find_snapshots, load_generator
from stylegan2_cond.training import snapshot_evaluation
from stylegan2_cond.training.model_selection import (
    choose_best,
    flatten_results,
    memorization_warning,
)
from stylegan2_cond.training.snapshot_evaluation import COPY_VOXELS, SNAPSHOT_METRICS, SnapshotEvaluator

NAMES = [f"case{number}" for number in range(10)]
OTHER = 7  # a stream of patches that the judge does not use

# --- cases that are made up: smooth images, a class where they are bright


class MadeUp:
    """Stands for a preprocessed folder; remembers who was read."""

    def __init__(self, cases, shape, labels=2):
        self.read = []
        rng = np.random.default_rng(0)
        self.cases = {}
        for name in cases:
            image = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)[None].astype(np.float32)
            image /= image.std()
            label = np.clip(np.floor(image), 0, labels).astype(np.int16)
            voxels = {value: np.argwhere(label == value) for value in range(1, labels + 1)}
            self.cases[name] = Case(name, image, label, voxels)

    def load(self, name):
        self.read.append(name)
        return self.cases[name]


class Drawing:
    """Stands for a generator: draws patches of cases, which may be changed."""

    def __init__(self, preprocessed, plan, change=lambda image, label: (image, label), names=None):
        self.patches = PatchSampler(
            preprocessed, names or plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=OTHER
        )
        self.plan, self.change, self.asked = plan, change, []

    def sample(self, n, *, seed=0, masks=None):
        self.asked.append((n, seed))
        found = self.patches.batch(0, n)
        condition = self.plan.conditions.measure(torch.from_numpy(found.label), torch.from_numpy(found.position))
        return SampleSet(*self.change(found.image, found.label), condition=condition.numpy())


def made_up_plan(names=NAMES, patch_size=(24, 20), **changes):
    """A plan for cases that are made up."""
    plan = tiny_plan()
    changes = {
        "codec": Codec(low=(-2.0,), high=(2.0,), labels=(0, 1, 2)),
        "conditions": Conditions.from_patches((1, 2), np.arange(3).repeat(20).reshape(3, 4, 5), None),
        "source": plan.source.model_copy(
            update={"training_cases": tuple(names), "training_sha256": ("0" * 64,) * len(names)}
        ),
        "patch_size": tuple(patch_size),
    } | changes
    return plan.model_copy(update=changes)


@pytest.fixture(autouse=True)
def results_folder(monkeypatch, tmp_path):
    """What is kept for the next snapshot goes into the run's folder."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


@pytest.fixture
def flat():
    """Ten cases of six slices, and a plan for patches of 24×20."""
    return MadeUp(NAMES, (6, 26, 24)), made_up_plan()


# --- what is told of which generator


def test_a_snapshot_of_a_real_training_has_every_metric(preprocessed, generator_run):
    generator = load_generator(find_snapshots(generator_run)[-1])
    results = SnapshotEvaluator(preprocessed, generator.plan, samples=60).evaluate(generator)
    assert set(results) == {name for name in SNAPSHOT_METRICS if name in METRICS}
    assert all(math.isfinite(result.value) for result in results.values())
    assert results["kid"].value > 1  # 480 images teach little


def test_results_are_those_of_the_metrics_on_the_training_patches(flat):
    evaluator = SnapshotEvaluator(*flat, samples=50)
    drawing = Drawing(*flat, change=lambda image, label: (0.7 * image + 0.2, label))
    found = evaluator.evaluate(drawing)
    names = ["kid", "kid-pair", "swd", "masks", "diversity-within", "diversity-nearest"]
    expected = compare(evaluator.reference.real, drawing.sample(50), names, "random")
    assert {name: found[name].value for name in names} == pytest.approx({n: expected[n].value for n in names})
    assert {n: found[n].standard_error for n in names} == pytest.approx({n: expected[n].standard_error for n in names})


def test_only_training_cases_are_read():
    made_up, plan = MadeUp([*NAMES, "held_out"], (6, 26, 24)), made_up_plan()
    evaluator = SnapshotEvaluator(made_up, plan, samples=40)
    assert made_up.read == []  # nothing before the first snapshot
    evaluator.evaluate(Drawing(made_up, plan))
    assert set(made_up.read) == set(NAMES)
    assert set(evaluator.reference.real.case) | set(evaluator.reference.cover.patches.case) == set(NAMES)


def test_the_real_patches_are_those_that_evaluate_compares_with(flat):
    ours, theirs = SnapshotEvaluator(*flat, samples=30).reference.real, ReferenceSet(*flat, 30).real
    for name in ("image", "label", "case", "condition"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_the_same_latents_give_the_same_results_every_time(flat):
    evaluator, drawing = SnapshotEvaluator(*flat, samples=40), Drawing(*flat)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = flatten_results(evaluator.evaluate(drawing)), flatten_results(evaluator.evaluate(drawing))
    assert first == second == flatten_results(SnapshotEvaluator(*flat, samples=40).evaluate(drawing))
    assert drawing.asked == [(40, flat[1].seed)] * 3
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_real_patches_are_looked_at_once_in_a_training(flat, monkeypatch):
    looked, searched = [], []
    evaluator, drawing = SnapshotEvaluator(*flat, samples=40), Drawing(*flat)
    look, search = RandomPyramid.__call__, copies_room.nearest_cases
    monkeypatch.setattr(RandomPyramid, "__call__", lambda self, samples: looked.append(samples) or look(self, samples))
    monkeypatch.setattr(
        copies_room,
        "nearest_cases",
        lambda queries, *rest, **more: searched.append(queries) or search(queries, *rest, **more),
    )
    for _ in range(3):
        evaluator.evaluate(drawing)
    assert sum(samples is evaluator.reference.real for samples in looked) == 2  # images, and pairs
    assert len(searched) == 3 + 1


def noise(shape, spread):
    return np.random.default_rng(0).normal(0, spread, shape).astype(np.float32)


FAULTS = {
    "noise": (lambda image, label: (image + noise(image.shape, 1), label), "kid swd"),
    "masks of others": (lambda image, label: (image, np.roll(label, 1, axis=0)), "kid-pair"),
    "thick masks": (lambda image, label: (image, ndimage.grey_dilation(label, (1, 3, 3))), "masks kid-pair"),
    "one patch": (lambda image, label: (image[:1].repeat(len(image), 0), label), "diversity-nearest"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A evaluator, what it says of patches that are as good as real ones, and what draws them."""
    flat = MadeUp(NAMES, (6, 26, 24)), made_up_plan()
    evaluator = SnapshotEvaluator(*flat, samples=150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_evaluation, "COPY_SAMPLES", {2: 0})
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        return evaluator, evaluator.evaluate(Drawing(*flat)), flat


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_samples_shows_in_the_results(good, fault, monkeypatch):
    monkeypatch.setattr(snapshot_evaluation, "COPY_SAMPLES", {2: 0})
    (evaluator, real, flat), (change, names) = good, FAULTS[fault]
    found = evaluator.evaluate(Drawing(*flat, change=change))
    for name in names.split():
        assert abs(found[name].value - real[name].value) > 2.5 * real[name].standard_error
    if fault == "masks of others":
        assert found["kid"] == real["kid"]


@pytest.mark.parametrize(("variant", "silent"), [("mask", "kid-pair swd copies"), ("image", "masks conditions")])
def test_a_variant_is_not_evaluated_by_what_it_does_not_generate(flat, variant, silent):
    made_up, plan = flat[0], flat[1].model_copy(update={"variant": variant})

    def change(image, label):
        return (image[:, :0] if variant == "mask" else image), label

    found = SnapshotEvaluator(made_up, plan, samples=50).evaluate(Drawing(made_up, plan, change))
    assert set(found) == {name for name in SNAPSHOT_METRICS if name in METRICS} - set(silent.split())


def test_masks_alone_are_evaluated_as_one_hot_images(flat):
    made_up, plan = flat[0], flat[1].model_copy(update={"variant": "mask"})
    evaluator = SnapshotEvaluator(made_up, plan, samples=50)
    drawing = Drawing(made_up, plan, lambda image, label: (image[:, :0], ndimage.grey_dilation(label, (1, 3, 3))))
    found, label = evaluator.evaluate(drawing), drawing.sample(50).label
    real = evaluator.reference.real
    sides = [SampleSet(np.eye(3, dtype=np.float32)[s][..., 1:].transpose(0, 3, 1, 2)) for s in (real.label, label)]
    expected = compare(dataclasses.replace(sides[0], case=real.case), sides[1], ["kid"], "random")["kid"]
    assert found["kid"].value == pytest.approx(expected.value)
    assert found["kid"].value > 3 * found["kid"].standard_error


def test_a_class_that_no_training_patch_shows_does_not_change_what_is_measured(flat):
    def strange(image, label):
        return image, np.where((label == 0) & (image[:, 0] < -1.5), 9, label)

    evaluator = SnapshotEvaluator(*flat, samples=50)
    good, bad = evaluator.evaluate(Drawing(*flat)), evaluator.evaluate(Drawing(*flat, change=strange))
    assert evaluator.labels == (1, 2)
    assert bad["kid-pair"] == good["kid-pair"]


# --- what data do not allow is left out


def test_without_foreground_neither_masks_nor_conditions_are_evaluated():
    none = Conditions.from_patches((), np.zeros((1, 4, 5), np.int16), None)
    plan = made_up_plan(codec=Codec(low=(-2.0,), high=(2.0,), labels=(0,)), conditions=none)
    made_up = MadeUp(NAMES, (6, 26, 24), labels=0)
    found = SnapshotEvaluator(made_up, plan, samples=40).evaluate(Drawing(made_up, plan))
    assert set(found) == {"kid", "swd", "diversity-within", "diversity-nearest", "copies"}
    blank = plan.model_copy(update={"variant": "mask"})
    SnapshotEvaluator(made_up, blank, samples=40).evaluate(
        Drawing(made_up, blank, lambda image, label: (image[:, :0], label))
    )


@pytest.mark.parametrize(("cases", "told"), [(6, False), (7, True)])
def test_copies_are_counted_from_seven_cases_on(flat, cases, told):
    plan = made_up_plan(NAMES[:cases])
    assert ("copies" in SnapshotEvaluator(flat[0], plan, samples=40).evaluate(Drawing(flat[0], plan))) is told


def test_a_single_case_has_results_without_errors(flat):
    plan = made_up_plan(NAMES[:1])
    found = SnapshotEvaluator(flat[0], plan, samples=40).evaluate(Drawing(flat[0], plan, names=NAMES[1:]))
    assert {"kid", "kid-pair", "swd", "masks"} <= set(found)
    assert "diversity-nearest" not in found  # real patches of one case are no two samples
    assert "kid error" not in flatten_results(found)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_generator_that_diverged_is_no_error(flat, value):
    def broken(image, label):
        return np.full_like(image, value), np.zeros_like(label)

    found = flatten_results(SnapshotEvaluator(*flat, samples=40).evaluate(Drawing(*flat, change=broken)))
    assert all(map(math.isfinite, found.values()))
    assert math.isfinite(value) or not found  # masks beside no image tell nothing
    assert choose_best([{"kid": 100.0, "kid-pair": 100.0, "masks": 2.0}, found]) == 0


@pytest.mark.filterwarnings("error")
def test_constant_images_and_empty_masks_are_no_error(flat):
    made_up, plan = flat
    for name, case in made_up.cases.items():
        made_up.cases[name] = dataclasses.replace(case, image=np.ones_like(case.image))
    evaluator = SnapshotEvaluator(made_up, plan, samples=40)
    for change in (lambda image, label: (image, label), lambda image, label: (image, np.zeros_like(label))):
        assert "masks" in evaluator.evaluate(Drawing(made_up, plan, change))


# --- how many, and at what size


@given(st.lists(st.integers(4, 700), min_size=2, max_size=3))
def test_patches_for_copies_are_shrunk_no_more_than_needed(patch_size):
    factors = block_factors(patch_size, COPY_VOXELS)
    sizes = [length // factor for length, factor in zip(patch_size, factors, strict=True)]
    assert math.prod(sizes) <= COPY_VOXELS
    assert (max(factors) == 1) == (math.prod(patch_size) <= COPY_VOXELS)
    if max(factors) > 1:  # one step back of the axis that was shrunk last would be too large
        larger = [s if f == 1 else n // (f - 1) for n, f, s in zip(patch_size, factors, sizes, strict=True)]
        assert any(math.prod(sizes) // s * g > COPY_VOXELS for s, g in zip(sizes, larger, strict=True) if g > s)


def test_shrinking_averages_blocks():
    image = np.random.default_rng(0).standard_normal((3, 2, 7, 10)).astype(np.float32)
    blocks = image[:, :, :6, :9].reshape(3, 2, 3, 2, 3, 3).mean(axis=(3, 5))
    assert_rounded(average_blocks(image, (2, 3)), blocks, terms=2 * 3, scale=np.abs(image).max())
    assert np.array_equal(average_blocks(image, (1, 1)), image)


@pytest.mark.parametrize(("patch_size", "shape"), [((24, 20), (6, 26, 24)), ((16, 18, 14), (17, 18, 18))])
def test_copies_are_found_in_slices_and_in_shrunken_volumes(monkeypatch, patch_size, shape):
    monkeypatch.setattr(snapshot_evaluation, "COPY_VOXELS", 600)
    names = [f"case{number:02}" for number in range(50)]
    made_up, seen, plan = MadeUp(names, shape), names[:25], made_up_plan(names[:25], patch_size)
    evaluator = SnapshotEvaluator(made_up, plan, samples=40)
    assert max(evaluator.reference.factors) == (1 if len(patch_size) == 2 else 2)
    copied = evaluator.evaluate(
        Drawing(made_up, plan, lambda image, label: (1.3 * image + noise(image.shape, 0.2), label), seen)
    )
    fresh = evaluator.evaluate(Drawing(made_up, plan, names=names[25:]))
    assert copied["copies"].value > 95
    history = [{"images": 1} | flatten_results(fresh), {"images": 2} | flatten_results(copied)]
    assert memorization_warning(history[:1]) is None
    assert "snapshots/000000001" in memorization_warning(history)


@pytest.mark.parametrize("cases", [8, 30])
def test_what_is_usual_is_not_known_well_from_few_volumes(cases):
    names = [f"case{number:02}" for number in range(cases)]
    plan = made_up_plan(names, (10, 10, 10))
    found = SnapshotEvaluator(MadeUp(names, (10, 10, 10)), plan, samples=40).evaluate(
        Drawing(MadeUp([f"other{n}" for n in range(20)], (10, 10, 10)), plan, names=[f"other{n}" for n in range(20)])
    )
    # Among n + 1 volumes alike, each is the most extreme with probability 1 / (n + 1).
    assert found["copies"].standard_error > 100 / (cases + 1)
    assert found["copies"].standard_error < 100 / (cases + 1) + 100 * math.sqrt(0.25 / 44)


def test_the_reference_is_thinned_to_what_there_is_room_for(flat):
    whole = ReferenceSet(*flat, 30).cover.patches
    limit = whole.image.nbytes // 3
    thinned = ReferenceSet(*flat, 30, cover_bytes=limit).cover.patches
    assert limit / 2 < thinned.image.nbytes <= 1.1 * limit
    assert set(thinned.case) == set(NAMES)


def test_ignored_voxels_count_as_outside(flat):
    made_up, plan = flat
    codec = Codec(low=(-2.0,), high=(2.0,), labels=(0, 1), ignore=2)
    conditions = Conditions.from_patches((1,), np.arange(2).repeat(20).reshape(2, 4, 5), None)
    evaluator = SnapshotEvaluator(
        made_up, plan.model_copy(update={"codec": codec, "conditions": conditions}), samples=30
    )
    assert evaluator.labels == (1,)
    assert set(np.unique(evaluator.reference.real.label)) == {OUTSIDE, 0, 1}


MANY = ("precision", "coverage")  # take more patches than there is memory for where each is large


def test_few_patches_are_generated_where_they_are_large():
    def count(patch_size, channels=1):
        codec = Codec(low=(0.0,) * channels, high=(1.0,) * channels, labels=(0, 1))
        return SnapshotEvaluator(None, made_up_plan(patch_size=patch_size, codec=codec)).samples

    assert count((44, 33)) == snapshot_evaluation.SAMPLES[2]
    assert count((28, 44, 33)) == snapshot_evaluation.SAMPLES[3]
    assert count((512, 512)) * 512**2 * 4 <= snapshot_evaluation.SET_BYTES
    assert count((512, 512), channels=4) == count((512, 512)) // 4
    assert (
        count((160, 160, 160), channels=4)
        == snapshot_evaluation.FEWEST_SAMPLES
        >= max(METRICS[name].least for name in SNAPSHOT_METRICS if name not in MANY)
    )
    assert SnapshotEvaluator(None, made_up_plan(), samples=3).samples == 3
