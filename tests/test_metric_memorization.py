"""Copies: correlation by brute force, planted copies found, and patches that cover a case."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case
from stylegan2_cond.data.patch_sampler import IMAGE_PADDING, cover
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import SampleSet, compare
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import RandomPyramid
from stylegan2_cond.metrics.memorization import copies_in_pixels
from stylegan2_cond.metrics.ncc import (
    EACH,
    RIM,
    align,
    best_of_cases,
    largest_correlation,
    nearest_cases,
    without_rim,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def brute_force(query, partner):
    """Mean over the channels of np.corrcoef at every place, the largest of all. `[C, *spatial]`, `[C, *size]`."""
    inner = without_rim(torch.from_numpy(query)[None])[0].numpy()
    found = []
    room = [whole - length for whole, length in zip(partner.shape[1:], inner.shape[1:], strict=True)]
    for corner in np.ndindex(*(places + 1 for places in room)):
        box = tuple(slice(c, c + n) for c, n in zip(corner, inner.shape[1:], strict=True))
        windows = partner[(slice(None), *box)]
        pairs = zip(inner, windows, strict=True)
        found.append(np.mean([0 if b.std() < 1e-6 else np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))
    return max(found)


# --- correlation


@pytest.mark.parametrize(
    ("channels", "patch_size", "size"),
    [(1, (12, 10), (12, 10)), (3, (9, 17), (14, 20)), (1, (4, 5), (6, 6)), (2, (6, 9, 8), (8, 10, 8))],
)
def test_largest_correlation_is_numpys_over_all_places(channels, patch_size, size):
    queries, partners = 3 * normal(4, channels, *patch_size) + 2, 0.5 * normal(4, 5, channels, *size, seed=1) - 7
    partners[1, 2, 0] = 4  # a channel that is constant
    found = largest_correlation(torch.from_numpy(queries), torch.from_numpy(partners))
    expected = [[brute_force(query, partner) for partner in row] for query, row in zip(queries, partners, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_rim_is_three_voxels_or_an_eighth_of_a_short_axis():
    image = torch.zeros(1, 1, 60, 16, 7)
    assert without_rim(image).shape[2:] == (60 - 2 * RIM, 12, 7)
    assert RIM == 3


def test_constant_windows_have_no_correlation_whatever_else_the_patch_shows():
    query = normal(1, 1, 32, 32)
    padded = np.full((1, 1, 1, 32 + 60, 32 + 60), -1.5, np.float32)
    assert largest_correlation(*map(torch.from_numpy, (query, padded))).item() == 0
    bright = np.full((1, 1, 1, 100, 32), -1.5, np.float32)
    bright[..., 75:, :] = 40 * query[..., :25, :]  # far from most places, which are constant
    found = largest_correlation(*map(torch.from_numpy, (-query, bright))).item()
    assert found == pytest.approx(brute_force(-query[0], bright[0, 0]), abs=1e-3)


@pytest.mark.parametrize("shape", [(40, 36), (14, 16, 15)])
def test_a_copy_correlates_fully_however_it_is_shifted_scaled_or_lightened(shape):
    margin = 4
    whole = normal(1, *(length + 2 * margin for length in shape))
    for shift in range(-3, 4):
        query = whole[(slice(None), *(slice(margin + shift, margin + shift + length) for length in shape))]
        for changed in (query, 0.2 * query + 5, 30 * query - 100):
            found = largest_correlation(torch.from_numpy(changed)[None], torch.from_numpy(whole)[None, None])
            assert found.item() == pytest.approx(1, abs=1e-4)
    rim = [
        length - inner for length, inner in zip(shape, without_rim(torch.zeros(1, 1, *shape)).shape[2:], strict=True)
    ]
    assert align(query, whole) == tuple(margin + 3 + r // 2 for r in rim)  # the last shift
    assert largest_correlation(torch.from_numpy(-query)[None], torch.from_numpy(whole)[None, None]).item() < 0.5


def test_the_nearest_case_of_a_copy_is_its_own_unless_that_is_left_out():
    reference, cases = torch.from_numpy(normal(60, 1, 24, 20)), np.repeat(np.arange(20), [1, 5] * 10)
    queries = reference[[3, 17, 59]] * 2 + 1
    correlation, index = nearest_cases(queries, reference, cases)
    assert index[:, 0].tolist() == [3, 17, 59]
    torch.testing.assert_close(correlation[:, 0], torch.ones(3))
    assert (correlation.diff(dim=1) <= 0).all()
    assert all(len(set(cases[row])) == len(row) for row in index.numpy())  # one patch of each case
    others, index = nearest_cases(queries, reference, cases, cases[[3, 17, 59]])
    assert (cases[index] != cases[[3, 17, 59], None]).all()
    assert (others < 0.9).all()
    kept = nearest_cases(queries, reference, cases, np.array([-1, -1, cases[59]]))[1]
    assert kept[:2, 0].tolist() == [3, 17]
    assert cases[kept[2, 0]] != cases[59]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=8), st.integers(1, 5), st.booleans(), st.integers(0, 2**16))
def test_best_of_cases_are_the_best_patches_of_the_best_cases(lengths, queries, alone, seed):
    rng = np.random.default_rng(seed)
    cases = np.repeat(np.arange(len(lengths)), lengths)
    scores = rng.permutation(queries * len(cases)).reshape(queries, -1).astype(np.float32)
    own = rng.integers(-1, len(lengths), queries) if alone else None
    starts = np.flatnonzero(np.diff(cases, prepend=-1))
    found = best_of_cases(torch.from_numpy(scores), starts, cases, own, 2).numpy()
    for number, row in enumerate(scores):
        allowed = [case for case in range(len(lengths)) if own is None or case != own[number]]
        ranked = sorted(allowed, key=lambda case: -row[cases == case].max())[:2]
        for case, chosen in zip(ranked, found[number], strict=True):
            best = [place for place in np.argsort(-row) if cases[place] == case][:EACH]
            assert set(chosen) == set(best)
            assert chosen[0] == best[0]


# --- the metric

SIZE, MARGIN = 32, 4


def smooth(count, sigma, seed):
    fields = ndimage.gaussian_filter(normal(count, *[SIZE + 2 * MARGIN] * 2, seed=seed), (0, sigma, sigma))
    return fields / fields.std()


def cohort(cases, seed, each=5, special=1.0):
    """Slices with a margin: what all cases share, what is special about each, a little of the slice, and noise."""
    image = np.tile(smooth(each, 6, seed=0), (cases, 1, 1)) + special * np.repeat(smooth(cases, 3, seed), each, axis=0)
    image += 0.4 * smooth(cases * each, 3, seed + 1)
    image += 0.1 * normal(*image.shape, seed=seed + 2)
    return SampleSet(image[:, None], None, np.repeat([f"{seed} {number}" for number in range(cases)], each))


TRAINING = cohort(40, seed=10)
REAL = TRAINING.cropped((SIZE, SIZE))


def shifted(by):
    box = slice(MARGIN + by, MARGIN + by + SIZE)
    return TRAINING.image[:, :, box, box]


def noisy(image):
    return image + 0.05 * np.ptp(image, axis=(1, 2, 3), keepdims=True) * normal(*image.shape, seed=5)


PLANTED = {
    "identical": shifted(0),
    **{f"shifted by {by}": shifted(by) for by in (1, -2, 3)},
    "other units": 0.3 * shifted(0) + 1,
    "noisy": noisy(shifted(0)),
    "all of it": noisy(1.5 * shifted(-2)),
    **{f"never seen {seed}": cohort(40, seed).cropped((SIZE, SIZE)).image for seed in (20, 30, 40)},
    "typical, never seen": cohort(40, 50, special=0.2).cropped((SIZE, SIZE)).image,
}


@pytest.fixture(scope="module")
def alarms():
    """The share of alarms among patches of each kind."""
    comparison = Comparison(
        REAL, SampleSet(np.concatenate(list(PLANTED.values()))), features=RandomPyramid(), reference=TRAINING
    )
    return dict(zip(PLANTED, copies_in_pixels(comparison).alarms.reshape(len(PLANTED), -1).mean(axis=1), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in PLANTED if "never" not in kind])
def test_planted_copies_are_found(alarms, kind):
    assert alarms[kind] >= 0.99


def test_cases_never_seen_raise_hardly_an_alarm(alarms):
    assert np.mean([share for kind, share in alarms.items() if kind[:5] == "never"]) <= 0.02


def test_a_typical_patch_is_near_to_all_cases_and_a_copy_of_none(alarms):
    assert alarms["typical, never seen"] <= 0.01


def test_a_share_of_copies_is_found_as_such():
    copied = np.arange(len(REAL)).reshape(-1, 1, 1, 1) < 50
    result = compare(REAL, np.where(copied, REAL.image, PLANTED["never seen 20"]), ["copies"])["copies"]
    assert result.value == pytest.approx(25, abs=1.5)
    assert result.standard_error == pytest.approx(100 * np.sqrt(0.25 * 0.75 / 200), rel=0.1)


def test_copies_are_found_where_the_reference_is_named_though_it_is_what_real_is():
    result = compare(REAL.image, REAL.image[:50], ["copies"], reference=REAL.image.copy())["copies"]
    assert result.value >= 99


def test_real_patches_are_no_copies_of_their_own_cases():
    assert compare(REAL, REAL.take(slice(0, 100)), ["copies"])["copies"].value <= 2


def test_too_few_cases_say_nothing_about_what_is_usual():
    few = cohort(6, seed=10).cropped((20, 20))
    with pytest.raises(UserError, match=r"copies needs .*7.*found 6"):
        compare(few, few.image, ["copies"])
    enough = cohort(7, seed=10).cropped((20, 20))
    assert compare(enough, enough.image, ["copies"])["copies"].value >= 90


# --- covering a case


def make_case(size, seed=0):
    image = normal(2, *size, seed=seed) + 100  # nowhere the padding
    return Case("case", image, np.arange(np.prod(size)).reshape(1, *size).astype(np.int16), {})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_place_of_a_patch_lies_within_reach_of_one(data):
    size = data.draw(st.tuples(*[st.integers(1, 14)] * 3), "image")
    patch_size = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple), "patch_size")
    reach = data.draw(st.integers(0, 4), "reach")
    case = make_case(size)
    wide = (1,) * (3 - len(patch_size)) + patch_size
    found = []
    for patch in cover(case, patch_size, reach=reach):
        image, label = patch.image, patch.label
        assert image.shape == (2, *patch_size)
        assert label.shape == patch_size
        inside = np.unravel_index(label[label != OUTSIDE].min(), size)  # the first voxel of the image that it shows
        found.append(inside)
        box = tuple(slice(i, i + n) for i, n in zip(inside, wide, strict=True))
        seen = case.image[(slice(None), *box)]
        np.testing.assert_array_equal(image[:, label != OUTSIDE], seen.reshape(2, -1))
        assert (image[:, label == OUTSIDE] == IMAGE_PADDING).all()
    assert len(set(found)) == len(found)
    for axis, (length, extent) in enumerate(zip(size, wide, strict=True)):
        nearest = 0 if len(patch_size) == 2 and axis == 0 else reach  # every slice
        corners = {place[axis] for place in found}
        assert all(min(abs(c - place) for c in corners) <= nearest for place in range(max(length - extent, 0) + 1))
    corners = [{place[axis] for place in found} for axis in range(3)]
    assert len(found) == np.prod([len(axis) for axis in corners])  # all combinations


def test_the_margin_holds_what_lies_around():
    case, margin = make_case((5, 20, 20)), 3
    padded = np.pad(case.image, [(0, 0), (0, 0), *[(margin, margin)] * 2], constant_values=IMAGE_PADDING)
    narrow, wide = (list(cover(case, (8, 7), reach=2, margin=m)) for m in (0, margin))
    assert len(narrow) == len(wide)
    for patch, around in zip(narrow, wide, strict=True):
        assert around.image.shape == (2, 14, 13)
        np.testing.assert_array_equal(around.image[:, margin:-margin, margin:-margin], patch.image)
        np.testing.assert_array_equal(around.label[margin:-margin, margin:-margin], patch.label)
        z, y, x = np.unravel_index(patch.label[0, 0], (5, 20, 20))
        np.testing.assert_array_equal(around.image, padded[:, z, y : y + 14, x : x + 13])


def test_an_image_smaller_than_the_patch_lies_in_the_middle():
    (patch,) = cover(make_case((1, 4, 6)), (10, 10), reach=2)
    assert (patch.label[3:7, 2:8] != OUTSIDE).all()
    assert (patch.label != OUTSIDE).sum() == 24
    assert patch.image[:, 3:7, 2:8].min() > 50
