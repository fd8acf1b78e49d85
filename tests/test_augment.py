"""Augmentation leaks nothing, tears no pair apart, differentiates twice, and is driven by the overfitting signal."""

import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation
from tolerance import assert_rounded, rounding
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_cond.training.augment import AdaptiveProbability, Augment, geometry
from stylegan2_cond.training.augment import parameters as strengths
from stylegan2_cond.training.augment.adaptive import INTERVAL, LARGEST_P
from stylegan2_cond.training.augment.geometry import affine_warp, resample, rotation_matrix
from stylegan2_cond.training.augment.intensity import STEEPEST_BEND, bend_curve, blur

PATCHES = {2: (9, 7), 3: (5, 7, 4)}
every_dimension = pytest.mark.parametrize("dims", [2, 3])
NEUTRAL = {"brightness": 0, "contrast": 1, "bend": 0, "blur": 0, "noise": 0}


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def sample_parameters(augment, count, p, patch_size, seed=0):
    return augment.sample(count, p, patch_size, *(torch.Generator().manual_seed(2 * seed + of) for of in (0, 1)))


def coded_pairs(count, image_channels, labels, patch_size, seed=0):
    """Image channels of any values, and label channels that code probabilities."""
    image, logits = (
        normal(count, image_channels, *patch_size, seed=seed),
        normal(count, labels, *patch_size, seed=seed + 1),
    )
    return torch.cat([image, (3 * logits).softmax(dim=1) * 2 - 1], dim=1)


def without_geometry(parameters):
    """The same, without geometry."""
    return replace(parameters, moved=torch.zeros_like(parameters.moved))


def without_intensity(parameters):
    """The same, without intensity."""
    return replace(parameters, changed=torch.zeros_like(parameters.changed))


def warped(pairs, parameters, warp):
    """Pairs that only this warp is applied to."""
    return Augment(0, pairs.ndim - 2)(pairs, replace(parameters, moved=torch.ones(len(pairs), dtype=bool), warp=warp))


# --- row by row


@every_dimension
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.floats(0, 1), st.integers(0, 2**16))
def test_a_slice_of_the_parameters_does_to_a_slice_of_the_batch_what_the_whole_does_to_it(dims, a, b, p, seed):
    patch_size = PATCHES[dims]
    augment, pairs = Augment(2, dims), coded_pairs(6, 2, 3, patch_size)
    parameters = sample_parameters(augment, 6, p, patch_size, seed)
    sliced = parameters[a:b]
    assert len(sliced) == len(range(6)[a:b])
    whole = augment(pairs, parameters)
    terms = 2**dims * max(patch_size)  # corners, whose weights are fractions of coordinates as large as the patch
    assert_rounded(augment(pairs[a:b], sliced), whole[a:b], terms=terms, scale=whole.abs().max().item())


@every_dimension
def test_a_sample_does_not_depend_on_the_others_of_its_batch(dims):
    augment, pairs = Augment(2, dims), coded_pairs(4, 2, 3, PATCHES[dims])
    parameters = sample_parameters(augment, 4, 0.7, PATCHES[dims])
    changed = pairs.clone()
    changed[2] = normal(*pairs.shape[1:], seed=9)
    before, after = augment(pairs, parameters), augment(changed, parameters)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[2], after[2])


# --- what is not augmented


@every_dimension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_done_at_probability_zero(dims, dtype):
    augment, pairs = Augment(2, dims), coded_pairs(4, 2, 3, PATCHES[dims]).to(dtype)
    assert augment(pairs, sample_parameters(augment, 4, 0.0, PATCHES[dims])) is pairs


@every_dimension
def test_samples_and_channels_without_augmentation_are_returned_bit_for_bit(dims):
    augment, pairs = Augment(3, dims), coded_pairs(64, 3, 2, PATCHES[dims])
    parameters = sample_parameters(augment, 64, 0.1, PATCHES[dims])
    result = augment(pairs, parameters)
    touched = parameters.changed | parameters.moved.unsqueeze(1)
    same = (result == pairs).flatten(2).all(dim=2)
    assert touched.any()
    assert same[:, :3][~touched].all()
    assert not same[:, :3][touched].all()
    assert torch.equal(same[:, 3:], ~parameters.moved.unsqueeze(1).expand(-1, 2))


