"""The networks: shapes for any patch, statistics at the start, and what mask and condition may and must change."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tiny import Operations
from tolerance import NETWORK, assert_rounded

from stylegan2_cond.networks.discriminator import Discriminator, minibatch_stddev
from stylegan2_cond.networks.generator import AVERAGE_DECAY, Generator, Mapping, MaskModulation, Synthesis
from stylegan2_cond.networks.layers import Conv, Linear, ModulatedConv, pixel_norm, pyramid

LATENT, STYLE, CONDITION = 8, 12, 3
IMAGES, LABELS = 2, 3  # channels
PATCHES = [  # patch, factors from coarse to fine
    ((9, 14), ((2, 2), (1, 2))),
    ((5, 4), ()),
    ((7, 17, 10), ((2, 2, 2), (1, 2, 2))),
    ((6, 5, 11), ((1, 1, 3),)),
]
every_patch_size = pytest.mark.parametrize(("patch_size", "factors"), PATCHES)


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_generator(patch_size, factors, output_channels=IMAGES + LABELS, condition_dim=CONDITION, mask_channels=0):
    mapping = Mapping(latent_dim=LATENT, condition_dim=condition_dim, style_dim=STYLE, layers=2)
    synthesis = Synthesis(
        patch_size=patch_size,
        factors=factors,
        channels=[12, 8, 6][-len(factors) - 1 :],
        output_channels=output_channels,
        style_dim=STYLE,
        mask_channels=mask_channels,
    )
    return Generator(mapping, synthesis).eval()


def modulations(generator):
    return [conv.given for conv in generator.synthesis.convs if conv.given is not None]


def make_illustrator(patch_size, factors):
    """A generator of images for given masks, as after some training: new ones take no notice of the mask."""
    generator = make_generator(patch_size, factors, output_channels=IMAGES, mask_channels=LABELS)
    for modulation in modulations(generator):
        for layer in (modulation.scale, modulation.shift):
            layer.weight.data.normal_()
    return generator


def make_discriminator(patch_size, factors, **changes):
    sizes = {"input_channels": IMAGES + LABELS, "condition_dim": CONDITION, **changes}
    return Discriminator(patch_size=patch_size, factors=factors, channels=[12, 8, 6][-len(factors) - 1 :], **sizes)


def sample_inputs(generator, count, condition_dim=CONDITION):
    noises = [torch.randn(count, 1, *size) for size in generator.synthesis.noise_sizes]
    return torch.randn(count, LATENT), torch.rand(count, condition_dim).round(), noises


# --- shapes


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.data())
def test_each_stage_of_the_pyramid_reaches_the_next_and_the_last_is_the_patch(dims, stages, data):
    patch_size = data.draw(st.tuples(*[st.integers(1, 40)] * dims))
    factors = data.draw(st.lists(st.tuples(*[st.integers(1, 3)] * dims), min_size=stages, max_size=stages))
    sizes = pyramid(patch_size, factors)
    assert len(sizes) == stages + 1
    assert sizes[-1] == patch_size
    for size, following, factor in zip(sizes, sizes[1:], factors, strict=False):
        for length, longer, times in zip(size, following, factor, strict=True):
            assert length == math.ceil(longer / times)


@every_patch_size
@pytest.mark.parametrize("channels", [1, 5])
def test_generator_and_discriminator_take_any_patch_and_any_number_of_channels(patch_size, factors, channels):
    generator = make_generator(patch_size, factors, output_channels=channels)
    z, condition, noises = sample_inputs(generator, 2)
    generated = generator(z, condition, noises)
    assert generated.shape == (2, channels, *patch_size)
    scores, _ = make_discriminator(patch_size, factors, input_channels=channels)(generated, condition)
    assert scores.shape == (2,)
    assert scores.isfinite().all()


@every_patch_size
def test_a_score_sends_a_gradient_to_every_weight_of_both_networks(patch_size, factors):
    generator, discriminator = make_generator(patch_size, factors), make_discriminator(patch_size, factors)
    illustrator = make_illustrator(patch_size, factors)
    z, condition, noises = sample_inputs(generator, 3)
    condition[0] = 1  # a condition of zeros alone teaches the embeddings nothing
    mask = torch.randn(3, LABELS, *patch_size)
    pairs = torch.cat([illustrator(z, condition, noises, mask=mask), mask], dim=1)
    for generated in (generator(z, condition, noises), pairs):
        discriminator(generated, condition)[0].square().sum().backward()
    for network in (generator, illustrator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_networks_work_without_a_condition():
    patch_size, factors = PATCHES[0]
    generator = make_generator(patch_size, factors, condition_dim=0)
    z, condition, noises = sample_inputs(generator, 2, condition_dim=0)
    generated = generator(z, condition, noises)
    scores, _ = make_discriminator(patch_size, factors, condition_dim=0)(generated, condition)
    assert scores.shape == (2,)


# --- a given mask


def same_convolution(x, layer, gain=1.0):
    """A layer's convolution with its equalised weights, by scipy: x `[I, *spatial]` → `[O, *spatial]`, bias added."""
    weight = layer.weight.detach().numpy() / math.sqrt(layer.weight[0].numel())
    y = [sum(map(partial(ndimage.correlate, mode="constant"), x, kernels)) for kernels in weight]
    return np.stack(y) + layer.bias.detach().numpy().reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("patch_size", [(6, 7), (4, 5, 3)])
