"""Deformed masks: moved and bent by what was asked for, folded nowhere, with nothing new in them and nothing lost."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stylegan2_cond.data.mask_deformation import (
    MAX_SLOPE,
    MIN_PIECE,
    MIN_SHARE_LEFT,
    Deformation,
    deform,
    remove_specks,
    resample,
    sample_deformation,
    smooth_noise,
    source_coordinates,
)
from stylegan2_cond.data.nnunet_dataset import OUTSIDE

STILL = Deformation(rotation=0, scale=0, shear=0, translation=0, elastic=0)
WILD = Deformation(rotation=40, scale=0.5, shear=0.3, translation=0.2, elastic=0.5, smoothness=0.05)
PATCHES = [(44, 33), (17, 64), (12, 18, 10)]
IGNORE = 7

seeds = st.integers(0, 2**32)
shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
)
dtypes = st.sampled_from([np.int16, np.int64, np.int8])
grains = st.floats(0, 3)  # voxels; 0 is noise, where each voxel stands alone


def draw_map(shape, seed, grain=2.0, dtype=np.int16):
    """Blobs of five labels, the larger the coarser the grain."""
    noise = np.random.default_rng(seed).normal(size=(5, *shape))
    return np.array([OUTSIDE, 0, 1, 2, IGNORE], dtype)[
        ndimage.gaussian_filter(noise, (0, *[grain] * len(shape))).argmax(0)
    ]


def draw_organ(patch_size, dtype=np.int16):
    """An ellipsoid of two halves in the middle of the patch."""
    places = [np.linspace(-1, 1, length) for length in patch_size]
    grid = np.stack(np.meshgrid(*places, indexing="ij"))
    inside = np.square(grid).sum(axis=0) < 0.5**2
    return (inside * (1 + (grid[0] > 0))).astype(dtype)


def draw_parts(patch_size, seed, strength, spacing=None):
    spacing = np.ones(len(patch_size)) if spacing is None else np.array(spacing, float)
    return sample_deformation(patch_size, np.random.default_rng(seed), strength, spacing)


def count_pieces(mask):
    return ndimage.label(mask)[1]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def interpolated(label, matrix, offset):
    """An affine map of each label's one-hot mask by scipy, and the label that is largest then."""
    values = np.unique(label)
    shares = [
        ndimage.affine_transform((label == value).astype(float), matrix, offset, order=1, mode="nearest")
        for value in values
    ]
    return values[np.argmax(shares, axis=0)]


# --- a function of label, generator and strength


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, grains, dtypes)
def test_a_deformed_map_has_the_same_shape_and_dtype_and_no_label_of_its_own(shape, seed, grain, dtype):
    label = draw_map(shape, seed, grain, dtype)
    before = label.copy()
    deformed = deform(label, np.random.default_rng(seed), WILD)
    assert (deformed.shape, deformed.dtype) == (label.shape, label.dtype)
    assert set(np.unique(deformed)) <= set(np.unique(label))
    assert np.array_equal(label, before)
    assert not np.shares_memory(deformed, label)


