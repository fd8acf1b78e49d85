"""Conditions: measured as numpy measures, drawn as patches have them, and met exactly where something is asked for."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import gaussian_kde, iqr, ks_2samp, norm, spearmanr

from stylegan2_cond.data.condition_sampler import MAX_ROWS, ConditionTable, reflect, silverman_bandwidth
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

CLASSES = (1, 2, 5)
OTHERS = (-1, 0, 9)  # outside, background, to be ignored

label_maps = hnp.array_shapes(min_dims=3, max_dims=4, max_side=6).flatmap(
    lambda shape: hnp.arrays(np.int16, shape, elements=st.sampled_from((*OTHERS, *CLASSES)), fill=st.just(0))
)


def patches(*shares, size=1000):
    """`[N, 10, 100]`: patches that show so much of each class, `{class: share}`."""
    labels = np.zeros((len(shares), size), np.int16)
    for patch, areas in zip(labels, shares, strict=True):
        start = 0
        for label, share in areas.items():
            patch[start : start + round(share * size)] = label
            start += round(share * size)
    return labels.reshape(len(shares), 10, -1)


def spread_positions(labels):
    return np.linspace(0, 1, len(labels) + 2)[1:-1]


def draws(conditions, count, seed=0, **asked):
    """`[count, …]`: classes shown, shares of the patch, and positions that are drawn."""
    rng = np.random.default_rng(seed)
    vectors = torch.stack([conditions.sample(rng, **asked) for _ in range(count)])
    shown, areas, position = conditions.decode(vectors)
    return shown.numpy(), areas.exp().numpy(), None if position is None else position.numpy()


def organs(count, seed=0, size=(24, 24)):
    """Slices of volumes: 1 in the lower half and larger towards the end, 2 in the middle and larger without 1."""
    rng = np.random.default_rng(seed)
    positions, shares = rng.random(count), []
    for place in positions:
        areas = {1: 0.3 * (1 - place) * rng.uniform(0.8, 1.2)} if place < 0.5 else {}
        if 0.25 < place < 0.75:
            areas[2] = rng.uniform(0.05, 0.08) if areas else rng.uniform(0.2, 0.3)
        shares.append(areas)
    return patches(*shares), positions


# --- measured


@settings(max_examples=60, deadline=None)
@given(label_maps, st.booleans())
def test_a_vector_is_presence_then_standardised_log_area_then_position(labels, has_position):
    positions = spread_positions(labels)
    has_position &= len(labels) > 1
    conditions = Conditions.from_patches(CLASSES, labels, positions if has_position else None)
    measured = conditions.measure(torch.from_numpy(labels), torch.from_numpy(positions) if has_position else None)
    assert measured.dtype == torch.float32
    assert measured.shape == (len(labels), conditions.width) == (len(labels), 6 + has_position)
    for vector, patch, position in zip(measured.tolist(), labels, positions, strict=True):
        for column, label in enumerate(CLASSES):
            share = np.mean(patch == label)
            assert vector[column] == (share > 0)
            mean, sd = conditions.log_area_mean[column], conditions.log_area_sd[column]
            expected = (math.log(share) - mean) / sd if share else 0
            assert vector[3 + column] == pytest.approx(expected, abs=1e-5)
        if has_position:
            assert vector[-1] == pytest.approx(2 * position - 1, abs=1e-6)


def test_measured_areas_have_mean_zero_and_deviation_one_where_many_patches_show_them():
    labels, positions = organs(1500)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    measured = conditions.measure(torch.from_numpy(labels), torch.from_numpy(positions)).double()
    for column in (0, 1):
        areas = measured[measured[:, column] == 1, 2 + column]
        assert areas.mean().abs() < 1e-3
        assert areas.std() == pytest.approx(1, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_parts_takes_vectors_apart_again(labels):
    conditions = Conditions.from_patches(CLASSES, labels, spread_positions(labels))
    given_positions = torch.from_numpy(spread_positions(labels))
    shown, areas, positions = conditions.decode(conditions.measure(torch.from_numpy(labels), given_positions))
    shares = np.array([[np.mean(patch == label) for label in CLASSES] for patch in labels])
    np.testing.assert_array_equal(shown, shares > 0)
    np.testing.assert_allclose(areas.exp().nan_to_num(0), shares, rtol=1e-4)
    np.testing.assert_allclose(conditions.shares(torch.from_numpy(labels)), shares, rtol=1e-6)
    if conditions.has_position:
        np.testing.assert_allclose(positions, given_positions, atol=1e-6)
    else:
        assert positions is None


def test_a_class_of_one_patch_or_none_or_of_constant_size_gets_no_vast_numbers():
    once = patches({1: 0.2, 2: 0.003}, *[{1: 0.2}] * 999)
    conditions = Conditions.from_patches(CLASSES, once, None)
    assert conditions.log_area_mean == pytest.approx(
        [math.log(0.2), math.log(0.003), (1000 * math.log(0.2) + math.log(0.003)) / 1001], abs=1e-4
    )
    measured = conditions.measure(torch.from_numpy(patches({1: 0.1, 2: 0.05, 5: 0.8})))
    assert measured.abs().max() < 10
    assert measured[0, 3] < -1  # half of what it always was


def test_where_position_says_nothing_it_is_no_part_of_the_conditions():
    labels = patches({1: 0.1}, {1: 0.2})
    for positions in (None, np.array([0.5, 0.5])):
        conditions = Conditions.from_patches((1,), labels, positions)
        assert (conditions.has_position, conditions.width) == (False, 2)
        assert conditions.measure(torch.from_numpy(labels), torch.tensor([0.5, 0.5])).shape == (2, 2)
    conditions = Conditions.from_patches((1,), labels, np.array([0.4, 0.6]))
    with pytest.raises(ValueError, match=r"position of each slice .* must be given"):
        conditions.measure(torch.from_numpy(labels))


# --- drawn as patches have them


def test_combinations_are_drawn_as_often_as_patches_show_them_also_from_a_part_of_the_patches():
    rng = np.random.default_rng(0)
    combinations, shares = ((), (1,), (1, 2), (1, 2, 5)), (0.55, 0.3, 0.1495, 0.0005)
    chosen = [combinations[number] for number in rng.choice(3, size=1999, p=np.array(shares[:3]) / sum(shares[:3]))]
    labels = patches(*[{label: rng.uniform(0.01, 0.2) for label in one} for one in [*chosen, combinations[3]]])
    conditions = Conditions.from_patches(CLASSES, labels, rng.random(2000))
    assert len(conditions.rows) == MAX_ROWS
    kept = Counter(tuple(entry is not None for entry in row[1:4]) for row in conditions.rows)
    counted = Counter(tuple(row) for row in draws(conditions, 4000)[0].tolist())
    assert sum(counted.values()) == 4000
    for combination in combinations[:3]:
        share = chosen.count(combination) / 2000
        shown = tuple(label in combination for label in CLASSES)
        assert kept[shown] / MAX_ROWS == pytest.approx(share, abs=0.15)  # but for patches that one row describes
        frequency = counted[shown] / 4000
        assert abs(frequency - share) < 4 * np.sqrt(share * (1 - share) / 4000), combination
    only_once = [row for row in conditions.rows if None not in row]
    assert [row[0] for row in only_once] == [1]  # it stays, and stands for itself


def test_what_is_drawn_is_distributed_as_what_was_measured_but_is_not_the_same():
    labels, positions = organs(1500)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    shown, areas, places = draws(conditions, 1500)
    seen = conditions.shares(torch.from_numpy(labels)).numpy()
    assert ks_2samp(places, positions).statistic < 0.07
    for column in (0, 1):
        there, real = areas[shown[:, column], column], seen[seen[:, column] > 0, column]
        assert ks_2samp(there, real).statistic < 0.1
        assert real.min() * 0.99 <= there.min()  # rows hold two digits of the logarithm
        assert there.max() <= real.max() * 1.01
        assert len(np.unique(there)) > 0.95 * len(there)
    assert len(np.unique(places)) > 0.99 * len(places)  # none piled up at the ends
    assert positions.min() - 0.001 <= places.min()
    assert places.max() <= positions.max() + 0.001
    ranks = [spearmanr(*pair).statistic for pair in ((areas[shown[:, 0], 0], places[shown[:, 0]]),
                                                     (seen[seen[:, 0] > 0, 0], positions[seen[:, 0] > 0]))]  # fmt: skip
    assert ranks[0] == pytest.approx(ranks[1], abs=0.1)
    together = shown.all(axis=1)
    assert np.quantile(areas[together, 1], 0.95) < np.quantile(areas[shown[:, 1] & ~shown[:, 0], 1], 0.05)


def test_kernels_have_silvermans_bandwidth():
    rng = np.random.default_rng(0)
    labels = patches(*[{1: share} for share in np.exp(rng.uniform(-3, -1, 400))])
    positions = np.where(np.arange(400) % 2, 0.3, 0.7)
    conditions = Conditions.from_patches((1,), labels, positions)
    _, _, places = draws(conditions, 4000, areas={1: 0.1})
    width = 0.9 * 0.2 * len(conditions.rows) ** -0.2  # half of the rows lie at 0.3, half at 0.7
    inner = places[(places > 0.3) & (places < 0.5)] - 0.3  # folded at 0.3, where the range ends
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(width, rel=0.05)


def test_what_few_patches_show_is_moved_by_kernels_of_all():
    rng = np.random.default_rng(0)
    shares = [{1: share} for share in np.exp(rng.normal(-2.5, 0.3, 200))]
    labels, positions = patches({1: 0.1, 2: 0.01}, *shares), np.r_[0.5, rng.normal(0.5, 0.1, 200).clip(0, 1)]
    _, areas, places = draws(Conditions.from_patches((1, 2), labels, positions), 1000, classes=(1, 2))
    assert places.std() == pytest.approx(0.9 * 0.1 * 201**-0.2, rel=0.15)
    assert np.log(areas[:, 0]).std() == pytest.approx(0.9 * 0.3 * 201**-0.2, rel=0.15)
    np.testing.assert_allclose(areas[:, 1], 0.01, rtol=0.01)  # only one size of 2 is known


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(float, st.integers(2, 40), elements=st.floats(-100, 100)))
@example(np.array([0.0, 0, 0, 0, 0, 0, 0, 1]))
def test_bandwidths_are_nine_tenths_of_the_lesser_deviation_by_the_fifth_root_of_the_number(values):
    deviation = values.std(ddof=1)
    if iqr(values) > 0:
        deviation = min(deviation, iqr(values, scale="normal"))
    root = gaussian_kde(np.arange(len(values))).silverman_factor() / (4 / 3) ** 0.2
    assert silverman_bandwidth(values) == pytest.approx(0.9 * deviation * root, rel=1e-3, abs=1e-12)
    assert silverman_bandwidth(values[:1]) == 0


def test_what_is_near_is_what_the_kernels_make_likely():
    rng = np.random.default_rng(0)
    areas = rng.uniform(-3, -1, (40, 2))
    areas[:15, 1] = np.nan  # they show the first class alone
    weights, positions = rng.uniform(1, 5, 40), np.r_[rng.uniform(0.4, 0.5, 15), rng.uniform(0, 1, 25)]
    table = ConditionTable.of(weights, areas, positions)
    expected = weights * norm.pdf(0.45, positions, table.position_bandwidths)
    found = table.row_weights(np.array([True, False]), position=0.45)
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=1e-9)
    found = table.row_weights(np.array([True, True]), areas=np.array([-2.0, np.nan]), position=0.45)
    expected = (expected * norm.pdf(-2, areas[:, 0], table.bandwidths[:, 0].clip(0.1))) * (np.arange(40) >= 15)
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=1e-9)
    assert table.position_bandwidths[0] < table.position_bandwidths[20] / 5  # each combination has kernels of its own


@settings(max_examples=100, deadline=None)
@given(st.floats(-10, 10), st.floats(-5, 5), st.floats(0, 5))
def test_what_leaves_the_range_is_mirrored_into_it(value, low, length):
    folded, high = float(reflect(value, low, low + length)), low + length
    assert low <= folded <= high
    if low <= value <= high:
        assert folded == pytest.approx(value)
    elif low - length < value < low:
        assert folded == pytest.approx(2 * low - value)
    elif high < value < high + length:
        assert folded == pytest.approx(2 * high - value)


@settings(max_examples=40, deadline=None)
@given(label_maps, st.integers(0, 2**16))
def test_what_is_drawn_unasked_has_a_combination_that_was_seen_and_fits_into_a_patch(labels, seed):
    conditions = Conditions.from_patches(CLASSES, labels, spread_positions(labels))
    shown, areas, _ = draws(conditions, 5, seed)
    seen = {tuple(label in patch for label in CLASSES) for patch in labels}
    assert {tuple(row) for row in shown.tolist()} <= seen
    assert (np.nansum(areas, axis=1) <= 1 + 1e-5).all()


def test_the_same_random_state_draws_the_same_and_moves_on_equally_far_whatever_is_asked():
    labels, positions = organs(200)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    assert np.array_equal(*(draws(conditions, 20, seed=3)[1] for _ in range(2)), equal_nan=True)
    after = []
    for asked in ({}, {"classes": (2,)}, {"position": 0.9, "classes": (1, 2)}, {"areas": {1: 0.3, 2: 0.1}}):
        rng = np.random.default_rng(5)
        conditions.sample(rng, **asked)
        after.append(rng.standard_normal())
    assert len(set(after)) == 1


# --- asked for


@settings(max_examples=60, deadline=None)
@given(label_maps, st.sets(st.sampled_from(CLASSES)), st.integers(0, 2**16))
def test_classes_asked_for_are_shown_and_no_others_with_areas_as_they_were_measured(labels, classes, seed):
    conditions = Conditions.from_patches(CLASSES, labels, spread_positions(labels))
    shown, areas, _ = draws(conditions, 3, seed, classes=sorted(classes))
    np.testing.assert_array_equal(shown, [[label in classes for label in CLASSES]] * 3)
    assert (areas[shown] > 0).all()
    assert (np.nansum(areas, axis=1) <= 1 + 1e-5).all()
    seen = conditions.shares(torch.from_numpy(labels)).numpy()
    for column in np.flatnonzero(shown[0] & (seen > 0).any(axis=0)):
        assert (areas[:, column] <= 1.01 * seen[:, column].max()).all()


def test_areas_and_positions_fit_the_classes_that_are_asked_for():
    labels, positions = organs(600)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    _, areas, places = draws(conditions, 300, classes=(2,))
    assert np.quantile(areas[:, 1], 0.05) > 0.19  # alone, it is large
    assert np.quantile(places, 0.05) > 0.45
    _, areas, places = draws(conditions, 300, classes=(1, 2))
    assert np.quantile(areas[:, 1], 0.95) < 0.09
    assert np.quantile(places, 0.05) > 0.2
    assert np.quantile(places, 0.95) < 0.55


@pytest.mark.parametrize(("position", "expected"), [(0.1, (1, 0)), (0.35, (1, 1)), (0.62, (0, 1)), (0.95, (0, 0))])
def test_classes_fit_the_position_that_is_asked_for(position, expected):
    labels, positions = organs(600)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    shown, _, places = draws(conditions, 200, position=position)
    assert np.abs(places - position).max() < 1e-6
    assert (shown == np.array(expected, bool)).all(axis=1).mean() > 0.9


def test_position_fits_the_area_that_is_asked_for():
    labels, positions = organs(600)
    conditions = Conditions.from_patches((1, 2), labels, positions)
    wanted = np.linspace(0.16, 0.3, 400)
    rng = np.random.default_rng(0)
    vectors = torch.stack([conditions.sample(rng, areas={1: area}) for area in wanted])
    shown, areas, places = conditions.decode(vectors)
    assert shown[:, 0].all()
    np.testing.assert_allclose(areas[:, 0].exp(), wanted, rtol=1e-5)
    among = (real := conditions.shares(torch.from_numpy(labels))[:, 0].numpy()) > wanted[0]
    expected = spearmanr(real[among], positions[among]).statistic
    assert expected < -0.6
    assert spearmanr(wanted, places).statistic == pytest.approx(expected, abs=0.2)  # kernels blur it by 0.12


def test_far_from_all_patches_the_nearest_ones_tell():
    labels = patches({1: 0.1}, {1: 0.1}, {1: 0.4, 2: 0.01})
    conditions = Conditions.from_patches((1, 2), labels, np.array([0.1, 0.11, 0.2]))
    assert not draws(conditions, 20, position=0.0)[0][:, 1].any()
    assert draws(conditions, 20, position=1.0)[0][:, 1].all()
    assert draws(conditions, 20, areas={1: 0.99})[0][:, 1].all()
    assert not draws(conditions, 20, areas={1: 1e-6})[0][:, 1].any()


@settings(max_examples=60, deadline=None)
@given(
    label_maps,
    st.none() | st.sets(st.sampled_from(CLASSES)),
    st.dictionaries(st.sampled_from(CLASSES), st.floats(1e-4, 0.33)),
    st.none() | st.floats(0, 1),
    st.integers(0, 2**16),
)
def test_everything_asked_for_at_once_is_met_exactly(labels, classes, areas, position, seed):
    conditions = Conditions.from_patches(CLASSES, labels, spread_positions(labels))
    assume(position is None or conditions.has_position)
    shown, drawn, places = draws(conditions, 2, seed, classes=classes, areas=areas, position=position)
    wanted = set(areas) | (classes or set())
    for column, label in enumerate(CLASSES):
        assert shown[:, column].all() or label not in wanted
        assert not shown[:, column].any() or classes is None or label in wanted
        np.testing.assert_allclose(drawn[:, column], areas.get(label, drawn[:, column]), rtol=1e-4)
    assert (np.nansum(drawn, axis=1) <= 1 + 1e-4).all()
    assert np.isfinite(drawn[shown]).all()
    if position is not None:
        np.testing.assert_allclose(places, position, atol=1e-6)


def test_classes_never_seen_together_get_areas_of_patches_that_show_them_near_the_position():
    labels = patches(*[{1: 0.2, 2: 0.1}] * 30, *[{5: 0.01}] * 30, *[{5: 0.1}] * 30)
    positions = np.r_[np.linspace(0.4, 0.6, 30), np.linspace(0.0, 0.2, 30), np.linspace(0.8, 1.0, 30)]
    conditions = Conditions.from_patches((*CLASSES, 7), labels, positions)
    low, high = (draws(conditions, 100, classes=(1, 2, 5, 7), position=position) for position in (0.1, 0.9))
    for shown, areas, _ in (low, high):
        assert shown.all()
        np.testing.assert_allclose(areas[:, 0], 0.2, rtol=0.02)
        np.testing.assert_allclose(areas[:, 3], math.exp(conditions.log_area_mean[3]), rtol=1e-5)  # nobody ever saw it
    assert np.median(low[1][:, 2]) < 0.02
    assert np.median(high[1][:, 2]) > 0.05


def test_others_make_room_for_the_area_that_is_asked_for():
    conditions = Conditions.from_patches((1, 2), patches(*[{1: 0.3, 2: 0.5}] * 20), None)
    _, areas, _ = draws(conditions, 10, areas={1: 0.9})
    np.testing.assert_allclose(areas, [[0.9, 0.1]] * 10, rtol=1e-4)
    shown, areas, _ = draws(conditions, 10, areas={1: 1.0})
    assert shown.tolist() == [[True, False]] * 10
    np.testing.assert_allclose(areas[:, 0], 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"classes": (3,)}, r"class 3 is not one .*\[1, 2, 5\]"),
        ({"classes": (1, 0)}, "class 0 is not one"),
        ({"classes": (-1,)}, "class -1 is not one"),
        ({"areas": {9: 0.1}}, "class 9 is not one"),
        ({"position": 1.01}, "position 1.01 is not between 0"),
        ({"position": -0.2}, "position -0.2 is not between 0"),
        ({"position": math.nan}, "position nan is not between 0"),
        ({"areas": {1: 0.0}}, "area 0 of class 1 is not a share"),
        ({"areas": {2: 1.5}}, "area 1.5 of class 2 is not a share"),
        ({"areas": {5: math.nan}}, "area nan of class 5 is not a share"),
        ({"areas": {1: 0.7, 2: 0.4}}, "add up to 1.1 of the patch$"),
        ({"areas": {1: 1.0}, "classes": (1, 5)}, "no room for class 5"),
    ],
)
def test_what_cannot_be_is_refused_in_words(asked, said):
    labels = patches({1: 0.1, 2: 0.1, 5: 0.1}, {})
    conditions = Conditions.from_patches(CLASSES, labels, np.array([0.3, 0.6]))
    with pytest.raises(ValueError, match=said):
        conditions.sample(np.random.default_rng(0), **asked)


def test_volumes_have_no_position_to_ask_for():
    conditions = Conditions.from_patches(CLASSES, patches({1: 0.1}), None)
    with pytest.raises(ValueError, match="has no positions"):
        conditions.sample(np.random.default_rng(0), position=0.5)


# --- few and many


@pytest.mark.parametrize("positions", [None, np.linspace(0.1, 0.9, 4)])
def test_a_dataset_without_foreground_classes_has_at_most_a_position(positions):
    labels = np.zeros((4, 3, 3), np.int16)
    conditions = Conditions.from_patches((), labels, positions)
    width = 0 if positions is None else 1
    assert conditions.width == width
    position = None if positions is None else torch.from_numpy(positions)
    assert conditions.measure(torch.from_numpy(labels), position).shape == (4, width)
    for asked in ({}, {"classes": ()}):
        assert conditions.sample(np.random.default_rng(0), **asked).shape == (width,)


def test_what_nothing_was_measured_of_is_empty():
    conditions = Conditions(classes=(), has_position=False)
    assert conditions.sample(np.random.default_rng(0)).shape == (0,)
    assert Conditions(classes=(), has_position=True).sample(np.random.default_rng(0)).shape == (1,)


class Card(Document):
    conditions: Conditions


def many(classes=32, count=2000):
    """Patches that each show most of many classes."""
    rng = np.random.default_rng(0)
    labels = rng.choice(classes + 1, size=(count, 20, 20), p=rng.dirichlet(np.full(classes + 1, 0.5)))
    return Conditions.from_patches(tuple(range(1, classes + 1)), labels.astype(np.int16), rng.random(count))


def test_more_than_thirty_classes_fit_into_a_small_file_and_are_drawn_one_by_one(tmp_path):
    conditions = many()
    Card(conditions=conditions).save(tmp_path / "card.json")
    assert (tmp_path / "card.json").stat().st_size < 110_000
    assert len(conditions.rows) == MAX_ROWS
    read = Card.load(tmp_path / "card.json").conditions
    assert read == conditions
    for seed in range(3):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        assert torch.equal(*(one.sample(rng) for one, rng in zip((read, conditions), rngs, strict=True)))
    for label in conditions.classes:
        shown = draws(conditions, 1, classes=(label,))[0][0]
        assert np.flatnonzero(shown).tolist() == [label - 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [[1, -2.3, None, None]]}, r"row 0 should have 5 numbers, it is \[1"),
        (
            {"rows": [[1, -2.3, None, None, 0.5], [1, 0.7, None, None, 0.5]]},
            r"row 1 should have .*above 0.* \[1.0, 0.7",
        ),
        ({"rows": [[0, -2.3, None, None, 0.5]]}, "row 0 should have a number of patches"),
        ({"rows": [[1, -2.3, None, None, 1.5]]}, "a position from 0 to 1"),
        ({"rows": [[1, -2.3, None, None, None]]}, "a position from 0 to 1"),
        ({"rows": [["1", -2.3, None, None, 0.5]]}, r"key 'conditions.rows.0.0'"),
        ({"log_area_mean": (0.0,)}, "need a number for each of the classes"),
        ({"log_area_sd": (1.0, 0.0, 1.0)}, "log_area_sd must be above 0"),
        ({"shares": (1.0,)}, "unknown key 'conditions.shares'"),
    ],
)
def test_a_damaged_file_is_told_with_its_place(tmp_path, change, said):
    good = {"classes": CLASSES, "has_position": True, "log_area_mean": (0, 0, 0), "log_area_sd": (1, 1, 1)}
    good = Conditions(**good, rows=((1, -2.3, None, None, 0.5),))
    content = Card(conditions=good).model_dump(mode="json")
    content["conditions"] |= change
    path = tmp_path / "card.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        Card.load(path)