def test_a_given_mask_scales_by_one_plus_gamma_and_shifts_by_beta(patch_size):
    modulation = MaskModulation(LABELS, 5, spatial_dims=len(patch_size))
    for parameter in modulation.parameters():
        parameter.data.normal_()  # the biases too
    x, mask = torch.randn(2, 5, *patch_size), torch.randn(2, LABELS, *patch_size)
    found = modulation(x, mask).detach()
    for n in range(2):
        hidden = same_convolution(mask[n].numpy(), modulation.entry)
        hidden = math.sqrt(2) * np.where(hidden > 0, hidden, 0.2 * hidden)
        gamma, beta = same_convolution(hidden, modulation.scale), same_convolution(hidden, modulation.shift)
        assert_rounded(found[n], x[n].numpy() * (1 + gamma) + beta, terms=NETWORK)


def test_a_new_generator_takes_no_notice_of_the_mask():
    patch_size, factors = PATCHES[0]
    generator = make_generator(patch_size, factors, output_channels=IMAGES, mask_channels=LABELS)
    inputs = sample_inputs(generator, 2)
    one, other = (generator(*inputs, mask=torch.randn(2, LABELS, *patch_size)) for _ in range(2))
    assert torch.equal(one, other)


def sample_for_masks(patch_size, factors, count=2):
    generator = make_illustrator(patch_size, factors)
    z, condition, noises = sample_inputs(generator, count)
    return generator, (z, condition, noises), torch.randn(count, LABELS, *patch_size)


@every_patch_size
def test_each_stage_is_modulated_by_the_mask_at_its_own_size(patch_size, factors):
    generator, inputs, mask = sample_for_masks(patch_size, factors)
    seen = []
    for modulation in modulations(generator):
        modulation.register_forward_pre_hook(lambda _, taken: seen.append(taken))
    generated = generator(*inputs, mask=mask)
    assert generated.shape == (2, IMAGES, *patch_size)
    sizes = pyramid(patch_size, factors)
    assert [tuple(x.shape[2:]) for x, _ in seen] == [tuple(given.shape[2:]) for _, given in seen] == sizes
    assert torch.equal(seen[-1][1], mask)
    for modulation in modulations(generator):  # and each one matters
        kept = [layer.weight.data.clone() for layer in (modulation.scale, modulation.shift)]
        for silenced in range(2):
            layers = (modulation.scale, modulation.shift)
            layers[silenced].weight.data.zero_()
            assert (generator(*inputs, mask=mask) - generated).abs().max() > 1e-3
            layers[silenced].weight.data.copy_(kept[silenced])
    assert torch.equal(generator(*inputs, mask=mask), generated)