@pytest.mark.parametrize("patch_size", PATCHES)
def test_the_generator_alone_decides(patch_size):
    label = draw_organ(patch_size)
    first, again, other = (deform(label, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=60, deadline=None)
@given(shapes, seeds, grains, st.sampled_from([None, 0.3, 7.0]))
def test_no_strength_is_no_change(shape, seed, grain, along_the_first_axis):
    label = draw_map(shape, seed, grain)
    spacing = None if along_the_first_axis is None else (along_the_first_axis, *[1.1] * (len(shape) - 1))
    assert np.array_equal(deform(label, np.random.default_rng(seed), STILL, spacing=spacing), label)


@pytest.mark.parametrize("patch_size", PATCHES)
def test_each_strength_changes_its_own_part_and_takes_no_numbers_from_the_others(patch_size):
    logarithm, shift, elastic = draw_parts(patch_size, 0, Deformation())
    weaker = draw_parts(patch_size, 0, replace(Deformation(), translation=Deformation.translation / 2))
    np.testing.assert_array_equal(weaker[0], logarithm)
    np.testing.assert_allclose(weaker[1], shift / 2)
    np.testing.assert_array_equal(weaker[2], elastic)
    generators = [np.random.default_rng(1), np.random.default_rng(1)]
    for rng, strength in zip(generators, (STILL, WILD), strict=True):
        deform(draw_organ(patch_size), rng, strength)
    assert generators[0].random() == generators[1].random()


# --- the affine part


@pytest.mark.parametrize("angle", [-0.4, 0.15])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.7)])
def test_a_known_rotation_scale_and_shift_move_a_slice_as_scipy_does(angle, spacing):
    label, spacing = draw_map((40, 31), 3), np.array(spacing)
    logarithm = np.array([[np.log(1.2), -angle], [angle, np.log(1.2)]])
    shift = np.array([3.3, -1.6])
    turned = 1.2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.diag(1 / spacing) @ turned @ np.diag(spacing)
    middle = np.array([19.5, 15.0])
    coordinates = source_coordinates(logarithm, shift, np.zeros((2, 40, 31)), spacing)
    expected = interpolated(label, matrix, middle + shift / spacing - matrix @ middle)
    assert np.array_equal(resample(label, coordinates), expected)
    assert (expected != label).mean() > 0.2


def test_a_known_rotation_in_one_plane_moves_a_volume_as_scipy_does():
    label, angle, spacing = draw_map((9, 16, 13), 4), 0.3, np.array([3.0, 1.0, 1.5])
    logarithm = np.zeros((3, 3))
    logarithm[1, 2], logarithm[2, 1] = -angle, angle
    turned = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = np.diag(1 / spacing) @ turned @ np.diag(spacing)
    middle, shift = np.array([4.0, 7.5, 6.0]), np.array([1.2, 2.0, -0.4])
    coordinates = source_coordinates(logarithm, shift, np.zeros((3, 9, 16, 13)), spacing)
    expected = interpolated(label, matrix, middle + shift / spacing - matrix @ middle)
    assert np.array_equal(resample(label, coordinates), expected)


@pytest.mark.parametrize("patch_size", PATCHES)
def test_without_an_elastic_part_a_mask_is_moved_by_one_matrix(patch_size):
    label = draw_organ(patch_size)
    strength = replace(Deformation(), elastic=0)
    for seed in range(5):
        drawn = draw_parts(patch_size, seed, strength)
        coordinates = source_coordinates(*drawn, np.ones(len(patch_size)))
        corners = [
            np.array(np.meshgrid(*[[0, n - 1] for n in patch_size], indexing="ij")).reshape(len(patch_size), -1).T
        ]
        known = np.column_stack([corners[0], np.ones(len(corners[0]))])
        fitted, *_ = np.linalg.lstsq(known, coordinates[(slice(None), *corners[0].T)].T, rcond=None)
        expected = interpolated(label, fitted[:-1].T, fitted[-1])
        assert (deform(label, np.random.default_rng(seed), strength) == expected).mean() > 0.999  # but for ties


@pytest.mark.parametrize(
    ("patch_size", "spacing"), [((44, 33), (1, 1)), ((20, 64), (3, 0.5)), ((8, 20, 16), (5, 1, 1.2))]
)
def test_the_affine_part_stays_within_its_bounds_and_fills_them(patch_size, spacing):
    extent = np.multiply(patch_size, spacing)
    strength = Deformation(rotation=20, scale=0.3, shear=0.1, translation=0.2)
    pairs = list(itertools.combinations(range(len(patch_size)), 2))
    drawn = [draw_parts(patch_size, seed, strength, spacing) for seed in range(300)]
    angles = np.rad2deg([[(log[j, i] - log[i, j]) / 2 for i, j in pairs] for log, *_ in drawn])
    shears = np.array([[(log[j, i] + log[i, j]) / 2 for i, j in pairs] for log, *_ in drawn])
    scales = np.array([np.diag(log) for log, *_ in drawn])
    shifts = np.array([shift for _, shift, _ in drawn])
    most = [20 * min(extent[i], extent[j]) / max(extent[i], extent[j]) for i, j in pairs]  # a slab tilts less
    assert (np.ptp(scales, axis=1) == 0).all()
    for values, limit in [(angles, most), (shears, 0.1), (scales, 0.3), (shifts, 0.2 * extent.min())]:
        reached = values / np.array(limit)
        assert np.abs(reached).max() <= 1
        # 300 even draws: beyond 0.95 with certainty, on either side
        assert (reached.max(axis=0) > 0.95).all()
        assert (reached.min(axis=0) < -0.95).all()