SHARES = {  # whether an augmentation is applied
    "brightness": lambda q: q.brightness != 0,
    "contrast": lambda q: q.contrast != 1,
    "bend": lambda q: q.bend != 0,
    "blur": lambda q: q.blur != 0,
    "noise": lambda q: (q.noise != 0).any(dim=(2, 3)),
    "box": lambda q: (q.box[..., 0] < q.box[..., 1]).all(dim=2),
}


def assert_share(applied, p):
    """As many of independent events as the binomial distribution allows (4 sd)."""
    assert abs(applied.float().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / applied.numel())


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_each_intensity_leaves_a_share_of_one_minus_p_of_the_channels_alone(p):
    parameters = sample_parameters(Augment(2, 2), 3000, p, (2, 2))
    applied = {name: find(parameters) for name, find in SHARES.items()}
    for name in SHARES:
        assert_share(applied[name], p)
        assert_share(applied[name][:, 0] & applied[name][:, 1], p * p)  # each channel independently
    for one, other in zip(list(SHARES)[1:], SHARES, strict=False):
        assert_share(applied[one] & applied[other], p * p)  # and each augmentation
    assert torch.equal(parameters.changed, torch.stack(list(applied.values())).any(dim=0))


MOTIONS = ("ROTATION", "ZOOM", "STRETCH", "SHIFT")


@every_dimension
@pytest.mark.parametrize("p", [0.2, 0.8])
@pytest.mark.parametrize("kept", itertools.combinations_with_replacement(MOTIONS, 2))
def test_each_motion_leaves_a_share_of_one_minus_p_of_the_samples_alone(dims, p, kept, monkeypatch):
    for name in set(MOTIONS) - set(kept):
        monkeypatch.setattr(geometry, name, 0.0)
    parameters = sample_parameters(Augment(0, dims), 3000, p, PATCHES[dims])
    still_there = (parameters.warp - torch.eye(dims, dims + 1)).abs().amax(dim=(1, 2)) < 1e-6
    assert_share(still_there, (1 - p) ** len(set(kept)))  # each motion independently
    assert_share(~parameters.moved, (1 - p) ** 4)


@every_dimension
def test_no_axis_is_flipped(dims):
    assert (sample_parameters(Augment(0, dims), 3000, 1.0, PATCHES[dims]).warp[:, :, :dims].det() > 0).all()


# --- distributions


def assert_distributed(values, distribution):
    assert stats.kstest(np.asarray(values).ravel(), distribution.cdf).pvalue > 0.001


def test_intensity_is_distributed_as_the_table_says():
    parameters = sample_parameters(Augment(2, 2), 1000, 1.0, (4, 4))
    assert_distributed(parameters.brightness, stats.norm(0, strengths.BRIGHTNESS))
    assert_distributed(parameters.contrast.log(), stats.norm(0, strengths.CONTRAST))
    gamma = 1 - (parameters.bend + 1).log2()
    assert_distributed(gamma.log(), stats.norm(0, strengths.GAMMA))
    assert_distributed(parameters.blur, stats.uniform(0, strengths.BLUR))
    sides, smallest = parameters.box.diff(dim=3), strengths.CUT_OUT[0]
    assert_distributed(sides, stats.uniform(smallest, strengths.CUT_OUT[1] - smallest))
    assert_distributed(parameters.box.mean(dim=3), stats.uniform(0, 1))
    per_channel = parameters.noise.flatten(2)
    ratio = per_channel[..., 0] / per_channel[..., 1:].square().mean(dim=2).sqrt()
    assert_distributed(ratio, stats.t(15))  # one normal over the sd of 15 more: the same sd in one channel
    assert_distributed(per_channel[..., 0].sign() * per_channel.square().mean(dim=2).sqrt(), NoiseLevel())


