"""Sliced Wasserstein distance, its pyramid and descriptors; and diversity, which reveals collapse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from stylegan2_cond.metrics import SampleSet, compare
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import FeatureExtractor
from stylegan2_cond.metrics.swd import COARSEST, QUANTILES, laplacian_pyramid, sample_descriptors, sliced_distances
from stylegan2_cond.ops import upsample


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def distance(real, generated, seed=0, groups=10):
    sides = [np.arange(len(side)) % groups for side in (real, generated)]
    return sliced_distances(real, generated, *sides, np.random.default_rng(seed))


# --- pyramid and descriptors


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=2, max_size=3), st.integers(0, 99))
def test_the_levels_of_a_pyramid_add_up_to_the_image(size, seed):
    image = normal(2, 1, *size, seed=seed)
    *levels, coarsest = laplacian_pyramid(image)
    assert max(coarsest.shape[2:]) < 2 * COARSEST
    for level in reversed(levels):
        factors = [2 if fine > coarse else 1 for fine, coarse in zip(level.shape[2:], coarsest.shape[2:], strict=True)]
        coarsest = level + upsample(coarsest, factors, level.shape[2:])
    torch.testing.assert_close(coarsest, image)


def test_a_pyramid_takes_the_smooth_part_out_of_the_finest_level():
    ramp = torch.arange(64.0).reshape(1, 1, 1, 64).expand(1, 1, 64, 64)
    finest, *_ = laplacian_pyramid(ramp)
    assert finest[..., 2:-2].abs().max() < 1e-4  # linear interpolation gives back what is linear
    checks = (-1.0) ** (torch.arange(64).reshape(64, 1) + torch.arange(64)).expand(1, 1, 64, 64)
    torch.testing.assert_close(laplacian_pyramid(checks)[0], checks)


@pytest.mark.parametrize(("size", "patch"), [((20, 12), (7, 7)), ((20, 5), (7, 5)), ((9, 8, 3), (5, 5, 3))])
def test_a_descriptor_is_a_window_of_its_own_patch(size, patch):
    level = torch.arange(3 * 2 * math.prod(size), dtype=torch.float32).reshape(3, 2, *size)
    patches = sample_descriptors(level, 40, np.random.default_rng(0)).reshape(3, 40, 2, *patch)
    corners = set()
    for number in range(3):
        for found in patches[number]:
            corner = np.argwhere(level[number, 0].numpy() == found[(0, *[0] * len(size))].item())[0]
            box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
            assert torch.equal(found, level[(number, slice(None), *box)])
            corners.add(tuple(corner))
    last = [length - extent for length, extent in zip(size, patch, strict=True)]
    assert [max(axis) for axis in zip(*corners, strict=True)] == last  # all places are reached, the last ones too
    assert [min(axis) for axis in zip(*corners, strict=True)] == [0] * len(size)


# --- sliced Wasserstein distance


def test_in_one_dimension_it_is_the_wasserstein_distance():
    real, generated = normal(QUANTILES // 4, 4, 1), (1.5 * normal(QUANTILES // 4, 4, 1, seed=1) + 0.3).exp()
    expected = wasserstein_distance(real.flatten(), generated.flatten())
    assert distance(real, generated)[0] == pytest.approx(expected, rel=1e-5)


def test_sets_of_different_size_are_compared_by_their_quantiles():
    real, generated = normal(QUANTILES // 4, 4, 1), normal(500, 8, 1, seed=1) + 2
    expected = wasserstein_distance(real.flatten(), generated.flatten())
    assert distance(real, generated)[0] == pytest.approx(expected, rel=1e-3)


def test_a_shift_is_seen_as_far_as_it_goes_along_random_directions():
    patches, width, shift = normal(100, 8, 147), 147, 0.4
    length = shift * math.sqrt(width)
    cosine = math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi)  # E |u₁|, a sphere
    found = np.mean([distance(patches, patches + shift, seed)[0] for seed in range(30)])
    assert found == pytest.approx(length * cosine, rel=0.05)  # 30 · 128 directions


def test_a_set_has_no_distance_to_itself():
    patches = normal(30, 8, 10)
    assert distance(patches, patches.clone()) == (0, 0)


def test_its_error_is_the_spread_over_other_samples():
    draws = range(60)
    found = [distance(normal(60, 8, 5, seed=2 * i), normal(60, 8, 5, seed=2 * i + 1) + 1, groups=20) for i in draws]
    values, errors = np.array(found).T
    assert 1 / 1.5 < np.sqrt(np.square(errors).mean()) / values.std() < 1.5


def test_noise_changes_its_own_level_and_two_samples_of_one_distribution_are_near():
    real, again, noisy = (normal(60, 1, 64, 64, seed=i).cumsum(2).cumsum(3).numpy() / 50 for i in range(3))
    noisy = noisy + 0.3 * normal(60, 1, 64, 64, seed=9).numpy()
    same, other = (compare(real, generated, ["swd"])["swd"] for generated in (again, noisy))
    assert other.value > 3 * same.value
    assert other.value - same.value > 5 * max(other.standard_error, same.standard_error)
    assert list(other.details) == ["64×64", "32×32", "16×16"]
    assert other.value == pytest.approx(np.mean(list(other.details.values())))
    gains = [other.details[level] / same.details[level] for level in other.details]
    assert gains[0] > gains[1] > gains[2]


def test_it_does_not_depend_on_the_units_of_a_channel():
    real, generated = normal(40, 2, 32, 32).numpy(), 1.2 * normal(40, 2, 32, 32, seed=1).numpy()
    units = np.array([1000, 0.01], np.float32).reshape(1, 2, 1, 1)
    plain, scaled = (compare(real * u, generated * u, ["swd"])["swd"].value for u in (1, units))
    assert scaled == pytest.approx(plain, rel=1e-3)


# --- diversity


class Voxels(FeatureExtractor):
    """The patches themselves."""

    name = "voxels"
    standardised = False

    def identity(self):
        return self.name

    def __call__(self, samples):
        return torch.from_numpy(samples.image).flatten(1)


def diversity(real, generated):
    names = ["diversity-nearest", *(["diversity-within"] if real.label is not None else [])]
    return compare(real, generated, names, Voxels())


def test_diversity_is_distance_over_distance_without_pairs_of_one_case():
    case = np.array([f"case {i // 3}" for i in range(30)])
    real, generated = (
        SampleSet(normal(30, 1, 4, 4).numpy(), np.ones((30, 4, 4), np.int16), case),
        SampleSet(3 * normal(40, 1, 4, 4, seed=1).numpy(), np.ones((40, 4, 4), np.int16)),
    )
    within = case[:, None] == case, np.eye(40, dtype=bool)
    flat = [side.image.reshape(len(side), -1) for side in (real, generated)]
    matrices = [np.where(same, np.nan, cdist(x, x)) for same, x in zip(within, flat, strict=True)]
    found = diversity(real, generated)
    means = [np.nanmean(matrix) for matrix in matrices]
    nearest = [np.nanmin(matrix, axis=1).mean() for matrix in matrices]
    assert found["diversity-within"].value == pytest.approx(means[1] / means[0], rel=1e-4)
    assert found["diversity-nearest"].value == pytest.approx(nearest[1] / nearest[0], rel=1e-4)


def test_diversity_within_classes_sees_what_a_condition_leaves_to_chance():
    label = np.zeros((60, 4, 4), np.int16)
    label[:30, 0, 0] = 1
    label[20:40, 1, 1] = 2
    kinds = (np.arange(60) < 30) + 2 * ((np.arange(60) >= 20) & (np.arange(60) < 40))
    centres = 50 * normal(4, 1, 4, 4, seed=7)[torch.from_numpy(kinds)]
    real, generated = (SampleSet((centres + s * normal(60, 1, 4, 4, seed=s)).numpy(), label) for s in (1, 2))
    found = diversity(real, generated)
    assert found["diversity-within"].value == pytest.approx(2, rel=0.1)
    assert found["diversity-nearest"].value == pytest.approx(2, rel=0.1)


def test_one_picture_again_and_again_has_no_diversity():
    real, one = normal(40, 1, 16, 16), normal(1, 1, 16, 16, seed=1).expand(40, -1, -1, -1)
    assert compare(real, one, ["diversity-nearest"])["diversity-nearest"].value == pytest.approx(0, abs=0.02)


def test_diversity_is_no_number_where_the_real_patches_are_all_the_same():
    real, generated = np.ones((30, 1, 8, 8), np.float32), normal(30, 1, 8, 8).numpy()
    assert not np.isfinite(diversity(SampleSet(real), SampleSet(generated))["diversity-nearest"].value)


def test_combinations_of_many_classes_are_distinguished():
    label = np.zeros((30, 10, 10), np.int16)
    label[:, 0:7] = np.arange(1, 71).reshape(7, 10)  # TotalSegmentator has 117
    label[15:, 6, 9] = 0
    samples = SampleSet(normal(30, 1, 10, 10).numpy(), label)
    comparison = Comparison(samples, samples, features=Voxels())
    assert len(comparison.labels) == 70
    assert diversity(samples, samples)["diversity-within"].value == pytest.approx(1)
