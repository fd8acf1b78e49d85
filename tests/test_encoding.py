"""The codec: pairs survive coding, masks exactly; the outside is composed; ignored voxels tell nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from tiny import Operations
from torch.nn import functional as F

from stylegan2_cond.data.encoding import Codec, soften
from stylegan2_cond.data.nnunet_dataset import OUTSIDE

LABELS = (0, 1, 2, 7, OUTSIDE)
IGNORE = 9
LOW, HIGH = (-2.0, 10.0), (3.0, 500.0)
IN_RANGE = st.floats(-1000, 1000, width=32)

shapes = st.one_of(
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)
)


def label_maps(values=LABELS):
    """Integer maps `[N, *spatial]` in 2-D and 3-D, voxels drawn one by one."""
    return shapes.flatmap(lambda shape: hnp.arrays(np.int16, shape, elements=st.sampled_from(values))).map(
        torch.from_numpy
    )


def make_codec(**changes):
    return Codec(**{"low": LOW, "high": HIGH, "labels": LABELS, **changes})


def blank_image(label):
    return torch.zeros(len(label), len(LOW), *label.shape[1:])


def probabilities(coded, codec):
    return (coded[:, codec.image_channels :] + 1) / 2


def draw_raw(codec, *patch_size, seed=0, scale=5.0, count=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (count, codec.channels, *patch_size))).float()


# --- there and back


@settings(max_examples=100, deadline=None)
@given(label_maps())
def test_any_label_map_survives_coding_exactly(label):
    codec = make_codec()
    _, decoded = codec.decode(codec.encode(blank_image(label), label))
    assert decoded.dtype == torch.int16
    assert torch.equal(decoded, label)


@pytest.mark.parametrize("patch_size", [(7, 9), (5, 7, 6)])
@pytest.mark.parametrize("outside", [None, (0.0, 0.0)])
def test_single_voxels_and_checkerboards_survive_coding(patch_size, outside):
    label = torch.zeros(3, *patch_size, dtype=torch.int16)
    label[(0, *(n // 2 for n in patch_size))] = 7  # one voxel in the middle
    label[(0, *[0] * len(patch_size))] = OUTSIDE  # and one in the corner
    label[1] = torch.from_numpy(np.indices(patch_size).sum(axis=0) % 2)
    label[2] = OUTSIDE
    codec = make_codec(outside=outside)
    assert torch.equal(codec.decode(codec.encode(blank_image(label), label))[1], label)


@settings(max_examples=50, deadline=None)
@given(shapes.flatmap(lambda shape: hnp.arrays(np.float32, (shape[0], 2, *shape[1:]), elements=IN_RANGE)))
def test_images_survive_coding_to_float_precision_and_are_not_clipped(image):
    codec = make_codec()
    label = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.int16)
    decoded, _ = codec.decode(codec.encode(torch.from_numpy(image), label))
    bounds = np.abs([LOW, HIGH]).max(axis=0).reshape(1, 2, *[1] * (image.ndim - 2))
    # four roundings of numbers that are no larger than the range and the distance to it
    assert (np.abs(decoded.numpy() - image) <= 8 * np.finfo(np.float32).eps * (np.abs(image) + 2 * bounds)).all()


def test_low_becomes_minus_one_and_high_one_and_values_beyond_go_on_in_line():
    image = torch.tensor([[-2.0, 0.5, 3.0, 8.0], [10.0, 255.0, 500.0, 990.0]]).reshape(1, 2, 1, 4)
    coded = make_codec().encode(image, torch.zeros(1, 1, 4, dtype=torch.int16))
    torch.testing.assert_close(coded[0, :2, 0], torch.tensor([[-1.0, 0.0, 1.0, 3.0]] * 2))


def test_the_tensor_has_the_image_channels_first_and_then_one_channel_per_label_in_order():
    codec = make_codec()
    label = torch.tensor(LABELS, dtype=torch.int16).reshape(-1, 1, 1).expand(-1, 3, 3)
    coded = codec.encode(blank_image(label), label)
    assert coded.shape == (len(LABELS), codec.channels, 3, 3)
    assert (codec.image_channels, codec.channels) == (2, 7)
    # a map of one label is no blend of anything
    expected = torch.eye(len(LABELS))[:, :, None, None].expand(-1, -1, 3, 3)
    torch.testing.assert_close(probabilities(coded, codec), expected)


@pytest.mark.parametrize("stray", [3, -2, IGNORE])
def test_a_label_without_a_channel_is_refused_by_name(stray):
    label = torch.zeros(2, 3, 3, dtype=torch.int16)
    label[1, 2, 0] = stray
    with pytest.raises(ValueError, match=f"label {stray} "):
        make_codec().check_labels(label.numpy())


# --- softening


@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_softening_blends_neighbours_and_leaves_each_voxel_the_majority_of_itself(label):
    one_hot = (label.unsqueeze(1) == torch.tensor(LABELS).reshape(1, -1, *[1] * (label.ndim - 1))).float()
    soft = soften(one_hot)
    assert soft.shape == one_hot.shape
    assert (soft >= 0).all()
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(label.shape))
    assert (soft[one_hot.bool()] > 0.5).all()


@pytest.mark.parametrize("patch_size", [(11, 9), (5, 7, 6)])
def test_softened_classes_sum_to_one_as_float32_has_it_and_no_convolution_could_round_them(patch_size):
    label = torch.randint(3, (4, *patch_size), generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(label, 3).movedim(-1, 1).float()
    with torch.autocast("cpu", torch.bfloat16), Operations() as operations:
        soft = soften(one_hot)
    assert not any("conv" in name or name in ("mm", "bmm", "addmm") for name, _ in operations.seen)
    roundings = 5 * len(patch_size)  # of each axis: a product and four sums
    assert (soft.double().sum(dim=1) - 1).abs().max() <= roundings * torch.finfo(torch.float32).eps
    taps = 0.55 ** (1 / len(patch_size))
    exact = one_hot.double().numpy()
    for axis in range(2, exact.ndim):
        exact = ndimage.correlate1d(exact, [(1 - taps) / 2, taps, (1 - taps) / 2], axis=axis, mode="nearest")
    assert np.abs(soft.numpy() - exact).max() <= roundings * np.finfo(np.float32).eps


@pytest.mark.parametrize("patch_size", [(6, 6), (4, 6, 6)])
def test_softening_reaches_exactly_the_neighbours_of_a_border(patch_size):
    mask = torch.zeros(1, 2, *patch_size)
    mask[:, 0, ..., :3], mask[:, 1, ..., 3:] = 1, 1
    soft = soften(mask)
    blended = (soft[:, 0] > 0) & (soft[:, 0] < 1)
    assert blended[..., [2, 3]].all()
    assert not blended[..., [0, 1, 4, 5]].any()
    torch.testing.assert_close(soft, soft.flip(-1).flip(1))  # neither side is favoured


# --- what the generator draws


@pytest.mark.parametrize("patch_size", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("outside", [None, (0.0, 7.5)])
def test_drawn_label_channels_are_probabilities(patch_size, outside):
    codec = make_codec(outside=outside)
    for scale in (0.1, 5.0, 1000.0):
        drawn = probabilities(codec.activate(draw_raw(codec, *patch_size, scale=scale)), codec)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        torch.testing.assert_close(drawn.sum(dim=1), torch.ones(3, *patch_size))


def test_without_a_value_for_the_outside_the_drawn_image_is_left_alone():
    codec = make_codec(outside=None)
    raw = draw_raw(codec, 6, 5)
    assert torch.equal(codec.activate(raw)[:, :2], raw[:, :2])


@settings(max_examples=30, deadline=None)
@given(
    label_maps(),
    st.integers(0, 2**16),
    st.tuples(IN_RANGE, IN_RANGE),
    st.sampled_from([1.0, 100.0]),
)
def test_the_image_is_exactly_the_outside_value_where_the_mask_says_so_and_untouched_elsewhere(
    label, seed, outside, scale
):
    codec = make_codec(outside=outside)
    raw = draw_raw(codec, *label.shape[1:], seed=seed, scale=scale, count=len(label))
    chosen = label.unsqueeze(1) == torch.tensor(LABELS).reshape(1, -1, *[1] * (label.ndim - 1))
    raw[:, 2:] = torch.where(chosen, 200.0, 0.0)  # sure: softmax rounds to 1 and 0
    beyond = (label == OUTSIDE).unsqueeze(1)
    constant = torch.tensor(outside).reshape(1, 2, *[1] * (label.ndim - 1)).expand_as(raw[:, :2])

    activated = codec.activate(raw)
    real = codec.encode(constant, label)  # as real pairs of the same mask are coded there
    assert torch.equal(activated[:, :2], torch.where(beyond, real[:, :2], raw[:, :2]))

    image, decoded = codec.decode(activated)
    assert torch.equal(decoded, label)
    assert torch.equal(image[beyond.expand_as(image)], constant[beyond.expand_as(image)])
    free, _ = make_codec(outside=None).decode(raw)
    assert torch.equal(image[~beyond.expand_as(image)], free[~beyond.expand_as(image)])


def test_where_the_mask_is_unsure_the_image_lies_in_proportion_between():
    codec = Codec(low=(-1.0,), high=(1.0,), labels=(0, OUTSIDE), outside=(-1.0,))
    raw = torch.tensor([0.5, 0.0, float(np.log(3))]).reshape(1, 3, 1, 1)  # outside with probability 3/4
    torch.testing.assert_close(codec.activate(raw).flatten(), torch.tensor([0.25 * 0.5 - 0.75, -0.5, 0.5]))


def test_an_outside_value_is_of_no_effect_where_no_label_is_outside():
    codec = make_codec(labels=(0, 1), outside=(5.0, 5.0))
    raw = draw_raw(codec, 4, 4)
    assert torch.equal(codec.activate(raw)[:, :2], raw[:, :2])


# --- a mask that is given


@settings(max_examples=40, deadline=None)
@given(label_maps(), st.integers(0, 2**16), st.sampled_from([None, (0.0, 7.5)]))
def test_a_given_mask_stays_as_it_is_beside_the_drawn_image(label, seed, outside):
    codec = make_codec(outside=outside)
    given_mask = codec.encode_label(label)
    raw = draw_raw(codec, *label.shape[1:], seed=seed, count=len(label))[:, :2]
    activated = codec.activate(raw, given_mask)
    assert torch.equal(activated[:, 2:], given_mask)
    assert torch.equal(codec.decode(activated)[1], label)
    if outside is None:
        assert torch.equal(activated[:, :2], raw)
        return
    share = probabilities(activated, codec)[:, LABELS.index(OUTSIDE)].unsqueeze(1).numpy()
    constant = (np.array(outside) - LOW) / np.subtract(HIGH, LOW) * 2 - 1
    constant = constant.reshape(1, 2, *[1] * (label.ndim - 1))
    np.testing.assert_allclose(activated[:, :2], (1 - share) * raw.numpy() + share * constant, rtol=1e-4, atol=1e-5)
    image = codec.decode(activated)[0]
    for channel, value in enumerate(outside):
        assert (image[:, channel][label == OUTSIDE] == value).all()


@settings(max_examples=30, deadline=None)
@given(label_maps((*LABELS, IGNORE)))
def test_a_mask_alone_is_coded_as_it_is_beside_an_image(label):
    codec = make_codec(ignore=IGNORE)
    assert torch.equal(codec.encode_label(label), codec.encode(blank_image(label), label)[:, 2:])


def test_a_codec_without_image_channels_codes_masks_alone():
    codec = make_codec(low=(), high=())
    label = torch.tensor(LABELS, dtype=torch.int16).reshape(1, 1, -1).repeat(2, 3, 2)
    coded = codec.encode(torch.zeros(2, 0, *label.shape[1:]), label)
    assert coded.shape == (2, len(LABELS), *label.shape[1:])
    image, decoded = codec.decode(codec.activate(200 * coded))
    assert image.shape == (2, 0, *label.shape[1:])
    assert torch.equal(decoded, label)


# --- the ignore label


def test_without_an_ignore_label_everything_is_known_and_nothing_hidden():
    codec = make_codec()
    coded = draw_raw(codec, 4, 4)
    assert codec.known(torch.zeros(3, 4, 4)) is None
    assert codec.hide(coded, None) is coded


@settings(max_examples=40, deadline=None)
@given(label_maps((*LABELS, IGNORE)), st.integers(0, 2**16))
def test_ignored_voxels_tell_nothing_of_real_or_drawn_masks(label, seed):
    codec = make_codec(ignore=IGNORE)
    known, ignored = codec.known(label), (label == IGNORE).unsqueeze(1)
    assert torch.equal(known, (~ignored).float())

    real = codec.hide(codec.encode(blank_image(label), label), known)
    raw = draw_raw(codec, *label.shape[1:], seed=seed, count=len(label))
    drawn = codec.hide(codec.activate(raw), known)
    for coded in (real, drawn):
        assert not (coded[:, 2:] * ignored).any()

    other = torch.where(ignored, draw_raw(codec, *label.shape[1:], seed=seed + 1, count=len(label)), raw)
    assert torch.equal(codec.hide(codec.activate(other), known)[:, 2:], drawn[:, 2:])


@settings(max_examples=40, deadline=None)
@given(label_maps((*LABELS, IGNORE)))
def test_known_voxels_beside_ignored_ones_are_coded_as_probabilities_as_drawn_ones_are(label):
    codec = make_codec(ignore=IGNORE)
    coded = codec.encode(blank_image(label), label)
    known = label != IGNORE
    assert torch.equal(codec.decode(coded)[1][known], label[known])
    torch.testing.assert_close(probabilities(coded, codec).sum(dim=1)[known], torch.ones(int(known.sum())))


# --- colour


@pytest.mark.parametrize(
    ("names", "rgb"),
    [
        (("R", "G", "B"), (0, 1, 2)),
        (("blue", "Green", "red"), (2, 1, 0)),
        (("R", "G"), None),
        (("FLAIR", "T1", "T2"), None),
        (("R", "G", "B", "depth"), None),
        ((), None),
    ],
)
def test_a_colour_image_is_known_by_the_names_of_its_channels(names, rgb):
    assert make_codec(channel_names=names).rgb == rgb