def test_parameters_of_intensity_and_of_channels_are_uncorrelated():
    parameters = sample_parameters(Augment(2, 2), 2000, 1.0, (4, 4))
    sampled = [parameters.brightness, parameters.contrast, parameters.bend, parameters.blur]
    sampled += [parameters.box.diff(dim=3).flatten(1), parameters.box.mean(dim=3).flatten(1)]
    sampled += [parameters.noise.flatten(2).std(dim=2), parameters.noise.flatten(2)[:, :, 0]]
    correlation = torch.cat(sampled, dim=1).T.corrcoef()
    assert len(correlation) == 20
    assert (correlation - torch.eye(20)).abs().max() < 4.5 / math.sqrt(2000)


class NoiseLevel:
    """Of a half-normal sd times the root mean square of 16 normal numbers, with either sign."""

    def __init__(self):
        rng = np.random.default_rng(0)
        levels = np.abs(rng.normal(0, strengths.NOISE, 400_000)) * np.sqrt(rng.chisquare(16, 400_000) / 16)
        self.sorted = np.sort(np.concatenate([levels, -levels]))

    def cdf(self, x):
        return np.searchsorted(self.sorted, x) / len(self.sorted)


@every_dimension
def test_motions_are_distributed_as_the_table_says(dims, monkeypatch):
    patch_size = (40,) * dims

    def warps(**kept):
        for name in MOTIONS:
            monkeypatch.setattr(geometry, name, getattr(strengths, name) if name in kept else 0.0)
        return sample_parameters(Augment(0, dims), 1500, 1.0, patch_size).warp.numpy().astype(float)

    linear = warps(ROTATION=True)[:, :, :dims]
    np.testing.assert_allclose(
        linear @ linear.transpose(0, 2, 1), np.broadcast_to(np.eye(dims), linear.shape), atol=1e-5
    )
    if dims == 2:
        degrees = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
        assert_distributed(degrees, stats.uniform(-strengths.ROTATION, 2 * strengths.ROTATION))
    else:
        vectors = Rotation.from_matrix(linear).as_rotvec(degrees=True)
        lengths = np.linalg.norm(vectors, axis=1)
        assert_distributed(lengths, stats.uniform(0, strengths.ROTATION))
        for axis in range(3):  # of a direction anywhere on the sphere, each coordinate is uniform (Archimedes)
            assert_distributed(vectors[:, axis] / lengths, stats.uniform(-1, 2))

    scales = warps(ZOOM=True)[:, :, :dims]
    diagonal = np.diagonal(scales, axis1=1, axis2=2)
    assert_distributed(np.log(diagonal[:, 0]), stats.norm(0, strengths.ZOOM))
    np.testing.assert_allclose(diagonal, np.repeat(diagonal[:, :1], dims, axis=1), rtol=1e-6)

    stretches = np.log(np.diagonal(warps(STRETCH=True)[:, :, :dims], axis1=1, axis2=2))
    np.testing.assert_allclose(stretches.sum(axis=1), 0, atol=rounding(8, dims))
    assert_distributed(stretches, stats.norm(0, strengths.STRETCH * math.sqrt(1 - 1 / dims)))  # less the mean

    assert_distributed(warps(SHIFT=True)[:, :, dims] / 2, stats.norm(0, strengths.SHIFT))


@every_dimension
def test_on_average_pictures_become_neither_brighter_nor_darker(dims):
    patch_size = (8,) * dims
    augment, grey = Augment(1, dims), torch.zeros(2000, 1, *patch_size)
    means = augment(grey, sample_parameters(augment, 2000, 0.8, patch_size)).flatten(1).mean(dim=1)
    assert abs(means.mean()) < 4 * means.std() / math.sqrt(2000)
    assert means.std() > 0.05


# --- geometry