# --- the elastic part


def corner_determinants(coordinates):
    """The Jacobian determinant at each corner of each grid cell, from the cell's own edges: `[corners, cells]`."""
    dims = len(coordinates)
    found = []
    for corner in itertools.product((0, 1), repeat=dims):
        columns = []
        for axis in range(dims):
            part = np.diff(coordinates, axis=axis + 1)
            for other in set(range(dims)) - {axis}:
                part = part.take(np.arange(corner[other], part.shape[other + 1] - 1 + corner[other]), axis=other + 1)
            columns.append(part.reshape(dims, -1))
        found.append(np.linalg.det(np.moveaxis(np.array(columns), -1, 0)))
    return np.array(found)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.tuples(*[st.integers(2, 30)] * 2), st.tuples(*[st.integers(2, 10)] * 3)),
    seeds,
    st.floats(0, 3),
    st.floats(0.01, 0.5),
    st.floats(0.2, 5),
)
def test_however_strong_a_deformation_is_it_folds_nowhere(patch_size, seed, elastic, smoothness, first):
    spacing = np.array([first, *[1.0] * (len(patch_size) - 1)])
    strength = replace(Deformation(), elastic=elastic, smoothness=smoothness)
    drawn = draw_parts(patch_size, seed, strength, spacing)
    least = (1 - MAX_SLOPE) ** len(patch_size) * np.exp(-len(patch_size) * strength.scale)
    for share in (1, 0.5):  # a weaker one of the same kind folds as little
        coordinates = source_coordinates(*(share * part for part in drawn), spacing)
        assert corner_determinants(coordinates).min() >= least * (1 - 1e-6)


@pytest.mark.parametrize("patch_size", [(15, 11), (5, 7, 6)])
def test_no_two_voxels_come_from_near_the_same_place(patch_size):
    spacing = np.linspace(1, 2, len(patch_size))
    places = np.indices(patch_size).reshape(len(patch_size), -1).T * spacing
    apart = np.abs(places[:, None] - places).max(axis=-1)
    for seed in range(10):
        _, _, elastic = draw_parts(patch_size, seed, WILD, spacing)
        moved = places + elastic.reshape(len(patch_size), -1).T
        assert (np.abs(moved[:, None] - moved).max(axis=-1) >= (1 - MAX_SLOPE) * apart - 1e-9).all()


@pytest.mark.parametrize("patch_size", PATCHES)
def test_where_it_is_gentle_the_displacement_is_as_large_as_asked_for(patch_size):
    _, _, elastic = draw_parts(patch_size, 0, replace(Deformation(), elastic=0.01, smoothness=0.3))
    assert np.sqrt(np.square(elastic).mean()) == pytest.approx(0.01 * min(patch_size))


@pytest.mark.parametrize(
    ("patch_size", "sigma"), [((44, 33), (5.0, 2.5)), ((16, 20), (1.5, 2)), ((9, 8, 12), (1, 2, 2))]
)
def test_the_displacement_is_white_noise_under_a_gaussian(patch_size, sigma):
    noise = np.random.default_rng(8).standard_normal((len(patch_size), *patch_size))
    expected = ndimage.gaussian_filter(noise, (0, *sigma), mode="wrap", truncate=8)
    expected /= np.sqrt(np.square(expected).mean())
    # 0.02: the kernel of 1 voxel is sampled in space there, in frequencies here
    np.testing.assert_allclose(smooth_noise(patch_size, np.array(sigma), np.random.default_rng(8)), expected, atol=0.02)


