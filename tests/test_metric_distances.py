"""Distances, manifolds and their errors: against closed forms, papers and other people's implementations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from scipy.linalg import sqrtm
from torch_fidelity import metric_fid, metric_kid
from torchmetrics.image import fid as torchmetrics_fid
from torchmetrics.image import kid as torchmetrics_kid

from stylegan2_cond.metrics import SampleSet, kid
from stylegan2_cond.metrics.comparison import Comparison, standardisation
from stylegan2_cond.metrics.features import RandomPyramid
from stylegan2_cond.metrics.frechet import frechet_distance
from stylegan2_cond.metrics.jackknife import jackknife, make_groups, spread
from stylegan2_cond.metrics.kid import kernel_distance
from stylegan2_cond.metrics.prdc import NEIGHBOURS, precision_and_coverage


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def alone(*features):
    """Groups of one patch each."""
    return [np.arange(len(x)) for x in features]


# --- kernel distance


def test_kernel_distance_is_that_of_torch_fidelity_and_torchmetrics():
    real, generated = normal(60, 12), 1.3 * normal(60, 12, seed=1) + 0.2
    value, _ = kernel_distance(real, generated, *alone(real, generated))
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    theirs = metric_kid.kernel_mmd(real.numpy(), generated.numpy(), **options, kid_kernel_poly_coef0=1)
    assert value == pytest.approx(theirs, rel=1e-10)
    assert value == pytest.approx(float(torchmetrics_kid.poly_mmd(real, generated)), rel=1e-10)


def test_kernel_distance_is_its_formula_for_sets_of_different_size_and_in_blocks(monkeypatch):
    monkeypatch.setattr(kid, "BLOCK", 7)
    x, y = normal(23, 4), normal(31, 4, seed=1) + 1
    within_x, within_y, between = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    off_x, off_y = ((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (within_x, within_y))
    expected = float(off_x + off_y - 2 * between.mean())  # Gretton et al. 2012, Eq. 3
    assert kernel_distance(x, y, *alone(x, y))[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 50)])
def test_kernel_distance_of_one_distribution_is_zero_on_average_however_few_the_patches(n, m):
    draws = [(normal(n, 6, seed=2 * i), normal(m, 6, seed=2 * i + 1)) for i in range(400)]
    values = np.array([kernel_distance(x, y, np.arange(n) % 5, np.arange(m) % 5)[0] for x, y in draws])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("shift", [0, 0.7])
def test_the_error_of_kernel_distance_is_its_spread_over_other_samples(shift):
    found = []
    for i in range(200):
        x, y = normal(100, 6, seed=2 * i), normal(100, 6, seed=2 * i + 1) + shift
        found.append(kernel_distance(x, y, np.arange(100) % 20, np.arange(100) % 20))
    values, errors = np.array(found).T
    assert 1 / 1.5 < np.sqrt(np.square(errors).mean()) / values.std() < 1.5


# --- Fréchet distance


def gaussian(mean, root, count, seed=0):
    """Samples whose mean and covariance are exactly `mean` and rootᵀ root."""
    x = normal(count, len(mean), seed=seed).numpy()
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(white @ root + mean)


def test_frechet_distance_of_independent_features_is_that_of_their_means_and_deviations():
    means, deviations = normal(2, 5).numpy(), normal(2, 5, seed=1).abs().numpy() + 0.5
    sides = [gaussian(m, np.diag(s), 80, seed) for seed, (m, s) in enumerate(zip(means, deviations, strict=True))]
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_covariances_that_do_not_commute_needs_the_matrix_root():
    means, roots = normal(2, 6).numpy(), normal(2, 6, 6, seed=1).numpy()
    first, second = (root.T @ root for root in roots)
    assert np.abs(first @ second - second @ first).max() > 1
    sides = [gaussian(means[i], roots[i], 50 + 50 * i, seed=i) for i in (0, 1)]
    expected = np.square(means[0] - means[1]).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_that_of_torch_fidelity_and_torchmetrics():
    sides = normal(90, 8) @ normal(8, 8, seed=1), normal(70, 8, seed=2) @ normal(8, 8, seed=3) + 0.5
    statistics = [(x.mean(dim=0), torch.cov(x.T)) for x in sides]
    theirs = metric_fid.fid_statistics_to_metric(
        *({"mu": mean.numpy(), "sigma": covariance.numpy()} for mean, covariance in statistics), verbose=False
    )["frechet_inception_distance"]
    assert frechet_distance(*sides) == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(*sides) == pytest.approx(
        float(torchmetrics_fid._compute_fid(*statistics[0], *statistics[1])), rel=1e-6
    )


@pytest.mark.parametrize("sizes", [(40, 30), (40, 300), (300, 40)])
def test_frechet_distance_is_the_same_in_a_space_of_more_features_than_patches(sizes):
    flat = [normal(sizes[i], 5, seed=i) @ normal(5, 5, seed=2 + i) + i for i in (0, 1)]
    turn = torch.linalg.qr(normal(100, 5, seed=9)).Q.T
    assert frechet_distance(*(x @ turn for x in flat)) == pytest.approx(frechet_distance(*flat), rel=1e-9)


# --- precision and coverage


def manifold(real, generated, neighbours=NEIGHBOURS):
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    return precision_and_coverage(torch.cdist(real, real, **exact), torch.cdist(real, generated, **exact), neighbours)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_precision_and_coverage_are_those_of_prdc(n, m, width, neighbours, seed):
    real, generated = normal(n, width, seed=seed), 1.2 * normal(m, width, seed=seed + 1) + 0.3
    theirs = compute_prdc(real.numpy(), generated.numpy(), nearest_k=neighbours)
    found = manifold(real, generated, neighbours)
    np.testing.assert_allclose(found, [theirs["precision"], theirs["coverage"]], atol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_one_distribution_has_the_coverage_of_naeem(neighbours):
    n, m = 200, 150
    draws = range(20)
    values = np.array([manifold(normal(n, 8, seed=2 * i), normal(m, 8, seed=2 * i + 1), neighbours)[1] for i in draws])
    missed = math.prod((n - i) / (n + m - i) for i in range(1, neighbours + 1))  # Naeem et al. 2020, Lemma 2
    assert abs(values.mean() - (1 - missed)) < 4 * values.std() / math.sqrt(len(draws))


def test_a_far_generated_patch_does_not_lift_coverage():
    real, generated = normal(200, 2), normal(200, 2, seed=1) + torch.tensor([40.0, 0.0])
    outlier = torch.tensor([[0.0, 20.0]], dtype=torch.float64)
    assert manifold(real, torch.cat([generated, outlier]))[1] == 0


def test_missing_modes_cost_coverage_and_invented_ones_precision():
    centres = 100 * torch.arange(10).reshape(10, 1, 1)
    whole = (centres + normal(10, 40, 2)).flatten(0, 1)
    half = (centres + normal(10, 40, 2, seed=1))[:5].flatten(0, 1)
    precision, coverage = manifold(whole, half)
    assert precision > 0.8
    assert 0.4 < coverage <= 0.5
    assert 0.4 < manifold(half, whole)[0] <= 0.5


# --- jackknife


def test_jackknife_of_a_mean_is_the_textbook_error():
    x = normal(50).numpy()
    value, error = jackknife(lambda keep, _: x[keep].mean(), np.arange(50), np.arange(50))
    assert value == pytest.approx(x.mean())
    assert error == pytest.approx(x.std(ddof=1) / math.sqrt(50))


def test_jackknife_of_a_difference_adds_the_variances_of_both_sides():
    found = []
    for i in range(300):
        x, y = normal(60, seed=2 * i).numpy(), 2 * normal(60, seed=2 * i + 1).numpy()
        groups = np.arange(60) % 20
        found.append(jackknife(lambda a, b, x=x, y=y: x[a].mean() - y[b].mean(), groups, groups)[1])
    assert np.square(found).mean() == pytest.approx((1 + 4) / 60, rel=0.1)


@pytest.mark.parametrize("few", [2, 4, 40])
def test_both_sides_have_as_many_groups_as_the_side_with_fewer_cases(few):
    image = np.zeros((120, 1, 8, 8), np.float32)
    real, generated = SampleSet(image, case=np.array([f"case{i % few}" for i in range(120)])), SampleSet(image)
    groups = Comparison(real, generated, features=RandomPyramid()).jackknife_groups(20)
    assert [len(np.unique(side)) for side in groups] == [min(few, 20)] * 2


def test_spread_of_a_constant_is_zero_and_of_one_group_unknown():
    assert spread([3.0] * 7) == 0
    assert math.isnan(spread([3.0]))
    np.testing.assert_array_equal(spread([[1.0, 2.0]] * 4), [0, 0])


@given(st.lists(st.sampled_from("abcdefghijklm"), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 99))
def test_groups_keep_cases_together_and_are_even(cases, count, seed):
    members = np.array(cases)
    groups = make_groups(members, np.random.default_rng(seed), count)
    of_case = {case: set(groups[members == case]) for case in cases}
    assert all(len(found) == 1 for found in of_case.values())
    sizes = np.bincount([found.pop() for found in of_case.values()])
    assert len(sizes) == min(count, len(of_case))
    assert sizes.max() - sizes.min() <= 1


# --- standardisation


def test_standardised_features_have_mean_zero_and_deviation_one():
    real = 7 * normal(50, 4) + 3
    centre, scale = standardisation(real)
    np.testing.assert_allclose(((real - centre) / scale).mean(dim=0), 0, atol=1e-12)
    np.testing.assert_allclose(((real - centre) / scale).std(dim=0), 1)


def test_features_that_are_as_good_as_constant_do_not_explode():
    real = torch.cat([normal(50, 3), 5 + 1e-9 * normal(50, 1, seed=1)], dim=1)
    centre, scale = standardisation(real)
    generated = real + torch.tensor([0.0, 0.0, 0.0, 1e-3])  # a thousandth of what the other features vary by
    assert ((generated - centre) / scale)[:, 3].abs().max() < 0.2
    centre, scale = standardisation(torch.full((50, 3), 2.0))
    assert not ((2 - centre) / scale).any()
