"""The game's losses against log-sum formulas, R1 against closed forms and differences, and the average's half-life."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from stylegan2_cond.training.ema import ema_decay, update_ema
from stylegan2_cond.training.losses import discriminator_loss, generator_loss, r1_penalty

scores = hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(-800, 800))


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# --- losses


@settings(max_examples=50, deadline=None)
@given(scores, scores)
def test_losses_are_the_negative_log_likelihoods_of_the_right_answer(real, drawn):
    """-log σ(s) = log(e⁰ + e⁻ˢ), -log(1 - σ(s)) = log(e⁰ + eˢ); finite for scores of any size."""
    real_tensor, drawn_tensor = torch.from_numpy(real), torch.from_numpy(drawn)
    right = np.logaddexp(0, -real).mean() + np.logaddexp(0, drawn).mean()
    assert discriminator_loss(real_tensor, drawn_tensor).item() == pytest.approx(right, rel=1e-6, abs=1e-8)
    assert generator_loss(drawn_tensor).item() == pytest.approx(np.logaddexp(0, -drawn).mean(), rel=1e-6, abs=1e-8)


def test_a_discriminator_that_cannot_tell_pays_log_four_and_the_generator_log_two():
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(np.log(4))
    assert generator_loss(torch.zeros(3)).item() == pytest.approx(np.log(2))


def test_the_generator_still_learns_where_the_discriminator_is_sure():
    score = torch.tensor([-50.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(score), score)
    assert gradient.item() == pytest.approx(-1)  # the saturating loss would give e⁻⁵⁰


# --- R1


class Affine(nn.Module):
    """`<direction, x> + <shift, condition>`, whose gradient is the direction."""

    def __init__(self, direction, shift):
        super().__init__()
        self.direction, self.shift = nn.Parameter(direction), nn.Parameter(shift)

    def forward(self, x, condition):
        return (x * self.direction).flatten(1).sum(dim=1) + condition @ self.shift


class Curved(nn.Module):
    """A small smooth discriminator."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.score, self.embed = nn.Conv2d(2, 3, 3), nn.Linear(3, 1), nn.Linear(2, 3)
        self.double()

    def forward(self, x, condition):
        features = torch.tanh(self.conv(x)).mean(dim=(2, 3))
        return self.score(features).squeeze(1) + (features * self.embed(condition)).sum(dim=1)


@pytest.mark.parametrize("canvas", [(4, 5), (3, 4, 2)])
def test_r1_of_a_linear_discriminator_is_half_the_squared_norm_of_its_direction(canvas):
    direction, shift = normal(3, *canvas), normal(2, seed=1)
    real, condition = normal(5, 3, *canvas, seed=2), normal(5, 2, seed=3)
    discriminator = Affine(direction, shift)
    penalty = r1_penalty(discriminator, real, condition)
    assert penalty.item() == pytest.approx(np.square(direction.numpy()).sum() / 2)
    (derivative,) = torch.autograd.grad(penalty, discriminator.direction)
    torch.testing.assert_close(derivative, direction)


def test_r1_is_the_mean_over_samples_and_not_over_voxels():
    real = normal(5, 2, 4, 4)
    penalty = r1_penalty(lambda x, condition: 3 * x.square().flatten(1).sum(dim=1) / 2, real, torch.zeros(5, 0))
    assert penalty.item() == pytest.approx(9 * np.square(real.numpy()).sum() / 5 / 2)


def test_the_derivative_of_r1_with_respect_to_the_weights_is_that_of_finite_differences():
    discriminator, real, condition = Curved(), normal(3, 2, 5, 5), normal(3, 2, seed=1)
    r1_penalty(discriminator, real, condition).backward()
    step = 1e-5
    for name, parameter in discriminator.named_parameters():
        direction = normal(*parameter.shape, seed=2)
        with torch.no_grad():
            parameter += step * direction
            above = r1_penalty_value(discriminator, real, condition)
            parameter -= 2 * step * direction
            below = r1_penalty_value(discriminator, real, condition)
            parameter += step * direction
        analytic = 0.0 if parameter.grad is None else (parameter.grad * direction).sum().item()
        assert analytic == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-9), name
    assert discriminator.conv.weight.grad.any()


def r1_penalty_value(*args):
    with torch.enable_grad():
        return r1_penalty(*args).item()


def test_r1_leaves_the_real_pairs_without_a_gradient():
    real = normal(2, 2, 5, 5)
    r1_penalty(Curved(), real, normal(2, 2)).backward()
    assert not real.requires_grad
    assert real.grad is None


# --- moving average


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**7), st.integers(1, 256), st.floats(0.001, 1.0))
def test_the_old_average_counts_half_after_a_share_of_the_images_seen(images_seen, batch_size, share):
    steps = share * images_seen / batch_size
    assert ema_decay(images_seen, batch_size, share) ** steps == pytest.approx(0.5, rel=1e-6)


def test_before_any_image_the_average_is_the_network():
    assert ema_decay(0, 16, 0.05) == pytest.approx(0, abs=1e-12)


def make_network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_update_ema_moves_parameters_in_proportion_and_copies_buffers():
    network, average = make_network(0), make_network(1)
    network(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))  # changes the statistics of the norm
    before, target = copy.deepcopy(average), copy.deepcopy(network)
    update_ema(average, network, 0.9)
    for mean, old, current in zip(average.parameters(), before.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mean, 0.9 * old + 0.1 * current)
    assert [name for name, _ in average.named_buffers()] == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    for mean, current in zip(average.buffers(), network.buffers(), strict=True):
        assert torch.equal(mean, current)
    for name, value in target.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name  # the network itself is not touched


def test_an_average_that_chases_a_standing_network_is_half_way_after_a_half_life():
    network, average = make_network(0), make_network(1)
    old = average[0].weight.detach().clone()
    steps = 25
    for _ in range(steps):
        update_ema(average, network, ema_decay(8000, 16, 16 * steps / 8000))
    torch.testing.assert_close(average[0].weight, (old + network[0].weight) / 2)