@pytest.mark.parametrize("patch_size", PATCHES)
def test_without_an_affine_part_each_voxel_comes_from_where_the_displacement_says(patch_size):
    spacing = np.linspace(0.5, 2, len(patch_size))
    logarithm, shift, elastic = draw_parts(patch_size, 0, replace(STILL, elastic=0.1), spacing)
    moved = source_coordinates(logarithm, shift, elastic, spacing) - np.indices(patch_size)
    np.testing.assert_allclose(moved * spacing.reshape(-1, *[1] * len(patch_size)), elastic, atol=1e-9)
    assert np.abs(moved).max() > 0.1


def test_a_displacement_is_as_long_and_as_smooth_along_each_axis_in_physical_units():
    patch_size, spacing = (16, 64), np.array([4.0, 1.0])  # a square
    drawn = [draw_parts(patch_size, seed, replace(Deformation(), elastic=0.01), spacing)[2] for seed in range(100)]
    length = np.sqrt(np.square(drawn).mean(axis=(0, 2, 3)))
    assert length[0] == pytest.approx(length[1], rel=0.2)
    slopes = [
        np.sqrt(np.square(np.roll(drawn, -step, axis) - drawn).mean()) for axis, step in ((2, 1), (3, 4))
    ]  # over 4 mm along either axis
    assert slopes[0] == pytest.approx(slopes[1], rel=0.1)


@pytest.mark.parametrize("patch_size", PATCHES)
def test_only_proportions_of_the_spacing_count(patch_size):
    label = draw_organ(patch_size)
    ones, threes = np.ones(len(patch_size)), np.full(len(patch_size), 3.0)
    results = [deform(label, np.random.default_rng(2), spacing=spacing) for spacing in (None, ones, threes)]
    assert np.array_equal(results[0], results[1])
    assert (results[0] != results[2]).mean() < 0.001  # but for rounding
    uneven = deform(label, np.random.default_rng(2), spacing=(2, *[1] * (len(patch_size) - 1)))
    assert not np.array_equal(results[0], uneven)


# --- anatomy


@settings(max_examples=150, deadline=None)
@given(shapes, seeds, grains, st.sampled_from([Deformation(), WILD]))
def test_no_class_is_lost_and_no_specks_are_won(shape, seed, grain, strength):
    label = draw_map(shape, seed, grain)
    deformed = deform(label, np.random.default_rng(seed), strength)
    for value in np.unique(label):
        if value != OUTSIDE:
            assert (deformed == value).sum() >= MIN_SHARE_LEFT * (label == value).sum()
        pieces, count = ndimage.label(deformed == value)
        larger = (np.bincount(pieces.ravel())[1:] >= MIN_PIECE).sum()
        assert count <= max(count_pieces(label == value), larger)