@every_patch_size
def test_coarse_stages_see_the_mask_averaged_over_what_each_voxel_covers(patch_size, factors):
    generator, inputs, _ = sample_for_masks(patch_size, factors)
    mask = (
        torch.arange(math.prod(patch_size))
        .float()
        .reshape(1, 1, *patch_size)
        .expand(2, LABELS, -1, *[-1] * (len(patch_size) - 1))
    )
    coarsest = []
    modulations(generator)[0].register_forward_pre_hook(lambda _, taken: coarsest.append(taken[1]))
    generator(*inputs, mask=mask.contiguous())
    block = [math.prod(stage[axis] for stage in factors) for axis in range(len(patch_size))]  # voxels of the patch
    first = mask[(0, 0, *(slice(min(length, n)) for length, n in zip(block, patch_size, strict=True)))]
    assert coarsest[0].flatten()[0].item() == pytest.approx(first.mean().item(), rel=1e-5)


@every_patch_size
def test_one_voxel_of_another_class_anywhere_changes_the_image_there(patch_size, factors):
    generator, inputs, mask = sample_for_masks(patch_size, factors, count=1)
    generated = generator(*inputs, mask=mask)
    corners = [
        (0,) * len(patch_size),
        tuple(length - 1 for length in patch_size),
        tuple(length // 2 for length in patch_size),
    ]
    for voxel in corners:
        other = mask.clone()
        other[(0, slice(None), *voxel)] = other[(0, slice(None), *voxel)].roll(1)
        moved = (generator(*inputs, mask=other) - generated).abs()
        assert moved[(0, slice(None), *voxel)].max() > 1e-4


def test_a_missing_mask_and_an_unexpected_one_are_refused():
    patch_size, factors = PATCHES[0]
    illustrator, inputs, mask = sample_for_masks(patch_size, factors)
    with pytest.raises(ValueError, match="needs a mask"):
        illustrator(*inputs)
    with pytest.raises(ValueError, match="takes no mask"):
        make_generator(patch_size, factors)(*inputs, mask=mask)


# --- a style for each convolution


@every_patch_size
def test_one_style_is_the_same_style_for_each_convolution(patch_size, factors):
    synthesis = make_generator(patch_size, factors).synthesis
    w, noises = torch.randn(2, STYLE), [torch.randn(2, 1, *size) for size in synthesis.noise_sizes]
    each = w.unsqueeze(1).repeat(1, len(synthesis.convs), 1)
    assert_rounded(synthesis(each, noises), synthesis(w, noises), terms=NETWORK)


@every_patch_size
def test_each_convolution_and_its_head_take_the_style_of_their_own_number(patch_size, factors):
    synthesis = make_generator(patch_size, factors).synthesis
    taken = {}
    for kind in ("convs", "heads"):
        for number, layer in enumerate(getattr(synthesis, kind)):
            layer.register_forward_pre_hook(lambda _, inputs, key=(kind, number): taken.update({key: inputs[1]}))
    w, noises = torch.randn(2, len(synthesis.convs), STYLE), [torch.randn(2, 1, *s) for s in synthesis.noise_sizes]
    synthesis(w, noises)
    for number in range(len(synthesis.convs)):
        assert torch.equal(taken["convs", number], w[:, number])
    for stage in range(len(factors) + 1):  # that of the last convolution before it
        assert torch.equal(taken["heads", stage], w[:, 2 * stage])


# --- the discriminator


def test_the_discriminator_shows_the_features_of_each_of_its_blocks():
    patch_size, factors = PATCHES[0]
    discriminator = make_discriminator(patch_size, factors)
    blocks = []
    for block in discriminator.blocks:
        block.register_forward_hook(lambda *taken: blocks.append(taken[2]))
    features = discriminator(torch.randn(2, IMAGES + LABELS, *patch_size), torch.rand(2, CONDITION))[1]
    assert [tuple(one.shape[2:]) for one in features] == pyramid(patch_size, factors)[-2::-1]
    assert all(torch.equal(one, other) for one, other in zip(features, blocks, strict=True))


# --- minibatch standard deviation


@pytest.mark.parametrize("spatial", [(5,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    ("count", "groups"), [(8, [[0, 1, 2, 3], [4, 5, 6, 7]]), (6, [[0, 1, 2, 3], [4, 5]]), (2, [[0, 1]])]
)
def test_minibatch_stddev_is_numpys_averaged_over_features_within_each_group(spatial, count, groups):
    x = torch.randn(count, 6, *spatial)
    y = minibatch_stddev(x, group=4)
    assert y.shape == (count, 7, *spatial)
    assert torch.equal(y[:, :6], x)
    for members in groups:
        expected = x.numpy()[members].std(axis=0).mean()
        np.testing.assert_allclose(y[members, 6], np.full((len(members), *spatial), expected), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 19), st.integers(1, 4))
def test_a_batch_split_between_groups_keeps_its_minibatch_stddev(count, groups):
    x = torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(count))
    parts = [minibatch_stddev(part) for part in x.split(4 * groups)]
    assert torch.equal(torch.cat(parts), minibatch_stddev(x))


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
    values, fan_in = y[:, 0].numel(), layer.weight[0].numel()  # means over normal weights and inputs
    error = math.sqrt(2 / (64 * fan_in) + 2 / (32 * values))
    assert y.square().mean().item() == pytest.approx(moment, rel=4 * error)


@pytest.mark.parametrize(("dims", "side"), [(1, 300), (2, 24), (3, 10)])
def test_modulated_conv_keeps_unit_variance_for_any_style(dims, side):
    layer = ModulatedConv(32, 64, style_dim=STYLE, spatial_dims=dims)
    y = layer(torch.randn(4, 32, *[side] * dims), 4 * torch.randn(4, STYLE))[(..., *[slice(1, -1)] * dims)]
    assert y.var().item() == pytest.approx(1, rel=0.07)


def test_mapping_starts_with_styles_of_unit_size():
    mappings = [Mapping(latent_dim=256, condition_dim=4, style_dim=256, layers=2) for _ in range(16)]
    z, condition = torch.randn(128, 256), torch.eye(4).repeat(32, 1)
    sizes = torch.stack([mapping(z, condition).square().mean() for mapping in mappings])
    assert sizes.mean().item() == pytest.approx(1.04**2, abs=4 * sizes.std().item() / math.sqrt(16))
    assert sizes.std() < 0.2


def test_pixel_norm_gives_each_vector_unit_second_moment():
    x = torch.randn(5, 16) * torch.tensor([[1e-2], [1.0], [3.0], [50.0], [1e4]])
    torch.testing.assert_close(pixel_norm(x).square().mean(dim=1), torch.ones(5), rtol=1e-3, atol=0)


# --- conditions, truncation, samples


@every_patch_size
def test_truncation_to_zero_generates_the_image_of_the_average_style_for_every_latent(patch_size, factors):
    generator = make_generator(patch_size, factors)
    generator.mapping.average.normal_()
    z, condition, noises = sample_inputs(generator, 3)
    noises = [noise[:1].expand_as(noise) for noise in noises]
    generated = generator(z, condition, noises, truncation=0.0)
    expected = generator.synthesis(generator.mapping.average[None], [noise[:1] for noise in noises])
    assert_rounded(generated, expected.expand_as(generated), terms=NETWORK)


def test_truncation_moves_styles_along_the_straight_line_to_the_average():
    mapping = make_generator(*PATCHES[0]).mapping
    mapping.average.normal_()
    w = torch.randn(4, STYLE)
    assert torch.equal(mapping.truncate(w, 1.0), w)
    torch.testing.assert_close(mapping.truncate(w, 0.7), 0.3 * mapping.average + 0.7 * w)


def test_the_average_style_moves_a_little_towards_a_given_mean_and_never_by_sampling():
    generator = make_generator(*PATCHES[0])
    generator.train()(*sample_inputs(generator, 4))
    assert not generator.mapping.average.any()
    start, mean = torch.randn(STYLE), torch.randn(STYLE)
    generator.mapping.average.copy_(start)
    generator.mapping.track_average(mean)
    torch.testing.assert_close(generator.mapping.average, AVERAGE_DECAY * start + (1 - AVERAGE_DECAY) * mean)


@every_patch_size
def test_a_condition_changes_what_the_generator_draws(patch_size, factors):
    generator = make_generator(patch_size, factors)
    z, _, noises = sample_inputs(generator, 1)
    generated = [generator(z, condition[None], noises) for condition in (*torch.eye(CONDITION), torch.zeros(CONDITION))]
    for i, one in enumerate(generated):
        for other in generated[:i]:
            assert (one - other).abs().max() > 1e-3


def test_the_condition_enters_the_mapping_next_to_the_latent_and_as_large():
    generator = make_generator(*PATCHES[0])
    entering = []
    generator.mapping.layers.register_forward_pre_hook(lambda _, taken: entering.append(taken[0]))
    z, _, noises = sample_inputs(generator, 1)
    first, second = (generator(z, condition[None], noises) for condition in torch.eye(CONDITION)[:2])
    assert (first - second).abs().max() > 1e-4
    assert entering[0][:, LATENT:].square().mean().item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(entering[0][:, :LATENT], pixel_norm(z))


def test_no_class_at_all_is_a_condition_like_any_other():
    mapping = make_generator(*PATCHES[0]).mapping
    condition = torch.zeros(1, CONDITION, requires_grad=True)
    mapping(torch.randn(1, LATENT), condition).sum().backward()
    gradients = [condition.grad, *(parameter.grad for parameter in mapping.parameters())]
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) < 1e3  # normalising zeros gives 1e4 and more


