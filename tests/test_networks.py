"""The networks: shapes for any canvas, statistics at the start, and what a condition may and must change."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_cond.networks.discriminator import Discriminator, minibatch_stddev
from stylegan2_cond.networks.layers import Conv, Linear, ModulatedConv, pixel_norm, pyramid
from stylegan2_cond.networks.mapping import AVERAGE_DECAY, Mapping
from stylegan2_cond.networks.synthesis import Generator, Synthesis

LATENT, STYLE, CONDITION = 8, 12, 3
CANVASES = [  # canvas, factors from coarse to fine
    ((9, 14), ((2, 2), (1, 2))),
    ((5, 4), ()),
    ((7, 17, 10), ((2, 2, 2), (1, 2, 2))),
    ((6, 5, 11), ((1, 1, 3),)),
]
every_canvas = pytest.mark.parametrize(("canvas", "factors"), CANVASES)


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_generator(canvas, factors, output_channels=4, condition_dim=CONDITION):
    channels = [12, 8, 6][-len(factors) - 1 :]
    mapping = Mapping(latent_dim=LATENT, condition_dim=condition_dim, style_dim=STYLE, layers=2)
    synthesis = Synthesis(
        canvas=canvas, factors=factors, channels=channels, output_channels=output_channels, style_dim=STYLE
    )
    return Generator(mapping, synthesis).eval()


def make_discriminator(canvas, factors, input_channels=4, condition_dim=CONDITION):
    channels = [12, 8, 6][-len(factors) - 1 :]
    return Discriminator(
        canvas=canvas, factors=factors, channels=channels, input_channels=input_channels, condition_dim=condition_dim
    )


def draw_inputs(generator, count, condition_dim=CONDITION):
    noises = [torch.randn(count, 1, *size) for size in generator.synthesis.noise_sizes]
    return torch.randn(count, LATENT), torch.rand(count, condition_dim).round(), noises


# --- shapes


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.data())
def test_each_stage_of_the_pyramid_reaches_the_next_and_the_last_is_the_canvas(dims, stages, data):
    canvas = data.draw(st.tuples(*[st.integers(1, 40)] * dims))
    factors = data.draw(st.lists(st.tuples(*[st.integers(1, 3)] * dims), min_size=stages, max_size=stages))
    sizes = pyramid(canvas, factors)
    assert len(sizes) == stages + 1
    assert sizes[-1] == canvas
    for size, following, factor in zip(sizes, sizes[1:], factors, strict=False):
        for length, longer, times in zip(size, following, factor, strict=True):
            assert length == math.ceil(longer / times)


@every_canvas
@pytest.mark.parametrize("channels", [2, 7])
def test_generator_and_discriminator_take_any_canvas_and_any_number_of_channels(canvas, factors, channels):
    generator = make_generator(canvas, factors, output_channels=channels)
    z, condition, noises = draw_inputs(generator, 2)
    drawn = generator(z, condition, noises)
    assert drawn.shape == (2, channels, *canvas)
    scores = make_discriminator(canvas, factors, input_channels=channels)(drawn, condition)
    assert scores.shape == (2,)
    assert scores.isfinite().all()


@every_canvas
def test_a_score_sends_a_gradient_to_every_weight_of_both_networks(canvas, factors):
    generator, discriminator = make_generator(canvas, factors), make_discriminator(canvas, factors)
    z, condition, noises = draw_inputs(generator, 3)
    condition[0] = 1  # a condition of zeros alone teaches the embeddings nothing
    discriminator(generator(z, condition, noises), condition).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_networks_work_without_a_condition():
    canvas, factors = CANVASES[0]
    generator = make_generator(canvas, factors, condition_dim=0)
    z, condition, noises = draw_inputs(generator, 2, condition_dim=0)
    drawn = generator(z, condition, noises)
    assert make_discriminator(canvas, factors, condition_dim=0)(drawn, condition).shape == (2,)


# --- minibatch standard deviation


@pytest.mark.parametrize("spatial", [(5,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    ("count", "groups"), [(8, [[0, 2, 4, 6], [1, 3, 5, 7]]), (5, [[0, 2, 4], [1, 3]]), (2, [[0, 1]])]
)
def test_minibatch_stddev_is_numpys_averaged_over_features_within_each_group(spatial, count, groups):
    x = torch.randn(count, 6, *spatial)
    y = minibatch_stddev(x, group=4)
    assert y.shape == (count, 7, *spatial)
    assert torch.equal(y[:, :6], x)
    for members in groups:
        expected = x.numpy()[members].std(axis=0).mean()
        np.testing.assert_allclose(y[members, 6], np.full((len(members), *spatial), expected), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_minibatch_stddev_of_identical_samples_is_zero_and_has_a_finite_gradient(count):
    x = torch.randn(1, 6, 4, 3).repeat(count, 1, 1, 1).requires_grad_(True)
    channel = minibatch_stddev(x)[:, 6]
    assert (channel.abs() < 1e-3).all()
    (gradient,) = torch.autograd.grad(channel.sum(), x)
    assert gradient.isfinite().all()


# --- equalised learning rate


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_linear_keeps_unit_variance_and_learns_at_its_own_rate(lr_multiplier):
    layer = Linear(256, 256, lr_multiplier=lr_multiplier)
    y = layer(torch.randn(256, 256))
    assert y.var().item() == pytest.approx(1, rel=0.05)
    with torch.no_grad():
        before = layer(torch.ones(1, 256))
        layer.weight += 1
        moved = layer(torch.ones(1, 256)) - before
    # a step of 1 in each stored weight moves the used ones by multiplier / √inputs
    torch.testing.assert_close(moved, torch.full_like(moved, lr_multiplier * math.sqrt(256)), rtol=1e-3, atol=1e-3)


def test_linear_uses_the_bias_that_it_is_given_whatever_its_rate():
    layer = Linear(4, 3, bias=1.0, lr_multiplier=0.01)
    torch.testing.assert_close(layer(torch.zeros(2, 4)), torch.ones(2, 3))


# second moment of leaky ReLU with slope 0.2 of a unit normal, times the gain √2 squared: 2 · (1 + 0.2²) / 2
@pytest.mark.parametrize(("activation", "moment"), [("linear", 1.0), ("lrelu", 1.04)])
@pytest.mark.parametrize(("dims", "side"), [(1, 300), (2, 24), (3, 10)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_keeps_the_second_moment_of_a_unit_normal_input(activation, moment, dims, side, kernel):
    layer = Conv(32, 64, spatial_dims=dims, kernel=kernel, activation=activation)
    y = layer(torch.randn(4, 32, *[side] * dims))[(..., *[slice(1, -1)] * dims)]
    assert y.square().mean().item() == pytest.approx(moment, rel=0.07)


@pytest.mark.parametrize(("dims", "side"), [(1, 300), (2, 24), (3, 10)])
def test_modulated_conv_keeps_unit_variance_for_any_style(dims, side):
    layer = ModulatedConv(32, 64, style_dim=STYLE, spatial_dims=dims)
    y = layer(torch.randn(4, 32, *[side] * dims), 4 * torch.randn(4, STYLE))[(..., *[slice(1, -1)] * dims)]
    assert y.var().item() == pytest.approx(1, rel=0.07)


def test_mapping_starts_with_styles_of_unit_size():
    mapping = Mapping(latent_dim=256, condition_dim=4, style_dim=256, layers=2)
    w = mapping(torch.randn(128, 256), torch.eye(4).repeat(32, 1))
    assert w.square().mean().item() == pytest.approx(1.04**2, rel=0.15)


def test_pixel_norm_gives_each_vector_unit_second_moment():
    x = torch.randn(5, 16) * torch.tensor([[1e-2], [1.0], [3.0], [50.0], [1e4]])
    torch.testing.assert_close(pixel_norm(x).square().mean(dim=1), torch.ones(5), rtol=1e-3, atol=0)


# --- conditions, truncation, samples


@every_canvas
def test_truncation_to_zero_draws_the_image_of_the_average_style_for_every_latent(canvas, factors):
    generator = make_generator(canvas, factors)
    generator.mapping.average.normal_()
    z, condition, noises = draw_inputs(generator, 3)
    noises = [noise[:1].expand_as(noise) for noise in noises]
    drawn = generator(z, condition, noises, truncation=0.0)
    expected = generator.synthesis(generator.mapping.average[None], [noise[:1] for noise in noises])
    torch.testing.assert_close(drawn, expected.expand_as(drawn), rtol=1e-4, atol=1e-5)


def test_truncation_moves_styles_along_the_straight_line_to_the_average():
    mapping = make_generator(*CANVASES[0]).mapping
    mapping.average.normal_()
    w = torch.randn(4, STYLE)
    assert torch.equal(mapping.truncate(w, 1.0), w)
    torch.testing.assert_close(mapping.truncate(w, 0.7), 0.3 * mapping.average + 0.7 * w)


def test_the_average_style_is_tracked_in_training_alone():
    generator = make_generator(*CANVASES[0])
    inputs = draw_inputs(generator, 4)
    generator(*inputs)
    assert not generator.mapping.average.any()
    generator.train()(*inputs)
    expected = (1 - AVERAGE_DECAY) * generator.mapping(*inputs[:2]).mean(dim=0)  # from an average of zeros
    torch.testing.assert_close(generator.mapping.average, expected)


@every_canvas
def test_a_condition_changes_what_the_generator_draws(canvas, factors):
    generator = make_generator(canvas, factors)
    z, _, noises = draw_inputs(generator, 1)
    drawn = [generator(z, condition[None], noises) for condition in (*torch.eye(CONDITION), torch.zeros(CONDITION))]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one - other).abs().max() > 1e-3


@every_canvas
def test_the_score_is_an_affine_function_of_the_condition(canvas, factors):
    discriminator = make_discriminator(canvas, factors)
    x = torch.randn(3, 4, *canvas)
    first, second = torch.randn(2, 3, CONDITION)
    ends = discriminator(x, first), discriminator(x, second)
    assert (ends[0] - ends[1]).abs().min() > 1e-4
    for share in (-1.0, 0.25, 2.0):
        score = discriminator(x, first.lerp(second, share))
        torch.testing.assert_close(score, ends[0].lerp(ends[1], share), rtol=1e-4, atol=1e-5)


@every_canvas
def test_a_sample_is_the_same_alone_and_in_a_batch(canvas, factors):
    generator = make_generator(canvas, factors)
    for conv in generator.synthesis.convs:
        conv.noise_strength.data.fill_(0.5)
    z, condition, noises = draw_inputs(generator, 4)
    together = generator(z, condition, noises, truncation=0.8)
    for i in range(4):
        alone = generator(z[i : i + 1], condition[i : i + 1], [noise[i : i + 1] for noise in noises], truncation=0.8)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


@every_canvas
def test_noise_changes_a_sample_once_its_strength_is_learnt(canvas, factors):
    generator = make_generator(canvas, factors)
    z, condition, noises = draw_inputs(generator, 1)
    silent = [torch.zeros_like(noise) for noise in noises]
    torch.testing.assert_close(generator(z, condition, noises), generator(z, condition, silent))
    for number, conv in enumerate(generator.synthesis.convs):
        conv.noise_strength.data.fill_(1.0)
        heard = [
            noise if other == number else still for other, (noise, still) in enumerate(zip(noises, silent, strict=True))
        ]
        assert (generator(z, condition, heard) - generator(z, condition, silent)).abs().max() > 1e-3, number