@pytest.mark.parametrize("patch_size", [(44, 33), (10, 14, 12)])
def test_single_voxels_lines_and_what_lies_at_the_rim_never_vanish(patch_size):
    label = np.zeros(patch_size, np.int16)
    label[(0,) * len(patch_size)] = 1  # a voxel in the corner, soon out of sight
    label[tuple(n // 2 for n in patch_size)] = 2  # a voxel in the middle
    label[(slice(2, -2), *[5] * (len(patch_size) - 1))] = 3  # a line
    for seed in range(30):
        for strength in (Deformation(), WILD):
            deformed = deform(label, np.random.default_rng(seed), strength)
            assert set(np.unique(deformed)) == {0, 1, 2, 3}
            assert (deformed == 3).sum() >= MIN_SHARE_LEFT * (label == 3).sum()


def test_what_would_lose_a_class_is_done_by_half():
    label, tried = draw_organ((44, 33)), 0
    label[0, 0] = 3
    full = replace(Deformation(), rotation=0.5, translation=0.02)
    half = Deformation(**{name: value if name == "smoothness" else value / 2 for name, value in vars(full).items()})
    for seed in range(60):
        first, second = (
            resample(label, source_coordinates(*draw_parts((44, 33), seed, strength), np.ones(2)))
            for strength in (full, half)
        )
        if 3 not in first and 3 in second:
            results = [deform(label, np.random.default_rng(seed), strength) for strength in (full, half)]
            assert np.array_equal(*results)
            tried += 1
    assert tried >= 5


@pytest.mark.parametrize("patch_size", [(44, 33), (256, 320), (32, 48, 32)])
def test_by_default_an_organ_is_clearly_another_and_still_an_organ(patch_size):
    label = draw_organ(patch_size)
    overlaps, areas, bends = [], [], []
    for seed in range(12):
        deformed = deform(label, np.random.default_rng(seed))
        bent = deform(label, np.random.default_rng(seed), replace(STILL, elastic=Deformation.elastic))
        bends.append(dice(label > 0, bent > 0))
        assert count_pieces(deformed == 0) == 1
        for value in (1, 2):
            assert count_pieces(deformed == value) == 1
            overlaps.append(dice(label == value, deformed == value))
            areas.append((deformed == value).sum() / (label == value).sum())
    assert 0.6 < np.median(overlaps) < 0.9
    assert 0.8 < np.median(bends) < 0.95  # the elastic part has its share in it
    assert 0.9 < np.median(areas) < 1.1
    assert 0.5 < min(areas) <= max(areas) < 2


def test_specks_get_the_label_around_them_and_other_pieces_stay():
    label = np.zeros((20, 20), np.int16)
    label[2:8, 2:8] = 1
    deformed = label.copy()
    deformed[12, 3:6] = 1  # three voxels
    deformed[4, 4] = 0  # a hole
    deformed[15:17, 15:17] = 1  # four voxels
    expected = label.copy()
    expected[15:17, 15:17] = 1
    assert np.array_equal(remove_specks(deformed, label), expected)


def test_specks_that_were_there_before_stay_and_of_too_many_the_smallest_go():
    label = np.zeros((20, 20), np.int16)
    label[2:8, 2:8] = 1
    label[12, 3:5] = 1
    moved = np.roll(label, 3, axis=1)
    assert np.array_equal(remove_specks(moved, label), moved)
    crowded = moved.copy()
    crowded[17, 17] = 1
    assert np.array_equal(remove_specks(crowded, label), moved)


# --- the outside


@pytest.mark.parametrize("dims", [2, 3])
def test_a_frame_around_an_image_stays_where_it_is(dims):
    inner = draw_organ((30, 26) if dims == 2 else (10, 14, 12))
    label = np.pad(inner, [(3, 2), (0, 4), (1, 0)][:dims], constant_values=OUTSIDE)
    label[(5,) * dims] = OUTSIDE  # a stray voxel of it makes the image no other shape
    frame = np.pad(np.zeros_like(inner), [(3, 2), (0, 4), (1, 0)][:dims], constant_values=OUTSIDE) == OUTSIDE
    assert np.array_equal(deform(label, np.random.default_rng(0), STILL), label)
    changed = 0
    for seed in range(10):
        deformed = deform(label, np.random.default_rng(seed))
        assert (deformed[frame] == OUTSIDE).all()
        assert (deformed[~frame] == OUTSIDE).sum() <= 4
        changed += (deformed != label).any()
    assert changed == 10


def test_an_outside_that_follows_the_anatomy_is_deformed_with_it():
    label = draw_organ((44, 44))
    label[label == 0] = OUTSIDE
    box = ndimage.find_objects((label > 0).astype(int))[0]
    beyond = []
    for seed in range(10):
        deformed = deform(label, np.random.default_rng(seed))
        assert count_pieces(deformed == OUTSIDE) == 1
        beyond.append((deformed > 0).sum() - (deformed[box] > 0).sum())
    assert np.median(beyond) > 0


def test_an_outside_that_just_looks_in_may_leave():
    label = draw_organ((44, 33))
    label[0, :2] = OUTSIDE
    kept = [(deform(label, np.random.default_rng(seed)) == OUTSIDE).any() for seed in range(30)]
    assert any(kept)
    assert not all(kept)


def test_a_patch_of_nothing_but_outside_stays_so():
    label = np.full((9, 8), OUTSIDE, np.int16)
    assert np.array_equal(deform(label, np.random.default_rng(0)), label)