@every_patch_size
def test_the_condition_adds_its_projection_on_the_features(patch_size, factors):
    """Miyato and Koyama 2018, Eq. 3."""
    discriminator = make_discriminator(patch_size, factors)
    x, condition = torch.randn(3, IMAGES + LABELS, *patch_size), torch.rand(3, CONDITION)
    features = []
    discriminator.score.register_forward_pre_hook(lambda _, taken: features.append(taken[0]))
    found = discriminator(x, condition)[0]
    without = discriminator.score(features[0])[:, 0]
    embedded = discriminator.embed(condition)
    projection = torch.einsum("nc,nc->n", features[0], embedded) / math.sqrt(embedded.shape[1])
    assert projection.abs().min() > 1e-4
    torch.testing.assert_close(found, without + projection)


@every_patch_size
def test_the_score_depends_on_the_condition(patch_size, factors):
    discriminator = make_discriminator(patch_size, factors)
    x = torch.randn(1, IMAGES + LABELS, *patch_size)
    first, second = (discriminator(x, condition[None])[0] for condition in torch.eye(CONDITION)[:2])
    assert (first - second).abs().min() > 1e-4


@every_patch_size
def test_a_sample_is_the_same_alone_and_in_a_batch(patch_size, factors):
    generator = make_generator(patch_size, factors)
    for conv in generator.synthesis.convs:
        conv.noise_strength.data.fill_(0.5)
    z, condition, noises = sample_inputs(generator, 4)
    together = generator(z, condition, noises, truncation=0.8)
    for i in range(4):
        alone = generator(z[i : i + 1], condition[i : i + 1], [noise[i : i + 1] for noise in noises], truncation=0.8)
        assert_rounded(alone[0], together[i], terms=NETWORK)
    assert (together[0] - together[1]).abs().max() > 1e-3