@every_dimension
def test_image_and_mask_move_together(dims):
    augment, mask = Augment(3, dims), coded_pairs(16, 0, 3, PATCHES[dims])
    parameters = without_intensity(sample_parameters(augment, 16, 0.7, PATCHES[dims]))
    image, label = augment(torch.cat([mask, mask], dim=1), parameters).split(3, dim=1)
    assert torch.equal(image, label)
    assert not torch.equal(label, mask)


def random_warp(dims, patch_size, spacing, count=5):
    """Warps by random rotations, scales and shifts, and these as numpy arrays."""
    rng = np.random.default_rng(0)
    if dims == 2:
        angles = rng.uniform(-np.pi, np.pi, count)
        turns = np.array([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles])
    else:
        turns = Rotation.random(count, rng=0).as_matrix()
    scales, shifts = rng.uniform(0.6, 1.6, (count, dims)), rng.uniform(-0.4, 0.4, (count, dims))
    scales[1, 0] *= -1
    tensors = [torch.from_numpy(array) for array in (turns, scales, shifts)]
    return affine_warp(*tensors, patch_size, spacing), turns, scales, shifts


@every_dimension
def test_a_warp_is_scipys_affine_transform(dims):
    patch_size, spacing = PATCHES[dims], (2.0, 0.5, 1.0)[:dims]
    pairs = normal(5, 2, *patch_size).double()
    warp, turns, scales, shifts = random_warp(dims, patch_size, spacing)
    result = warped(pairs, sample_parameters(Augment(0, dims), 5, 0.0, patch_size), warp).numpy()
    middle, voxel = (np.array(patch_size) - 1) / 2, np.diag(spacing)
    for sample, turn, scale, shift, shown in zip(pairs.numpy(), turns, scales, shifts, result, strict=True):
        forward = np.linalg.inv(voxel) @ turn @ np.diag(scale) @ voxel  # from voxels of the picture to those shown
        back = np.linalg.inv(forward)
        offset = middle - back @ (middle + shift * patch_size)
        for before, after in zip(sample, shown, strict=True):
            expected = ndimage.affine_transform(before, back, offset, order=1, mode="reflect")
            np.testing.assert_allclose(after, expected, atol=1e-6)


@every_dimension
def test_a_quarter_turn_is_numpys(dims):
    patch_size = (6,) * dims
    pairs = normal(1, 2, *patch_size).double()
    nothing = sample_parameters(Augment(0, dims), 1, 0.0, patch_size)
    for first, second in [(0, 1), (1, 2), (0, 2)][: 2 * dims - 3]:
        plane = torch.zeros(1, dims, dims)
        plane[0, first, second] = -1.0
        turn = rotation_matrix(plane, torch.tensor([math.pi / 2]))
        warp = affine_warp(turn, torch.ones(1, dims), torch.zeros(1, dims), patch_size, (1,) * dims).double()
        expected = np.rot90(pairs.numpy(), k=1, axes=(first + 2, second + 2))
        np.testing.assert_allclose(warped(pairs, nothing, warp).numpy(), expected, atol=1e-5)


@every_dimension
def test_a_shift_by_whole_voxels_moves_them(dims):
    patch_size = PATCHES[dims]
    pairs = normal(1, 2, *patch_size)
    voxels = (2, -1, 1)[:dims]
    shift = torch.tensor([[v / length for v, length in zip(voxels, patch_size, strict=True)]])
    warp = affine_warp(torch.eye(dims)[None], torch.ones(1, dims), shift, patch_size, (1,) * dims)
    result = warped(pairs, sample_parameters(Augment(0, dims), 1, 0.0, patch_size), warp)
    into = (..., *(slice(max(v, 0), length + min(v, 0)) for v, length in zip(voxels, patch_size, strict=True)))
    source = (..., *(slice(max(-v, 0), length + min(-v, 0)) for v, length in zip(voxels, patch_size, strict=True)))
    torch.testing.assert_close(result[into], pairs[source], rtol=0, atol=1e-5)


