"""The plan's choices: canvases that images fill, pyramids that reach them, and messages for canvases that can't be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stylegan2_cond.data.codec import Codec
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import (
    FILLED_SHARE,
    FINEST_CHANNELS,
    LARGEST_BASE,
    Plan,
    Source,
    _checked_canvas,
    choose_canvas,
    choose_channels,
    choose_factors,
    training_bytes,
)

# --- canvas

surveys = st.tuples(st.integers(1, 45), st.integers(2, 3)).flatmap(
    lambda shape: st.tuples(
        st.tuples(*[st.integers(1, 60)] * shape[1]),
        hnp.arrays(np.int64, shape, elements=st.integers(1, 60)),
    )
)


@settings(max_examples=150, deadline=None)
@given(surveys)
def test_the_canvas_is_within_the_patch_and_nearly_all_images_fill_it(survey):
    patch, sizes = survey
    canvas = choose_canvas(patch, sizes)
    assert len(canvas) == len(patch)
    for length, limit, lengths in zip(canvas, patch, sizes.T, strict=True):
        assert length <= limit
        assert (lengths >= length).mean() >= FILLED_SHARE


@settings(max_examples=150, deadline=None)
@given(surveys)
def test_no_larger_canvas_would_be_filled_as_well(survey):
    patch, sizes = survey
    for length, limit, lengths in zip(choose_canvas(patch, sizes), patch, sizes.T, strict=True):
        assert length == limit or (lengths >= length + 1).mean() < FILLED_SHARE


def test_one_small_image_in_twenty_is_no_reason_for_a_small_canvas_but_one_in_ten_is():
    sizes = np.full((20, 2), 50)
    sizes[3] = 10
    assert choose_canvas((40, 60), sizes) == (40, 50)
    assert choose_canvas((40, 60), sizes[:10]) == (10, 10)


# --- pyramid


def base_of(canvas, factors):
    for stage in reversed(factors):
        canvas = tuple(math.ceil(length / factor) for length, factor in zip(canvas, stage, strict=True))
    return canvas


@st.composite
def plans_of_nnunet(draw):
    dims = draw(st.integers(2, 3))
    canvas = draw(st.tuples(*[st.integers(1, 300)] * dims))
    stage = st.tuples(*[st.sampled_from([1, 2])] * dims)
    return canvas, [(1,) * dims, *draw(st.lists(stage, max_size=7))]


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_the_base_of_the_pyramid_is_small_but_no_axis_is_made_smaller_than_four(case):
    canvas, strides = case
    factors = choose_factors(canvas, strides)
    base = base_of(canvas, factors)
    assert max(base) <= LARGEST_BASE
    assert all(small >= min(4, length) for small, length in zip(base, canvas, strict=True))
    assert all(any(factor > 1 for factor in stage) for stage in factors)  # no stage that changes nothing


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_the_pyramid_reaches_the_canvas(case):
    canvas, strides = case
    factors = choose_factors(canvas, strides)
    reached = base_of(canvas, factors)
    for stage in factors:
        reached = tuple(length * factor for length, factor in zip(reached, stage, strict=True))
    assert all(most >= length for most, length in zip(reached, canvas, strict=True))


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_strides_that_leave_every_axis_at_four_are_taken_as_they_are_read_backwards(case):
    canvas, strides = case
    taken, lengths = [], canvas
    for stride in strides:
        lengths = tuple(math.ceil(length / s) for length, s in zip(lengths, stride, strict=True))
        if min(lengths) < 4:
            break
        taken += [stride] if max(stride) > 1 else []
    assert choose_factors(canvas, strides)[::-1][: len(taken)] == tuple(taken)


@pytest.mark.parametrize(
    ("canvas", "strides", "factors"),
    [
        # thick slices: the plane is halved first, all axes after; one stage is added since 16 > 8
        ((32, 64, 64), [[1, 1, 1], [1, 2, 2], [2, 2, 2]], ((2, 2, 2), (2, 2, 2), (1, 2, 2))),
        # 6 would become 3: this axis keeps its length where the others go on
        ((6, 64, 64), [[1, 1, 1], [2, 2, 2], [1, 2, 2], [1, 2, 2]], ((1, 2, 2), (1, 2, 2), (1, 2, 2))),
        # non-square: the added stages halve only what is still long
        ((8, 40), [[1, 1]], ((1, 2), (1, 2), (1, 2))),
        # nothing to do
        ((8, 5), [[1, 1]], ()),
        # the order of the plan's strides is kept where they differ
        ((40, 40), [[1, 1], [1, 2], [2, 1], [2, 2]], ((2, 2), (2, 2), (2, 1), (1, 2))),
        # odd lengths are rounded up: 9 → 5 and 37 → 19 → 10 → 5
        ((9, 37), [[1, 1], [2, 2], [2, 2]], ((1, 2), (1, 2), (2, 2))),
    ],
)
def test_the_pyramid_is_nnunets_read_backwards(canvas, strides, factors):
    assert choose_factors(canvas, strides) == factors


# --- channels and memory


@pytest.mark.parametrize("canvas", [(16, 16), (64, 48), (128, 128), (512, 512), (32, 48, 32), (96, 160, 160)])
@pytest.mark.parametrize("stages", [1, 3, 7])
def test_channels_start_at_the_canvas_and_at_most_double_towards_the_base(canvas, stages):
    channels = choose_channels(canvas, stages)
    assert len(channels) == stages
    assert channels[-1] == FINEST_CHANNELS
    for coarse, fine in itertools.pairwise(channels):
        assert coarse == min(2 * fine, channels[0])


def test_the_most_channels_grow_with_the_canvas_and_depend_on_its_size_alone():
    most = [choose_channels((side, side), 8)[0] for side in (32, 64, 65, 128, 129, 512)]
    assert most == sorted(most)
    assert most[0] < most[-1]
    assert choose_channels((32, 128), 8) == choose_channels((64, 64), 8) == choose_channels((64, 64, 64), 8)


def make_plan_of(canvas, factors=((2, 2), (1, 2)), batch_size=16):
    names = ("dataset_name", "plans_name", "configuration", "data_identifier", "preprocessing")
    return Plan(
        source=Source(**dict.fromkeys(names, "x"), fold="0", training_cases=("a",)),
        canvas=canvas,
        factors=factors,
        channels=(128, 96, 48)[-len(factors) - 1 :],
        codec=Codec(low=(0.0,), high=(1.0,), labels=(0, 1)),
        conditions=Conditions(classes=(), combinations=((),), shares=(1.0,)),
        batch_size=batch_size,
    )


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(4, 200), st.integers(4, 200)), st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_a_larger_canvas_never_needs_less_memory_and_a_larger_one_on_each_axis_more(canvas, growth):
    larger = tuple(length + more for length, more in zip(canvas, growth, strict=True))
    needed = training_bytes(make_plan_of(canvas)), training_bytes(make_plan_of(larger))
    assert needed[0] <= needed[1]
    assert (needed[0] < needed[1]) == (larger != canvas)


def test_memory_is_at_least_that_of_one_activation_per_stage_and_network():
    plan = make_plan_of((12, 20))
    activations = 48 * 12 * 20 + 96 * 12 * 10 + 128 * 6 * 5  # a stage each
    assert training_bytes(plan) >= 2 * 4 * plan.batch_size * activations  # bytes of float32, two networks


@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_memory_for_activations_is_in_proportion_to_the_batch(batch_size):
    big = (256, 256)  # where activations outweigh the weights
    ratio = training_bytes(make_plan_of(big, batch_size=batch_size)) / training_bytes(make_plan_of(big, batch_size=1))
    assert ratio == pytest.approx(batch_size, rel=0.05)


# --- a plan as a file


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path):
    plan = make_plan_of((12, 20))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


# --- a canvas that was asked for


@pytest.mark.parametrize("canvas", [(48, 32), [4, 4], (48, 4)])
def test_a_canvas_within_the_patch_is_taken(canvas):
    assert _checked_canvas(canvas, (48, 32)) == tuple(canvas)


@pytest.mark.parametrize("canvas", [(32,), (16, 32, 32)])
def test_a_canvas_of_other_dimensions_is_refused_with_both_numbers(canvas):
    with pytest.raises(UserError, match=rf"--canvas has {len(canvas)} sizes.* 2 dimensions.*48, 32"):
        _checked_canvas(canvas, (48, 32))


@pytest.mark.parametrize("canvas", [(49, 32), (48, 33), (3, 32), (48, 0), (-8, 8)])
def test_a_canvas_beyond_the_patch_or_too_small_is_refused_with_the_limits(canvas):
    with pytest.raises(UserError) as caught:
        _checked_canvas(canvas, (48, 32))
    message = str(caught.value)
    assert "--canvas" in message
    for part in (str(list(canvas)), "4", "[48, 32]"):
        assert part in message


def test_the_derived_canvas_may_be_typed_even_where_an_axis_of_the_patch_is_thin():
    patch = (3, 48, 32)
    derived = choose_canvas(patch, np.array([[3, 50, 50]] * 4))
    assert _checked_canvas(derived, patch) == derived