@every_patch_size
def test_noise_changes_a_sample_once_its_strength_is_learnt(patch_size, factors):
    generator = make_generator(patch_size, factors)
    z, condition, noises = sample_inputs(generator, 1)
    silent = [torch.zeros_like(noise) for noise in noises]
    torch.testing.assert_close(generator(z, condition, noises), generator(z, condition, silent))
    for number, conv in enumerate(generator.synthesis.convs):
        conv.noise_strength.data.fill_(1.0)
        heard = [
            noise if other == number else still for other, (noise, still) in enumerate(zip(noises, silent, strict=True))
        ]
        assert (generator(z, condition, heard) - generator(z, condition, silent)).abs().max() > 1e-3, number


# --- half precision


def in_bfloat16(function):
    """Its result under autocast, and the operations behind it."""
    with torch.autocast("cpu", torch.bfloat16), Operations() as operations:
        return function(), operations


def rounded(x):
    """The share of x that bfloat16 could hold."""
    return (x == x.bfloat16()).float().mean().item()


def assert_float32_of(found, exact, operations):
    """`operations` roundings to float32 lie between both, each of at most half a unit in the last place."""
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= operations * torch.finfo(torch.float32).eps * exact.abs().max()


def pairs_of(patch_size, count=4):
    return torch.randn(count, IMAGES + LABELS, *patch_size), torch.rand(count, CONDITION).round()