@every_dimension
def test_in_millimetres_a_turned_ball_stays_a_ball(dims):
    spacing = (4.0, 1.0, 1.0)[:dims]
    patch_size = (10, 40, 40)[:dims]
    places = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(patch_size, spacing, strict=True)],
                                  indexing="ij"))  # fmt: skip
    ball = torch.from_numpy(np.exp(-np.square(places).sum(axis=0) / 60))[None, None]
    turn = rotation_matrix(normal(1, dims, dims), torch.tensor([0.6])).double()
    still_there = (torch.ones(1, dims).double(), torch.zeros(1, dims).double())
    nothing = sample_parameters(Augment(0, dims), 1, 0.0, patch_size)
    error = {
        name: (warped(ball, nothing, affine_warp(turn, *still_there, patch_size, steps)) - ball).abs().max().item()
        for name, steps in {"millimetres": spacing, "voxels": (1,) * dims}.items()
    }
    assert error["millimetres"] < 0.06 < 0.2 < error["voxels"]  # what is left is interpolation between thick slices


def test_augment_turns_in_the_spacing_it_is_given():
    warps = [
        sample_parameters(Augment(0, 2, spacing=spacing), 4, 1.0, (8, 8)).warp
        for spacing in [None, (1, 1), (3, 3), (5, 1)]
    ]
    assert torch.equal(warps[0], warps[1])
    torch.testing.assert_close(warps[0], warps[2])
    ratio = (warps[3][:, 0, 1] * warps[0][:, 1, 0]) / (warps[3][:, 1, 0] * warps[0][:, 0, 1])
    torch.testing.assert_close(ratio, torch.full((4,), 25.0), rtol=1e-4, atol=0)


@every_dimension
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_labels_still_sum_to_one_and_ignored_voxels_stay_zero(dims, data):
    patch_size = [data.draw(st.integers(1, 9)) for _ in range(dims)]
    image_channels, labels = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 4))
    augment = Augment(image_channels, dims)
    pairs = coded_pairs(4, image_channels, labels, patch_size)
    pairs[0, image_channels:] = 0
    result = augment(pairs, sample_parameters(augment, 4, 0.9, patch_size, data.draw(st.integers(0, 99))))[
        :, image_channels:
    ]
    probabilities = (result[1:] + 1) / 2
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3, *patch_size))
    assert probabilities.min() > -1e-5
    assert not result[0].any()


@every_dimension
def test_no_frame_appears_around_a_constant(dims):
    patch_size = PATCHES[dims]
    warp, *_ = random_warp(dims, patch_size, (1,) * dims)
    shown = resample(torch.full((5, 1, *patch_size), 0.7, dtype=torch.float64), warp)
    torch.testing.assert_close(shown, torch.full_like(shown, 0.7))


# --- intensity


@every_dimension
def test_intensity_leaves_masks_alone_bit_for_bit(dims):
    augment, pairs = Augment(2, dims), coded_pairs(8, 2, 3, PATCHES[dims])
    parameters = sample_parameters(augment, 8, 0.9, PATCHES[dims])
    assert torch.equal(augment(pairs, without_geometry(parameters))[:, 2:], pairs[:, 2:])
    assert torch.equal(augment(pairs, parameters)[:, 2:], augment(pairs, without_intensity(parameters))[:, 2:])


def test_channels_are_changed_each_by_itself():
    augment, pairs = Augment(3, 2), coded_pairs(8, 1, 0, (9, 7)).expand(-1, 3, -1, -1)
    parameters = without_geometry(sample_parameters(augment, 8, 1.0, (9, 7)))
    whole = augment(pairs, parameters)
    for one in range(3):
        assert all(not torch.equal(whole[:, one], whole[:, other]) for other in range(3) if other != one)
        changes = {name: getattr(parameters, name).clone() for name in [*NEUTRAL, "box"]}
        for name, tensor in changes.items():
            tensor[:, one] = NEUTRAL.get(name, 0)
        rest = [channel for channel in range(3) if channel != one]
        result = augment(pairs, replace(parameters, **changes))
        assert torch.equal(result[:, rest], whole[:, rest])
        assert torch.equal(result[:, one], pairs[:, one])


