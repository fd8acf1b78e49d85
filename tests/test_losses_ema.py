"""Losses against formulas, penalties against closed forms, Jacobians and differences, and the average's half-life."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from tolerance import rounding
from torch import nn

from stylegan2_cond.training.losses import (
    feature_matching,
    gradient_penalty,
    relativistic_loss,
)
from stylegan2_cond.training.state import ema_decay, update_ema

scores = hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(-800, 800))


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# --- losses


@settings(max_examples=50, deadline=None)
@given(scores, st.integers(0, 2**16))
def test_relativistic_players_want_their_own_scores_above_the_others_pair_by_pair(ours, seed):
    """Huang et al. 2024, Eq. 2: f(t) = -log(1 + e⁻ᵗ) of the difference; its slope is the logistic function."""
    theirs = np.random.default_rng(seed).permutation(ours) / 2
    mine = torch.from_numpy(ours).requires_grad_(True)
    loss = relativistic_loss(mine, torch.from_numpy(theirs))
    assert loss.item() == pytest.approx(np.logaddexp(0, theirs - ours).mean(), rel=1e-6, abs=1e-8)
    (gradient,) = torch.autograd.grad(loss, mine)
    np.testing.assert_allclose(gradient, -expit(theirs - ours) / ours.size, rtol=1e-6, atol=1e-12)


def test_the_relativistic_loss_minds_differences_only():
    real, drawn = normal(6, 2), normal(6, 2, seed=1)
    torch.testing.assert_close(relativistic_loss(real + 7, drawn + 7), relativistic_loss(real, drawn))
    assert relativistic_loss(real, real).item() == pytest.approx(np.log(2))


# --- gradient penalty


@pytest.mark.parametrize("patch_size", [(4, 5), (3, 4, 2)])
def test_the_penalty_of_a_linear_score_is_half_its_squared_norm(patch_size):
    direction = normal(3, *patch_size).requires_grad_(True)
    inputs = normal(5, 3, *patch_size, seed=2).requires_grad_(True)
    penalty = gradient_penalty((inputs * direction).flatten(1).sum(dim=1), inputs)
    square = np.square(direction.detach().numpy()).sum()
    assert penalty.item() == pytest.approx(square / 2, rel=rounding(direction.numel()))
    (derivative,) = torch.autograd.grad(penalty, direction)
    torch.testing.assert_close(derivative, direction.detach(), rtol=rounding(len(inputs)), atol=0)


def test_the_penalty_is_the_mean_over_samples_and_not_over_voxels():
    inputs = normal(5, 2, 4, 4).requires_grad_(True)
    scores = 3 * inputs.square().flatten(1).sum(dim=1) / 2  # its gradient is 3 · inputs
    expected = 9 * np.square(inputs.detach().numpy()).sum() / 5 / 2
    assert gradient_penalty(scores, inputs).item() == pytest.approx(expected, rel=rounding(inputs.numel()))


class Curved(nn.Module):
    """A small smooth discriminator."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.score = nn.Conv2d(2, 3, 3), nn.Linear(3, 1)
        self.double()

    def forward(self, x):
        return self.score(torch.tanh(self.conv(x)).mean(dim=(2, 3)).square()).squeeze(1)


def test_the_derivative_of_the_penalty_with_respect_to_the_weights_is_that_of_finite_differences():
    curved, inputs = Curved(), normal(3, 2, 5, 5).requires_grad_(True)
    agrees_with_differences(curved, lambda: gradient_penalty(curved(inputs), inputs), inputs.numel())


def agrees_with_differences(network, value, terms, step=3e-3):
    """The derivative of a value along a random direction of each parameter; penalties are sums in float32."""
    for number, (name, parameter) in enumerate(network.named_parameters()):
        direction = normal(*parameter.shape, seed=number)
        (gradient,) = torch.autograd.grad(value(), parameter, allow_unused=True)
        found = []
        for moved in (step, -2 * step, step):
            with torch.no_grad():
                parameter += moved * direction
            found.append(value().item())
        analytic = 0.0 if gradient is None else (gradient * direction).sum().item()
        rounded = rounding(terms, found[0]) / step
        assert analytic == pytest.approx((found[0] - found[1]) / (2 * step), rel=3e-3, abs=rounded), name
        assert analytic or name.endswith("bias"), name


# --- feature matching


def test_feature_matching_is_the_mean_over_blocks_of_the_mean_absolute_difference():
    sizes = [(4, 8, 6), (16, 3, 2)]
    real, drawn = ([normal(2, *size, seed=seed) for size in sizes] for seed in (0, 1))
    taught = [one.clone().requires_grad_(True) for one in (*real, *drawn)]
    loss = feature_matching(taught[:2], taught[2:])
    expected = np.mean([np.abs(one.numpy() - other.numpy()).mean() for one, other in zip(real, drawn, strict=True)])
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert [one.grad is not None for one in taught] == [False, False, True, True]  # the real ones are fixed


# --- moving average


@settings(max_examples=50, deadline=None)
@given(st.integers(10**4, 10**7), st.integers(1, 256), st.floats(0.01, 1.0))
def test_the_old_average_counts_half_after_a_share_of_the_images_seen(images_seen, batch_size, share):
    assume(batch_size / 1000 < share * images_seen <= 20_000)
    steps = share * images_seen / batch_size
    assert ema_decay(images_seen, batch_size, share) ** steps == pytest.approx(0.5, rel=1e-6)


def test_before_any_image_the_average_is_the_network():
    assert ema_decay(0, 16, 0.05) == pytest.approx(0, abs=1e-12)


def test_the_half_life_of_the_average_stops_growing_at_20_000_images():
    assert ema_decay(399_000, 16, 0.05) < ema_decay(400_000, 16, 0.05) == ema_decay(10**8, 16, 0.05)
    assert ema_decay(10**8, 20_000, 0.05) == pytest.approx(0.5)


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