def test_half_precision_leaves_the_style_in_float32():
    mapping = make_generator((5, 4), ()).mapping
    z, condition = torch.randn(16, LATENT), torch.rand(16, CONDITION).round()
    w, _ = in_bfloat16(lambda: mapping(z, condition))
    assert_float32_of(w, mapping.double()(z.double(), condition.double()), operations=4 * (2 * LATENT + STYLE))


@every_patch_size
def test_half_precision_is_of_convolutions_and_heads_alone(patch_size, factors):
    generator, discriminator = make_generator(patch_size, factors), make_discriminator(patch_size, factors)
    z, condition, noises = sample_inputs(generator, 4)
    generated, operations = in_bfloat16(lambda: generator(z, condition, noises))
    assert operations.types("mm", "addmm") == {torch.float32}  # of styles, and of the norms that demodulate
    assert operations.types("bmm") == {torch.bfloat16}  # of heads, which are convolutions with a weight per sample
    assert operations.types("convolution", "mkldnn_convolution") == {torch.bfloat16}
    _, operations = in_bfloat16(lambda: discriminator(generated, condition))
    assert operations.types("mm", "addmm", "bmm") == {torch.float32}
    assert operations.types("convolution", "mkldnn_convolution") == {torch.float32} | (
        {torch.bfloat16} if factors else set()
    )


@every_patch_size
def test_stages_are_added_up_finer_than_half_precision(patch_size, factors):
    generator = make_generator(patch_size, factors)
    generated, _ = in_bfloat16(lambda: generator(*sample_inputs(generator, 4)))
    assert generated.dtype == torch.float32
    if factors:
        assert rounded(generated) < 0.5


@every_patch_size
def test_scores_are_finer_than_half_precision(patch_size, factors):
    discriminator = make_discriminator(patch_size, factors)
    (scores, _), _ = in_bfloat16(lambda: discriminator(*pairs_of(patch_size, count=16)))
    assert scores.dtype == torch.float32
    assert rounded(scores) < 0.5


@every_patch_size
def test_scores_follow_from_the_last_features_as_float32_has_it(patch_size, factors):
    discriminator = make_discriminator(patch_size, factors)
    inputs, condition = pairs_of(patch_size, count=16)
    ((scores, stages), last), _ = in_bfloat16(lambda: (discriminator(inputs, condition), discriminator.entry(inputs)))
    last = stages[-1] if stages else last
    exact = discriminator.double()
    exact.entry, exact.blocks = torch.nn.Identity(), torch.nn.ModuleList()
    terms = sum(weight[0].numel() for name, weight in exact.named_parameters() if name.endswith("weight"))
    assert_float32_of(scores, exact(last.double(), condition.double())[0], operations=4 * terms)


@pytest.mark.parametrize("patch_size", [(9, 14), (7, 5, 6)])
def test_pairs_reach_the_discriminator_as_they_are_and_only_what_it_makes_of_them_is_rounded(patch_size):
    entry = make_discriminator(patch_size, ()).entry
    entry.weight.data -= entry.weight.data.mean(dim=1, keepdim=True)  # white alone would give 0
    pairs = 1 - 0.01 * torch.rand(4, IMAGES + LABELS, *patch_size)  # near white, where bfloat16 has three values
    seen, _ = in_bfloat16(lambda: entry(pairs))
    exact = entry.double()(pairs.double())
    assert seen.dtype == torch.bfloat16
    scale = math.sqrt(2) * entry.weight_gain * entry.weight.abs().sum(dim=1).max()  # of the terms that cancel
    own = torch.finfo(torch.bfloat16).eps * exact.abs()  # rounded by the convolution, the activation, and its gain
    assert ((seen - exact).abs() <= 1.5 * own + 16 * torch.finfo(torch.float32).eps * scale).all()
