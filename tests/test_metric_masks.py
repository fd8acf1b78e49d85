"""Masks measured patch by patch with other tools, their distances, and Dice voxel by voxel."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.measure import euler_number

from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import SampleSet, compare
from stylegan2_cond.metrics.mask_statistics import describe_masks, mask_distances
from stylegan2_cond.metrics.segmentation_agreement import dice, overlaps

labels = st.sampled_from([-1, 0, 1, 2])
patches = hnp.array_shapes(min_dims=3, max_dims=4, max_side=7).flatmap(
    lambda shape: hnp.arrays(np.int16, shape, elements=labels)
)


def measure(mask):
    """One patch, the slow way."""
    dims, voxels = mask.ndim, mask.size
    filled = ndimage.binary_fill_holes(mask, structure=np.ones((3,) * dims))
    faces = 0
    for place in np.ndindex(mask.shape):
        for axis in range(dims):
            nearby = list(place)
            nearby[axis] += 1
            faces += nearby[axis] < mask.shape[axis] and mask[place] != mask[tuple(nearby)]
    found = {
        "presence": float(mask.any()),
        "area": np.count_nonzero(mask) / voxels,
        "components": ndimage.label(mask)[1],
        "holes": ndimage.label(filled & ~mask, np.ones((3,) * dims))[1],
        "boundary": faces / voxels,
    }
    places = np.argwhere(mask) + 0.5
    centre = places.mean(axis=0) / mask.shape if len(places) else [np.nan] * dims
    return found | dict(zip("zyx"[-dims:], centre, strict=True))


@settings(max_examples=60, deadline=None)
@given(patches)
def test_masks_are_described_as_one_by_one_with_scipy(label):
    described = describe_masks(label, 1)
    expected = [measure(patch_size == 1) for patch_size in label]
    assert list(described) == list(expected[0])
    for name, values in described.items():
        np.testing.assert_allclose(values, [one[name] for one in expected], err_msg=name)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))))
def test_components_less_holes_are_the_euler_number_of_scikit_image(masks):
    described = describe_masks(masks.astype(np.int16), 1)
    expected = [euler_number(mask, connectivity=1) for mask in masks]
    np.testing.assert_array_equal(described["components"] - described["holes"], expected)


def test_known_shapes():
    label = np.zeros((6, 8, 10), np.int16)
    label[0, 2:5, 2:5] = 1
    label[0, 3, 3] = 2  # a ring, another class in its hole
    label[1, 1:3, 1:3] = label[1, 5:7, 6:8] = 1  # two squares
    label[2, 1:3, 1:3] = label[2, 3:5, 3:5] = 1  # that touch at a corner only
    label[3, 0:3, 0:3] = 1
    label[3, 1, 0] = 0  # open to the rim, so no hole
    label[4] = 1
    found = describe_masks(label, 1)
    assert found["components"].tolist() == [1, 2, 2, 1, 1, 0]
    assert found["holes"].tolist() == [1, 0, 0, 0, 0, 0]
    assert (found["area"] * 80).tolist() == [8, 8, 8, 8, 80, 0]
    assert (found["boundary"] * 80).tolist() == [12 + 4, 16, 16, 6 + 3, 0, 0]
    assert found["presence"].tolist() == [1, 1, 1, 1, 1, 0]
    assert found["y"][[0, 4]] == pytest.approx([3.5 / 8, 0.5])
    assert found["x"][[0, 4]] == pytest.approx([0.35, 0.5])
    assert np.isnan(found["y"][5])


def test_a_ball_with_a_void_has_a_hole_in_3d_and_a_tunnel_is_none():
    label = np.zeros((2, 7, 7, 7), np.int16)
    label[:, 1:6, 1:6, 1:6] = 1
    label[0, 3, 3, 3] = 0
    label[1, :, 3, 3] = 0
    assert describe_masks(label, 1)["holes"].tolist() == [1, 0]


# --- distances


def test_a_mask_distance_is_wasserstein_over_the_deviation_of_both_together():
    ours, theirs = np.array([0.0, 1, 1, 4]), np.array([2.0, 3, 7, 8])
    pooled = np.concatenate([ours, theirs]).std()  # two sides of one size: the mixture is all of them
    assert wasserstein_distance(ours, theirs) == 3.5  # in order: 2, 2, 6 and 4
    np.testing.assert_allclose(mask_distances([ours], [theirs]), [3.5 / pooled])
    assert mask_distances([np.array([0.0, 0])], [np.array([1.0, 1, 1])]) == pytest.approx([2])  # the most there is


def test_sides_of_different_size_weigh_the_same():
    ours, theirs = np.array([0.0, 1, 1, 4]), np.array([2.0, 3, 7, 8])
    repeated = mask_distances([np.tile(ours, 5)], [theirs])
    np.testing.assert_allclose(repeated, mask_distances([ours], [theirs]))


values = hnp.arrays(float, st.integers(1, 12), elements=st.floats(-100, 100) | st.just(np.nan))


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_a_mask_distance_is_symmetric_zero_for_equals_and_never_above_two(ours, theirs):
    there, back, same = mask_distances([ours, theirs, ours], [theirs, ours, ours])
    if np.isnan(ours).all() or np.isnan(theirs).all():
        assert np.isnan(there)
        assert np.isnan(back)
        return
    assert 0 <= there <= 2 + 1e-9
    assert there == pytest.approx(back)
    assert same == 0


def squares(count, shift=0, value=1, seed=0):
    """Patches with a square each, at a random place."""
    label = np.zeros((count, 20, 20), np.int16)
    for mask, (y, x) in zip(label, np.random.default_rng(seed).integers(1, 10, (count, 2)), strict=True):
        mask[y : y + 5, x + shift : x + shift + 5] = value
    return SampleSet(np.random.default_rng(seed).standard_normal((count, 1, 20, 20)).astype(np.float32), label)


def test_a_class_that_is_never_generated_is_named_and_moves_presence_and_area():
    real = squares(50)
    real.label[:, 15:, 15:] = 2
    result = compare(real, squares(50), ["masks"])["masks"]
    assert result.warning == "class 2 missing in generated masks"
    assert result.details["2 presence"] == result.details["2 area"] == pytest.approx(2)
    assert "2 y" not in result.details  # a class that is not there lies nowhere
    assert result.details["1 area"] == result.details["1 presence"] == 0
    assert result.value == pytest.approx(np.mean(list(result.details.values())))
    assert compare(squares(50), real, ["masks"])["masks"].warning == "class 2 missing in real masks"


def test_masks_that_moved_sideways_differ_in_their_place_alone():
    result = compare(squares(200), squares(200, shift=4), ["masks"])["masks"]
    moved = [name for name, value in result.details.items() if value > 1e-9]
    assert moved == ["1 x"]
    assert result.value > 5 * result.standard_error
    assert result.warning is None


def test_masks_of_one_kind_differ_by_their_error():
    results = [compare(squares(200, seed=i), squares(200, seed=100 + i), ["masks"])["masks"] for i in range(5)]
    assert max(result.value for result in results) < 0.1


# --- Dice


@settings(max_examples=60, deadline=None)
@given(patches, st.integers(0, 99))
def test_dice_is_counted_voxel_by_voxel(label, seed):
    said = np.random.default_rng(seed).permuted(label, axis=None)
    found = dice(*overlaps(label, said, (1, 2, 7)))
    for value, share in zip((1, 2), found[:2], strict=True):
        both = sum(a == value and b == value for a, b in zip(label.flat, said.flat, strict=True))
        size = sum(a == value for a in itertools.chain(label.flat, said.flat))
        assert share == pytest.approx(2 * both / size if size else np.nan, nan_ok=True)
    assert np.isnan(found[2])  # neither side shows it


class Parrot:
    """In place of an nnU-Net: returns a given segmentation."""

    def __init__(self, segmentation):
        self.segmentation = segmentation

    def segment(self, samples):
        return self.segmentation

    def __call__(self, samples):
        raise AssertionError("agreement needs no features")

    standardised = True


def test_agreement_is_one_where_nnunet_says_what_was_generated_and_less_for_shuffled_masks():
    real, generated = squares(60), squares(60, seed=1)
    agreed = compare(real, generated, ["agreement"], nnunet=Parrot(generated.label))["agreement"]
    assert (agreed.value, agreed.standard_error) == (1, 0)
    assert agreed.details["class 1"] == 1
    shuffled = SampleSet(generated.image, np.random.default_rng(0).permutation(generated.label))
    less = compare(real, shuffled, ["agreement"], nnunet=Parrot(generated.label))["agreement"]
    assert less.value < 0.5
    assert less.value + 5 * less.standard_error < 1


def test_agreement_is_the_mean_over_classes_and_leaves_out_what_neither_side_shows():
    real, generated = squares(40), squares(40, seed=1)
    real.label[:, 15:, 15:] = 3  # real only: no word on generated pairs
    generated.label[:, 16:, 16:] = 2
    said = np.where(generated.label == 1, 1, 0)
    result = compare(real, generated, ["agreement"], nnunet=Parrot(said))["agreement"]
    assert result.value == pytest.approx(0.5)
    assert {n: v for n, v in result.details.items() if n.startswith("class")} == {"class 1": 1, "class 2": 0}


@pytest.mark.parametrize("name", ["masks", "agreement"])
def test_masks_without_any_class_say_nothing(name):
    empty = SampleSet(squares(30).image, np.zeros((30, 20, 20), np.int16))
    with pytest.raises(UserError, match=f"{name} needs masks with a"):
        compare(empty, empty, [name], nnunet=Parrot(empty.label))