@every_dimension
@pytest.mark.parametrize("name", [*NEUTRAL, "box"])
def test_each_intensity_does_what_its_name_says(dims, name):
    patch_size = PATCHES[dims]
    augment, pairs = Augment(2, dims), normal(3, 2, *patch_size)
    sampled = without_geometry(sample_parameters(augment, 3, 1.0, patch_size))
    neutral = {
        other: torch.full_like(getattr(sampled, other), value) for other, value in NEUTRAL.items() if other != name
    }
    if name != "box":
        neutral["box"] = torch.zeros_like(sampled.box)
    result = augment(pairs, replace(sampled, **neutral)).numpy()
    for sample, channel in np.ndindex(3, 2):
        value = getattr(sampled, name)[sample, channel].double().numpy()
        expected = EXPECTED[name](pairs[sample, channel].numpy().astype(float), value)
        np.testing.assert_allclose(result[sample, channel], expected, rtol=1e-5, atol=1e-5)


def cut_out(image, box):
    for place in np.ndindex(image.shape):
        middles = (np.array(place) + 0.5) / image.shape
        if (box[:, 0] <= middles).all() and (middles < box[:, 1]).all():
            image[place] = 0
    return image


EXPECTED = {
    "brightness": lambda image, value: image + value,
    "contrast": lambda image, value: image * value,
    "bend": lambda image, value: image + value * (1 - image**2) / (1 + image**2),
    "blur": lambda image, value: ndimage.gaussian_filter(image, value, mode="nearest", radius=3),
    "noise": lambda image, value: image + value,
    "box": cut_out,
}


@every_dimension
def test_at_most_half_of_each_side_is_cut_out(dims):
    patch_size = (12, 20, 8)[:dims]
    augment, ones = Augment(1, dims), torch.ones(300, 1, *patch_size)
    sampled = sample_parameters(augment, 300, 1.0, patch_size)
    neutral = {name: torch.full_like(getattr(sampled, name), value) for name, value in NEUTRAL.items()}
    holes = augment(ones, without_geometry(replace(sampled, **neutral)))[:, 0] == 0
    for axis, length in enumerate(patch_size, start=1):
        others = [other for other in range(1, dims + 1) if other != axis]
        sides = holes.any(dim=others[0]) if dims == 2 else holes.any(dim=others)
        assert sides.sum(dim=1).max() == length // 2
    assert holes.flatten(1).any(dim=1).float().mean() > 0.8


def test_the_bent_curve_is_much_like_gammas_between_black_and_white():
    places = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for gamma in (0.7, 0.85, 1.0, 1.2, 1.4):  # within 2 sd
        curve = bend_curve(places, torch.tensor(2 * 0.5**gamma - 1, dtype=torch.float64))
        true = 2 * ((places + 1) / 2) ** gamma - 1
        torch.testing.assert_close(curve[[0, 100, 200]], true[[0, 100, 200]])
        assert (curve - true).abs().max() < 0.16
        assert (curve - true).abs().sum() <= 0.6 * (places - true).abs().sum() + 1e-9


@pytest.mark.parametrize("bend", [-STEEPEST_BEND, STEEPEST_BEND])
def test_the_bent_curve_rises_everywhere_and_stays_finite(bend):
    places = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    assert (bend_curve(places, torch.tensor(bend)).diff() > 0).all()
    far = torch.tensor([-1e30, -1e6, 1e6, 1e30], requires_grad=True)
    curve = bend_curve(far, torch.tensor(bend))
    (slope,) = torch.autograd.grad(curve.sum(), far, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), far)
    torch.testing.assert_close(curve, far - bend)
    torch.testing.assert_close(slope, torch.ones(4))
    torch.testing.assert_close(curvature, torch.zeros(4))


