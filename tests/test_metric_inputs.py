"""What compare takes and refuses, what it shares between metrics, and the features of the random pyramid."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import METRICS, SampleSet, compare, default_metrics, features
from stylegan2_cond.metrics.features import MOST_FEATURES, RandomPyramid, project
from stylegan2_cond.metrics.inputs import as_sample_set

NEEDS_MASKS = {name for name, metric in METRICS.items() if "label" in metric.needs}


def images(count=60, size=(20, 18), channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((count, channels, *size)).astype(np.float32)


def masks(count=60, size=(20, 18), seed=0):
    return np.random.default_rng(seed).integers(0, 3, (count, *size)).astype(np.int16)


def values(results):
    return {name: (result.value, result.details) for name, result in results.items()}


# --- what can't be compared


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["real", "generated"])
def test_values_that_are_no_numbers_are_refused_with_their_place(side, broken):
    sides = {"real": images(), "generated": images(seed=1)}
    sides[side][[7, 9], 0, 3, 3] = broken
    with pytest.raises(UserError, match=f"2 of the 60 {side} patches have values that are NaN or infinite.*number 7"):
        compare(**sides)


def refused(real, generated, match):
    with pytest.raises(UserError, match=match):
        compare(real, generated)


def test_only_like_is_compared_with_like():
    refused(images(), images(size=(20, 19)), r"\(20, 18\), .* \(20, 19\)")
    refused(images(), images(size=(20, 18, 4)), r"\(20, 18\), .* \(20, 18, 4\)")
    refused(images(), images(channels=3), "channels 1, .* 3")
    small = images(size=(19, 18))
    with pytest.raises(UserError, match=r"the reference ones \(19, 18\)"):
        compare(images(), images(), reference=small)


def test_shapes_that_do_not_fit_are_named():
    refused(images(), (images(), masks(size=(18, 20))), r"images \(60, 1, 20, 18\) and labels \(60, 18, 20\)")
    refused(images(), (images(), masks(59)), r"labels \(59, 20, 18\)")
    refused(images(), images()[:, 0], r"shape \(60, 20, 18\).*\[N, C, H, W\]")
    refused(images(0), images(), r"real patches have shape \(0, 1, 20, 18\)")
    refused(SampleSet(images(), None, np.array(["a", "b"])), images(), "60 images and 2 case names")


@pytest.mark.parametrize(
    "thing", [5, None, "folder", [], [1, 2], iter([]), {"image": 1, "label": 2}, [(images()[0], masks()[0], 3)]]
)
def test_what_holds_no_patches_is_refused_in_words(thing):
    refused(thing, images(), "real patches")


def test_readers_of_patches_of_several_sizes_are_refused():
    pairs = [(images()[0], masks()[0]), (images(size=(9, 9))[0], masks(size=(9, 9))[0])]
    refused(pairs, images(), "of one size")


@pytest.mark.parametrize(
    ("typed", "meant"), [("KID", "kid"), ("frechet-distance", "frechet"), ("diversity-narest", "diversity-nearest")]
)
def test_for_an_unknown_metric_the_nearest_name_is_suggested(typed, meant):
    with pytest.raises(UserError, match=f"no metric '{typed}'.*Available: kid, kid-pair") as refusal:
        compare(images(), images(), [typed])
    assert f"Did you mean {meant}?" in str(refusal.value)


def test_a_chosen_metric_names_what_it_needs():
    few = images(30)
    for name, match in {
        "frechet": "frechet needs 100 patches .*30",
        "precision": "precision needs 50 patches .*30",
        "kid-pair": "kid-pair needs masks on both sides",
        "masks": "masks needs masks on both sides",
    }.items():
        with pytest.raises(UserError, match=match):
            compare((images(), masks()) if "masks" in match else images(), few, [name])
    with pytest.raises(UserError, match="agreement needs an nnU-Net"):
        compare((images(), masks()), (images(), masks()), ["agreement"])
    with pytest.raises(UserError, match=r"(?=.*kid needs 20)(?=.*frechet needs 100)"):  # all at once
        compare(images(), images(19), ["frechet", "kid"])


def test_default_metrics_that_need_more_are_left_out_silently():
    results = compare(images(), images(seed=1))
    assert set(results) == set(default_metrics()) - NEEDS_MASKS - {"frechet"}
    both = compare((images(), masks()), (images(seed=1), masks(seed=1)))
    assert set(both) == set(default_metrics()) - {"frechet", "agreement", "conditions"}
    assert list(both) == [name for name in METRICS if name in both]
    assert set(compare(images(49), images(seed=1))) == set(results) - {"precision", "coverage"}
    assert compare(images(19), images()) == {}


@pytest.mark.parametrize("cases", [["a"] * 60, ["a"] * 59 + ["b"], ["a"] * 57 + ["b"] * 3])
def test_one_or_two_cases_leave_the_value_and_at_worst_cost_the_error(cases):
    real = SampleSet(images(), masks(), np.array(cases))
    names = [name for name in compare(images(), images(seed=1)) if not name.startswith(("diversity", "copies"))]
    found, plain = (compare(side, images(seed=1), names) for side in (real, images()))
    for name, result in found.items():
        assert result.value == pytest.approx(plain[name].value), name
        assert np.isnan(result.standard_error) or result.standard_error > 0, name


# --- what can


def test_patches_are_taken_in_any_form():
    image, label = images(), masks()
    pairs = TensorDataset(torch.from_numpy(image), torch.from_numpy(label.astype(np.int64)))
    forms = [
        SampleSet(image, label),
        (image, label),
        (torch.from_numpy(image).double(), torch.from_numpy(label).requires_grad_(False)),
        SimpleNamespace(image=image, label=label),
        pairs,
        list(zip(image, label, strict=True)),
    ]
    for form in forms:
        taken = as_sample_set(form)
        assert (taken.image.dtype, taken.label.dtype, taken.case) == (np.float32, np.int16, None)
        np.testing.assert_array_equal(taken.image, image)
        np.testing.assert_array_equal(taken.label, label)
    for form in (
        image,
        torch.from_numpy(image).requires_grad_(),
        (image, None),
        SimpleNamespace(image=image, label=None),
    ):
        taken = as_sample_set(form)
        np.testing.assert_array_equal(taken.image, image)
        assert taken.label is None


def test_volumes_are_compared_like_slices():
    results = compare(
        (images(size=(6, 9, 8)), masks(size=(6, 9, 8))), (images(size=(6, 9, 8), seed=1), masks(size=(6, 9, 8), seed=1))
    )
    assert set(results) == set(default_metrics()) - {"frechet", "agreement", "conditions"}
    assert all(np.isfinite(result.value) for result in results.values())


def test_a_seed_settles_everything_and_global_states_are_left_alone():
    sides = (images(120), masks(120)), (images(120, seed=1), masks(120, seed=1))
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = compare(*sides)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(4), np.random.seed(4)
    assert repr(compare(*sides)) == repr(first)
    other = compare(*sides, seed=1)
    assert other["swd"].value != first["swd"].value  # other patches
    assert other["kid"].value == pytest.approx(first["kid"].value)  # nothing is generated but the groups
    assert other["kid"].standard_error != first["kid"].standard_error


def test_a_metric_alone_says_what_it_says_among_all():
    sides = (images(120), masks(120)), (images(120, seed=1), masks(120, seed=1))
    names = [name for name, metric in METRICS.items() if "nnunet" not in metric.needs and name != "conditions"]
    together = compare(*sides, names)
    for name in names:
        assert repr(compare(*sides, [name])[name]) == repr(together[name])


def test_progress_hears_of_each_metric_in_the_order_of_the_table():
    heard = []
    results = compare(images(), images(seed=1), ["swd", "precision", "kid"], progress=heard.append)
    assert heard == list(results) == ["kid", "precision", "swd"]


# --- features


@pytest.mark.parametrize("size", [(20, 18), (9, 12, 7)])
def test_a_patch_has_the_same_vector_in_whatever_batch(size, monkeypatch):
    samples = SampleSet(images(12, size, 2), masks(12, size))
    for labels in ((), (1, 2)):
        whole = RandomPyramid(labels=labels)(samples)
        assert whole.shape[0] == 12
        assert whole.isfinite().all()
        for voxels in (1, 5 * np.prod(size)):
            monkeypatch.setattr(features, "BATCH_VOXELS", int(voxels))
            torch.testing.assert_close(RandomPyramid(labels=labels)(samples), whole)


def test_masks_change_the_vectors_of_pairs_alone():
    image, label = images(), masks()
    other = label.copy()
    other[5, :10] = 0
    plain, pair = RandomPyramid(), RandomPyramid(labels=(1, 2))
    assert torch.equal(plain(SampleSet(image, label)), plain(SampleSet(image, other)))
    changed = (pair(SampleSet(image, label)) != pair(SampleSet(image, other))).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [5]
    assert RandomPyramid(labels=(1,)).identity() != RandomPyramid(labels=(2,)).identity() != plain.identity()


def test_filters_depend_on_their_seed_alone():
    samples = SampleSet(images())
    assert torch.equal(RandomPyramid(seed=3)(samples), RandomPyramid(seed=3)(samples))
    assert not torch.equal(RandomPyramid(seed=3)(samples), RandomPyramid(seed=4)(samples))
    assert RandomPyramid(seed=3).identity() != RandomPyramid(seed=4).identity()


def test_units_of_the_images_do_not_matter():
    sides = images(), 1.1 * images(seed=1)
    plain, scaled = (compare(*(scale * side for side in sides), ["kid"])["kid"].value for scale in (1, 1000))
    assert scaled == pytest.approx(plain, rel=1e-3)


def test_projection_keeps_distances_and_leaves_narrow_features_alone():
    wide = torch.from_numpy(np.random.default_rng(0).exponential(size=(40, 3000)).astype(np.float32))
    narrow = project(wide)
    assert narrow.shape == (40, MOST_FEATURES)
    pairs = np.triu_indices(40, 1)
    ratios = (torch.cdist(narrow, narrow) / torch.cdist(wide, wide))[pairs]
    assert ((ratios - 1).abs() < 0.2).all()
    assert (ratios - 1).square().mean().sqrt() < 1.5 / np.sqrt(2 * MOST_FEATURES)  # chi-squared over its degrees
    assert torch.equal(project(wide[:, :MOST_FEATURES]), wide[:, :MOST_FEATURES])
    assert torch.equal(project(wide), narrow)
