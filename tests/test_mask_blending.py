"""Blended masks: between the two that they are made of, and either of them at the ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stylegan2_cond.data.mask_blending import blend, signed_distance
from stylegan2_cond.data.mask_deformation import MIN_SHARE_LEFT
from stylegan2_cond.data.nnunet_dataset import OUTSIDE

seeds = st.integers(0, 2**32)
shapes = st.one_of(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
)
weights = st.floats(0, 1)


def draw_map(shape, seed, values=(OUTSIDE, 0, 1, 2, 7)):
    """Blobs of these labels."""
    noise = np.random.default_rng(seed).normal(size=(len(values), *shape))
    return np.array(values, np.int16)[ndimage.gaussian_filter(noise, (0, *[1.5] * len(shape))).argmax(0)]


def draw_ball(shape, centre, radius, spacing=None):
    spacing = np.ones(len(shape)) if spacing is None else np.array(spacing)
    across = (-1, *[1] * len(shape))
    away = np.indices(shape) * spacing.reshape(across) - np.reshape(centre, across)
    return (np.square(away).sum(axis=0) <= radius**2).astype(np.int16)


def radius_of(mask, spacing):
    """Of a ball of the same area or volume."""
    size = mask.sum() * np.prod(spacing)
    return (size / np.pi) ** (1 / 2) if mask.ndim == 2 else (size * 3 / 4 / np.pi) ** (1 / 3)


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, st.sampled_from([None, 0.3, 7.0]))
def test_at_the_ends_it_is_one_of_the_two_exactly(shape, seed, spacing):
    one, other = draw_map(shape, seed), draw_map(shape, seed + 1)
    one[0] = OUTSIDE  # a frame that the other does not have
    spacing = None if spacing is None else [spacing, *[1.0] * (len(shape) - 1)]
    assert np.array_equal(blend(one, other, 0.0, spacing=spacing), one)
    assert np.array_equal(blend(one, other, 1.0, spacing=spacing), other)


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, weights)
def test_it_shows_no_class_that_neither_mask_has_and_leaves_both_as_they_are(shape, seed, weight):
    one, other = draw_map(shape, seed), draw_map(shape, seed + 1, values=(0, 2, 3))
    before = one.copy(), other.copy()
    blended = blend(one, other, weight)
    assert set(np.unique(blended)) <= set(np.unique(before))
    assert (blended.shape, blended.dtype) == (one.shape, one.dtype)
    assert np.array_equal(one, before[0])
    assert np.array_equal(other, before[1])
    assert not np.shares_memory(blended, one)
    assert not np.shares_memory(blended, other)


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, weights)
def test_enough_is_left_of_each_class_of_the_mask_that_weighs_more(shape, seed, weight):
    one, other = draw_map(shape, seed), draw_map(shape, seed + 1)
    nearer = other if weight > 0.5 else one
    blended = blend(one, other, weight)
    for value in set(np.unique(nearer)) - {OUTSIDE}:
        assert (blended == value).sum() >= MIN_SHARE_LEFT * (nearer == value).sum()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.0), (1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("weight", [0.25, 0.5, 0.8])
def test_between_two_balls_lies_a_ball_between_them(spacing, weight):
    shape = tuple(int(44 / length) for length in spacing)
    centres, radii = np.array([[18.0] * len(shape), [25.0] * len(shape)]), (7.0, 14.0)
    one, other = (draw_ball(shape, *ball, spacing) for ball in zip(centres, radii, strict=True))
    blended = blend(one, other, weight, spacing=spacing)
    expected = (1 - weight) * radii[0] + weight * radii[1]
    assert abs(radius_of(blended, spacing) - expected) < max(spacing)
    middle = np.argwhere(blended).mean(axis=0) * spacing
    assert np.abs(middle - ((1 - weight) * centres[0] + weight * centres[1])).max() < max(spacing) / 2
    inner, outer = (draw_ball(shape, middle, expected + step * max(spacing), spacing) for step in (-1.5, 1.5))
    assert (inner <= blended).all()
    assert (blended <= outer).all()


def test_nested_classes_stay_nested():
    small, large = (
        (draw_ball((40, 40), (c, c), r) + draw_ball((40, 40), (c, c), r / 2)) for c, r in ((17, 8), (21, 14))
    )
    blended = blend(small, large, 0.5)
    assert abs(radius_of(blended > 0, (1, 1)) - 11) < 1
    assert abs(radius_of(blended == 2, (1, 1)) - 5.5) < 1
    assert not (ndimage.binary_dilation(blended == 2) & (blended == 0)).any()


def test_a_class_that_only_one_mask_shows_vanishes_the_more_the_other_weighs():
    plain = draw_ball((32, 32), (16, 16), 10)
    spotted = plain + draw_ball((32, 32), (16, 20), 4)
    shown = [(blend(spotted, plain, weight) == 2).sum() for weight in (0.0, 0.05, 0.6, 1.0)]
    assert shown[0] > shown[1] > shown[2] == shown[3] == 0


def test_a_mask_without_foreground_is_blended_where_it_is():
    ball, nothing = draw_ball((24, 24), (8, 8), 6), np.zeros((24, 24), np.int16)
    assert np.array_equal(blend(ball, nothing, 0.0), ball)
    shrunk = blend(ball, nothing, 0.05)
    assert (shrunk <= ball).all()
    assert np.abs(np.argwhere(shrunk).mean(axis=0) - 8).max() < 0.5


def test_the_frame_is_that_of_the_mask_that_weighs_more_and_what_it_holds_is_between_them():
    one, other = draw_ball((30, 26), (16, 12), 6), draw_ball((30, 26), (14, 14), 9)
    one[:4], other[:, :2] = OUTSIDE, OUTSIDE
    for weight, nearer in ((0.3, one), (0.7, other)):
        blended = blend(one, other, weight)
        assert np.array_equal(blended == OUTSIDE, nearer == OUTSIDE)
        assert abs(radius_of(blended == 1, (1, 1)) - (6 + 3 * weight)) < 1
        expected = (1 - weight) * np.array([16, 12]) + weight * np.array([14, 14])
        assert np.abs(np.argwhere(blended == 1).mean(axis=0) - expected).max() < 0.5


def test_signed_distances_are_those_to_the_nearest_voxel_of_the_other_side():
    mask = draw_map((7, 6), 4, values=(0, 1)) == 1
    spacing = np.array([2.0, 0.5])
    places = np.indices(mask.shape).reshape(2, -1).T * spacing
    away = np.linalg.norm(places[:, None] - places, axis=2)
    expected = np.where(away[:, mask.ravel()].min(axis=1) > 0, away[:, mask.ravel()].min(axis=1), -1)
    inside = mask.ravel()
    expected[inside] = -away[inside][:, ~inside].min(axis=1)
    assert np.allclose(signed_distance(mask, spacing).ravel(), expected)
    for full in (True, False):
        far = signed_distance(np.full((3, 4), full), spacing)
        assert np.allclose(far, (-1 if full else 1) * np.hypot(6, 2))