def test_gamma_never_bends_further_than_the_curve_rises(monkeypatch):
    monkeypatch.setattr("stylegan2_cond.training.augment.intensity.GAMMA", 3.0)
    bends = sample_parameters(Augment(1, 2), 500, 1.0, (2, 2)).bend
    torch.testing.assert_close(bends.abs().max(), torch.tensor(STEEPEST_BEND))


def test_blur_keeps_a_constant():
    constant = torch.full((2, 2, 5, 4), 3.0)
    torch.testing.assert_close(blur(constant, torch.rand(2, 2, generator=torch.Generator().manual_seed(0))), constant)


# --- derivatives and types


@every_dimension
def test_augmentation_differentiates_twice(dims):
    patch_size = (4, 3, 3)[:dims]
    augment = Augment(1, dims)
    pairs = (2 * normal(2, 3, *patch_size)).double().requires_grad_(True)
    parameters = sample_parameters(augment, 2, 1.0, patch_size)
    parameters = replace(parameters, moved=torch.tensor([True, False]), box=parameters.box * 0.5)

    def judged(pairs):
        return augment(pairs, parameters).square()  # linear parts differentiate twice for nothing; inside a square not

    assert gradcheck(judged, (pairs,), fast_mode=True)
    assert gradgradcheck(judged, (pairs,), fast_mode=True)


@every_dimension
def test_a_gradient_penalty_through_augmentation_has_the_derivative_of_finite_differences(dims):
    patch_size = PATCHES[dims]
    augment, real = Augment(1, dims), coded_pairs(3, 1, 2, patch_size).double()
    parameters = sample_parameters(augment, 3, 0.8, patch_size)

    def penalty(weight):
        pairs = real.clone().requires_grad_(True)
        score = torch.tanh(augment(pairs, parameters) * weight).sum()
        (gradient,) = torch.autograd.grad(score, pairs, create_graph=True)
        return gradient.square().sum()

    weight = normal(3, *patch_size, seed=5).double().requires_grad_(True)
    (derivative,) = torch.autograd.grad(penalty(weight), weight)
    direction, step = normal(3, *patch_size, seed=6).double(), 1e-5
    differences = (penalty(weight + step * direction) - penalty(weight - step * direction)) / (2 * step)
    assert (derivative * direction).sum().item() == pytest.approx(differences.item(), rel=1e-6)
    assert derivative.any()


@every_dimension
def test_no_second_derivative_is_asked_of_torchs_grid_sample_which_older_releases_lack(dims):
    augment, pairs = Augment(1, dims), coded_pairs(2, 1, 2, PATCHES[dims]).requires_grad_(True)
    result = augment(pairs, sample_parameters(augment, 2, 1.0, PATCHES[dims])).square().sum()
    (gradient,) = torch.autograd.grad(result, pairs, create_graph=True)
    seen, waiting = set(), [gradient.grad_fn]
    while waiting:
        if (node := waiting.pop()) not in seen:
            seen.add(node)
            waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    assert any("Transposed" in node.name() for node in seen)
    assert not any("GridSampler" in node.name() for node in seen)


@every_dimension
def test_under_autocast_nothing_is_rounded(dims):
    augment, pairs = Augment(1, dims), coded_pairs(4, 1, 2, PATCHES[dims]).requires_grad_(True)

    def result_and_derivatives():
        result = augment(pairs, sample_parameters(augment, 4, 0.9, PATCHES[dims]))
        (gradient,) = torch.autograd.grad(result.square().sum(), pairs, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), pairs)
        return result, gradient, second

    expected = result_and_derivatives()
    with torch.autocast("cpu", torch.bfloat16):
        for under, without in zip(result_and_derivatives(), expected, strict=True):
            assert torch.equal(under, without)


