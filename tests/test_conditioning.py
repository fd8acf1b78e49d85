"""Conditions: counted as they occur, measured as numpy measures, drawn as often as they were counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stylegan2_cond.data.conditioning import Conditions

CLASSES = (1, 2, 5)

label_maps = hnp.array_shapes(min_dims=3, max_dims=4, max_side=6).flatmap(
    lambda shape: hnp.arrays(np.int16, shape, elements=st.sampled_from((-1, 0, *CLASSES)), fill=st.just(0))
)


@settings(max_examples=50, deadline=None)
@given(label_maps)
def test_shares_are_a_plain_count_of_the_combinations(labels):
    conditions = Conditions.from_labels(CLASSES, labels)
    counted = Counter(tuple(label for label in CLASSES if label in canvas) for canvas in labels)
    assert dict(zip(conditions.combinations, conditions.shares, strict=True)) == pytest.approx(
        {combination: count / len(labels) for combination, count in counted.items()}
    )
    assert sum(conditions.shares) == pytest.approx(1)
    assert conditions.classes == CLASSES


@settings(max_examples=50, deadline=None)
@given(label_maps)
def test_measure_marks_the_classes_that_a_canvas_shows(labels):
    conditions = Conditions.from_labels(CLASSES, labels)
    measured = conditions.measure(torch.from_numpy(labels))
    assert measured.dtype == torch.float32
    np.testing.assert_array_equal(measured, [[float(label in canvas) for label in CLASSES] for canvas in labels])


@settings(max_examples=20, deadline=None)
@given(label_maps, st.integers(0, 2**16))
def test_what_is_drawn_is_the_measure_of_a_canvas_that_was_seen(labels, seed):
    conditions = Conditions.from_labels(CLASSES, labels)
    drawn = conditions.draw(np.random.default_rng(seed))
    assert any(torch.equal(drawn, seen) for seen in conditions.measure(torch.from_numpy(labels)))


def test_encode_asks_for_exactly_the_given_classes_in_any_order():
    conditions = Conditions(classes=CLASSES, combinations=((),), shares=(1.0,))
    assert conditions.width == 3
    assert conditions.encode((5, 1)).tolist() == [1, 0, 1]
    assert conditions.encode(()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("asked", [(3,), (1, 0), (-1,)])
def test_encode_refuses_a_class_that_is_not_known_and_lists_those_that_are(asked):
    conditions = Conditions(classes=CLASSES, combinations=((),), shares=(1.0,))
    unknown = min(set(asked) - set(CLASSES))
    with pytest.raises(ValueError, match=rf"class {unknown} .*\[1, 2, 5\]"):
        conditions.encode(asked)


def test_combinations_are_drawn_as_often_as_their_shares():
    shares, draws = (0.55, 0.3, 0.14, 0.01), 5000
    combinations = ((), (1,), (1, 2), (1, 2, 5))
    conditions = Conditions(classes=CLASSES, combinations=combinations, shares=shares)
    rng = np.random.default_rng(0)
    counted = Counter(tuple(conditions.draw(rng).tolist()) for _ in range(draws))
    assert sum(counted.values()) == draws
    for combination, share in zip(combinations, shares, strict=True):
        frequency = counted[tuple(conditions.encode(combination).tolist())] / draws
        assert abs(frequency - share) < 4 * np.sqrt(share * (1 - share) / draws), combination


def test_the_same_random_state_draws_the_same_conditions():
    conditions = Conditions(classes=CLASSES, combinations=((), (1,), (2, 5)), shares=(0.2, 0.3, 0.5))
    first, second = ([conditions.draw(rng).tolist() for _ in range(20)] for rng in map(np.random.default_rng, (3, 3)))
    assert first == second


def test_a_dataset_without_foreground_classes_has_empty_conditions():
    labels = np.zeros((4, 3, 3), np.int16)
    conditions = Conditions(classes=(), combinations=((),), shares=(1.0,))
    assert conditions.measure(torch.from_numpy(labels)).shape == (4, 0)
    assert conditions.encode(()).shape == (0,)
    assert conditions.draw(np.random.default_rng(0)).shape == (0,)


def test_counting_works_without_foreground_classes():
    counted = Conditions.from_labels((), np.zeros((4, 3, 3), np.int16))
    assert (counted.classes, counted.combinations, counted.shares) == ((), ((),), (1.0,))


def test_conditions_survive_being_written_as_json():
    conditions = Conditions(classes=CLASSES, combinations=((), (1, 5)), shares=(1 / 3, 2 / 3))
    assert Conditions.model_validate_json(conditions.model_dump_json()) == conditions
