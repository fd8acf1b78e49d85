"""The ops against their formulas, scipy and plain numpy, and their first and second derivatives by differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal
from tolerance import rounding
from torch.autograd import gradcheck, gradgradcheck

from stylegan2_cond.ops import bias_act, convolve, downsample, modulated_conv, upsample

SPATIAL = {1: (7,), 2: (6, 5), 3: (3, 5, 4)}
every_dimension = pytest.mark.parametrize("dims", [1, 2, 3])


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@st.composite
def activations(draw, largest=6, factors=(1, 2)):
    """An array `[2, 3, *spatial]` in 1-D to 3-D, and a factor per axis."""
    spatial = draw(st.lists(st.integers(1, largest), min_size=1, max_size=3))
    chosen = [draw(st.sampled_from(factors)) for _ in spatial]
    return normal(2, 3, *spatial, seed=draw(st.integers(0, 2**16))).numpy(), chosen


# --- bias_act


@pytest.mark.parametrize("spatial", [(), (5,), (5, 4), (3, 4, 2)])
@pytest.mark.parametrize("gain", [1.0, math.sqrt(0.5)])
def test_bias_act_is_its_formula(spatial, gain):
    x, bias, noise = normal(2, 3, *spatial), normal(3, seed=1), normal(2, 1, *spatial, seed=2)
    strength = torch.tensor(0.7, dtype=torch.float64)
    summed = x.numpy() + 0.7 * noise.numpy() + bias.numpy().reshape(1, 3, *[1] * len(spatial))
    leaky = np.where(summed > 0, summed, 0.2 * summed)
    options = {"noise": noise, "strength": strength, "gain": gain}
    np.testing.assert_allclose(bias_act(x, bias, **options), math.sqrt(2) * gain * leaky)
    np.testing.assert_allclose(bias_act(x, bias, activation="linear", **options), gain * summed)


def test_bias_act_needs_neither_bias_nor_noise():
    x = normal(2, 3, 4)
    np.testing.assert_allclose(bias_act(x), math.sqrt(2) * np.where(x > 0, x, 0.2 * x))
    np.testing.assert_array_equal(bias_act(x, activation="linear"), x)


def test_bias_act_names_an_unknown_activation_and_the_known_ones():
    with pytest.raises(ValueError, match=r"swish.*linear.*lrelu"):
        bias_act(torch.zeros(1, 1), activation="swish")


# --- upsample


def fir_upsample(x, factors):
    """Zero insertion and FIR [1, 3, 3, 1] / 4 along each axis of factor 2, edges repeated."""
    for axis, factor in enumerate(factors, start=2):
        if factor == 2:
            length = x.shape[axis]
            widened = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)], mode="edge")
            filtered = signal.upfirdn(np.array([1, 3, 3, 1]) / 4, widened, up=2, axis=axis)
            x = np.take(filtered, range(3, 3 + 2 * length), axis=axis)
    return x


@settings(max_examples=40, deadline=None)
@given(activations(), st.data())
def test_upsample_by_two_is_zero_insertion_and_fir_cut_to_any_size_it_can_reach(case, data):
    x, factors = case
    size = [data.draw(st.integers(1, n * f)) for n, f in zip(x.shape[2:], factors, strict=True)]
    cut = (..., *(slice(length) for length in size))
    np.testing.assert_allclose(upsample(torch.from_numpy(x), factors, size), fir_upsample(x, factors)[cut], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(activations(largest=4, factors=(1, 2, 3, 4)))
def test_upsample_by_any_factor_interpolates_linearly_between_sample_centres(case):
    x, factors = case
    size = [n * f for n, f in zip(x.shape[2:], factors, strict=True)]
    expected = x
    for axis, factor in enumerate(factors, start=2):
        length = expected.shape[axis]
        centres = (np.arange(length * factor) + 0.5) / factor - 0.5
        expected = np.apply_along_axis(lambda v, c=centres: np.interp(c, np.arange(len(v)), v), axis, expected)
    np.testing.assert_allclose(upsample(torch.from_numpy(x), factors, size), expected, atol=1e-12)


@every_dimension
def test_upsample_leaves_no_frame_around_a_constant(dims):
    x = torch.full((1, 1, *SPATIAL[dims]), 3.0)
    size = [2 * n - 1 for n in SPATIAL[dims]]
    torch.testing.assert_close(upsample(x, [2] * dims, size), torch.full((1, 1, *size), 3.0))


def test_upsample_does_not_mix_along_axes_of_factor_one():
    x = torch.zeros(1, 1, 3, 4, 5, dtype=torch.float64)
    x[:, :, 1] = normal(4, 5)
    y = upsample(x, [1, 2, 2], [3, 8, 10])
    assert not y[:, :, [0, 2]].any()
    assert y[:, :, 1].any()


# --- downsample


def block_means(x, factors):
    sums, counts = x, np.ones(x.shape[2:])
    for axis, factor in enumerate(factors):
        starts = range(0, counts.shape[axis], factor)
        sums = np.add.reduceat(sums, starts, axis=axis + 2)
        counts = np.add.reduceat(counts, starts, axis=axis)
    return sums / counts


@settings(max_examples=40, deadline=None)
@given(activations(largest=9, factors=(1, 2, 3)))
def test_downsample_averages_blocks_and_the_rest_over_what_is_there(case):
    x, factors = case
    y = downsample(torch.from_numpy(x), factors)
    assert y.shape[2:] == tuple(math.ceil(n / f) for n, f in zip(x.shape[2:], factors, strict=True))
    np.testing.assert_allclose(y, block_means(x, factors), atol=1e-12)


# --- convolutions


def correlate(x, weight):
    """x: `[I, *spatial]`, weight: `[O, I, *kernel]` → `[O, *spatial]`, zeros around x."""
    return np.stack([sum(ndimage.correlate(a, b, mode="constant") for a, b in zip(x, w, strict=True)) for w in weight])


@every_dimension
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolve_is_correlation_with_zeros_around(dims, kernel):
    x, weight = normal(2, 3, *SPATIAL[dims]), normal(4, 3, *[kernel] * dims, seed=1)
    expected = np.stack([correlate(sample, weight.numpy()) for sample in x.numpy()])
    np.testing.assert_allclose(convolve(x, weight), expected, atol=1e-12)


@every_dimension
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_conv_convolves_each_sample_with_its_own_weights(dims, kernel, demodulate):
    x, weight, style = normal(2, 3, *SPATIAL[dims]), normal(4, 3, *[kernel] * dims, seed=1), normal(2, 3, seed=2)
    expected = []
    for sample, scales in zip(x.numpy(), style.numpy(), strict=True):
        modulated = weight.numpy() * scales.reshape(1, 3, *[1] * dims)  # Eq. 1
        if demodulate:
            norms = np.sqrt((modulated**2).sum(axis=tuple(range(1, dims + 2)), keepdims=True))
            modulated = modulated / norms  # Eq. 3
        expected.append(correlate(sample, modulated))
    result = modulated_conv(x, weight, style, demodulate=demodulate)
    norms_in_float32 = rounding(3 * kernel**dims + 4)  # and a root and a quotient
    np.testing.assert_allclose(result, np.stack(expected), rtol=norms_in_float32, atol=1e-12)


def test_modulated_conv_stays_finite_where_a_style_is_zero():
    x, weight = normal(1, 3, 4, 4), normal(2, 3, 3, 3, seed=1)
    style = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    y = modulated_conv(x, weight, style)
    (gradient,) = torch.autograd.grad(y.square().sum(), style)
    assert not y.any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("dims", "side"), [(1, 400), (2, 24), (3, 10)])
def test_demodulated_output_of_a_unit_normal_input_has_variance_one_whatever_the_style(dims, side):
    x = normal(4, 16, *[side] * dims)
    style = 3 * torch.exp(normal(4, 16, seed=1))
    y = modulated_conv(x, 5 * normal(32, 16, *[3] * dims, seed=2), style)
    for axis in range(2, 2 + dims):  # zeros around x shrink the outermost voxels
        y = y.narrow(axis, 1, side - 2)
    assert y.var().item() == pytest.approx(1, abs=0.05)
    assert (y.var(dim=(0, *range(2, 2 + dims))) - 1).abs().max() < 0.3  # each channel, not just their mean


# --- derivatives


def assert_differentiable_twice(function, *inputs):
    inputs = tuple(x.clone().requires_grad_(True) for x in inputs)
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
def test_bias_act_differentiates_twice(activation):
    bias, noise, strength = normal(2, seed=1), normal(2, 1, 3, seed=2), torch.tensor(0.3, dtype=torch.float64)
    offset = bias.reshape(1, 2, 1) + 0.3 * noise
    x = normal(2, 2, 3)
    x = x + 0.1 * x.sign() - offset  # the sum keeps away from the kink of the leaky ReLU

    def apply(x, bias, noise, strength):
        return bias_act(x, bias, noise=noise, strength=strength, activation=activation, gain=0.5)

    assert_differentiable_twice(apply, x, bias, noise, strength)


@every_dimension
def test_upsample_and_downsample_differentiate_twice(dims):
    factors = [2, 1, 2][:dims]
    spatial = [3, 2, 3][:dims]
    x = normal(1, 2, *spatial)
    size = [n * f - (f - 1) for n, f in zip(spatial, factors, strict=True)]
    assert_differentiable_twice(lambda x: upsample(x, factors, size), x)
    assert_differentiable_twice(lambda x: downsample(x, factors), x)
    # linear ops differentiate twice for nothing; inside a square they must do so for something
    assert_differentiable_twice(lambda x: downsample(upsample(x, factors, size).square(), factors), x)


@pytest.mark.parametrize(("dims", "demodulate"), itertools.product([1, 2, 3], [True, False]))
def test_modulated_conv_differentiates_twice(dims, demodulate):
    x, weight, style = normal(2, 2, *[3, 2, 2][:dims]), normal(2, 2, *[3] * dims, seed=1), normal(2, 2, seed=2)
    assert_differentiable_twice(lambda *args: modulated_conv(*args, demodulate=demodulate), x, weight, style)