def test_pairs_of_half_precision_are_computed_in_full_and_rounded_once():
    augment, pairs = Augment(1, 2), coded_pairs(4, 1, 2, (9, 7)).bfloat16()
    parameters = sample_parameters(augment, 4, 0.9, (9, 7))
    result = augment(pairs, parameters)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, augment(pairs.float(), parameters).bfloat16())


@pytest.mark.parametrize(("image_channels", "labels"), [(0, 3), (2, 0), (1, 1)])
def test_masks_alone_and_images_alone_are_augmented_too(image_channels, labels):
    augment, pairs = Augment(image_channels, 2), coded_pairs(4, image_channels, labels, (9, 7))
    result = augment(pairs, sample_parameters(augment, 4, 0.8, (9, 7)))
    assert result.shape == pairs.shape
    assert not torch.equal(result, pairs)


def test_spacing_of_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match="2 axes"):
        Augment(1, 2, spacing=(1.0, 2.0, 3.0))


# --- the controller


def follow(controller, signs, images=16):
    trajectory = []
    for sign in signs:
        controller.update(sign, images)
        trajectory.append(controller.p)
    return trajectory


def test_p_rises_by_images_over_ramp_while_the_mean_sign_is_above_target_and_falls_below_it():
    controller = AdaptiveProbability(target=0.6, ramp_images=1600)
    step = INTERVAL * 16 / 1600
    above = follow(controller, [0.7] * 5 * INTERVAL)
    assert above == pytest.approx([step * (i // INTERVAL) for i in range(1, 5 * INTERVAL + 1)])
    assert follow(controller, [0.6] * INTERVAL)[-1] == pytest.approx(5 * step)  # at the target it stays
    below = follow(controller, [-1.0] * 2 * INTERVAL)
    assert below[-1] == pytest.approx(3 * step)


def test_p_goes_from_zero_to_a_half_in_half_the_ramp():
    controller = AdaptiveProbability(target=0.6, ramp_images=500_000)
    follow(controller, [1.0] * (250_000 // 50), images=50)
    assert controller.p == pytest.approx(0.5)


def test_the_mean_is_over_images_of_all_steps_since_the_last_move():
    controller = AdaptiveProbability(target=0.5, ramp_images=1000)
    controller.update(1.0, 30)
    for _ in range(INTERVAL - 1):
        controller.update(0.0, 9)
    assert controller.p == pytest.approx((30 + 9 * (INTERVAL - 1)) / 1000)  # 30 of 57 is above one half
    for _ in range(INTERVAL - 1):
        controller.update(1.0, 9)
    before = controller.p
    controller.update(0.0, 30)
    assert controller.p < before  # 27 of 57 is below, though three steps of four were above


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(1, 1e4))
def test_p_stays_between_zero_and_what_leaks(signs, ramp):
    trajectory = follow(AdaptiveProbability(0.0, ramp), signs)
    assert all(0 <= p <= LARGEST_P < 1 for p in trajectory)


def test_p_reaches_its_bounds_and_comes_back_from_them():
    controller = AdaptiveProbability(0.6, 1000)
    assert follow(controller, [1.0] * 100)[-1] == LARGEST_P
    assert follow(controller, [0.0] * INTERVAL)[-1] < LARGEST_P
    assert follow(controller, [0.0] * 100)[-1] == 0
    assert follow(controller, [1.0] * INTERVAL)[-1] > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.integers(0, 40), st.integers(1, 64))
def test_going_on_from_a_checkpoint_is_the_same_as_not_having_stopped(signs, stop, images):
    through = AdaptiveProbability(0.1, 3000)
    trajectory = follow(through, signs, images)
    first, second = AdaptiveProbability(0.1, 3000), AdaptiveProbability(0.1, 3000)
    before = follow(first, signs[:stop], images)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert before + follow(second, signs[stop:], images) == trajectory
    assert second.state_dict() == through.state_dict()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_ramp_of_no_images_is_refused():
    with pytest.raises(ValueError, match="ramp_images"):
        AdaptiveProbability(0.6, 0)
