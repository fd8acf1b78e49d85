"""Copies of training cases: generated patches that are nearer to one case than real patches of other cases ever are.

A smooth, typical patch is near to every case, a copy only to one. So the score is not how near the nearest training
case is, but how much nearer than the next ones (after Yoon et al. 2023, Diffusion Probabilistic Models Generalize when
They Fail to Memorize, who compare with the second nearest). The threshold is calibrated on real patches, each compared
with the cases that are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import cached_arrays, content_key
from stylegan2_cond.metrics.ncc import CANDIDATES, QUERIES, best_of_cases, nearest_cases
from stylegan2_cond.metrics.registry import Metric, Result, register

# Fraction of real patches beyond the threshold: half of the 1 % that is allowed for unseen cases, since the threshold
# itself is an estimate.
ALARMS = 0.005
FEWEST_CASES = CANDIDATES + 1  # since a real patch is not compared with its own
CORRELATION = "correlation"  # name under which results of the search in pixels are cached
SMALLEST = 1e-4  # distance, so that exact copies have a finite score


@dataclass(frozen=True)
class Nearest:
    """The training cases nearest to some patches.

    Attributes:
        score: `[N]`, log of the ratio between the distance to the nearest case and the mean distance to the next ones;
            low for copies.
        nearness: `[N]`, the largest normalised cross-correlation with any training patch, or the negative distance.
        index: `[N]`, of that training patch.
    """

    score: np.ndarray
    nearness: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class CopySearch:
    """The training cases nearest to generated patches, and to real patches of other cases.

    Attributes:
        threshold: lower scores are alarms.
        generated, real: what was found.
    """

    threshold: float
    generated: Nearest
    real: Nearest

    @property
    def alarms(self) -> np.ndarray:
        """`[N]` booleans: which generated patches are considered copies."""
        return self.generated.score < self.threshold

    def worst(self, count: int) -> np.ndarray:
        """Indices of the generated patches with the lowest scores."""
        return np.argsort(self.generated.score)[:count]


# Finds the reference's cases nearest to some patches, leaving out one case for each of them (-1: none).
NearestSearch = Callable[[SampleSet, "np.ndarray | None"], Nearest]


def nearest_other_cases(
    search: NearestSearch, real: SampleSet, reference: SampleSet, name: str, cache_folder: Path | None
) -> Nearest:
    """The cases nearest to real patches, without their own; read from the cache where they are known.

    Args:
        search: in the reference.
        real: patches of cases.
        reference: all training patches.
        name: of the search.
        cache_folder: None to cache nothing.
    """
    path = cache_folder and cache_folder / f"nearest_{content_key(real, name, content_key(reference))}.npz"
    names = [field.name for field in fields(Nearest)]
    return Nearest(**cached_arrays(path, names, lambda: vars(search(real, own_cases(reference, real)))))


def own_cases(reference: SampleSet, samples: SampleSet) -> np.ndarray:
    """`[N]`: the numbers of the samples' cases among those of the reference; -1 where a case is not among them."""
    if reference.case is None or samples.case is None:
        return np.arange(len(samples)) if samples is reference else np.full(len(samples), -1)
    names = np.unique(reference.case)
    places = np.searchsorted(names, samples.case).clip(0, len(names) - 1)
    return np.where(names[places] == samples.case, places, -1)


def correlation_search(reference: SampleSet, progress: Callable[[int], object] = lambda count: None) -> NearestSearch:
    """Search in pixels, by the largest normalised cross-correlation over small shifts.

    `progress` is called with the number of patches processed since the last call.
    """
    order, cases = _by_case(reference)
    in_order = np.array_equal(order, np.arange(len(order)))  # no second copy of what may be a GiB
    sorted_reference = torch.from_numpy(reference.image if in_order else reference.image[order])

    def search(samples: SampleSet, own: np.ndarray | None) -> Nearest:
        images = torch.from_numpy(samples.image)
        correlation, index = nearest_cases(images, sorted_reference, cases, own, progress=progress)
        return _nearest(1 - correlation.double(), correlation[:, 0], order[index[:, 0].numpy()])

    return search


def feature_search(
    reference: SampleSet, reference_features: torch.Tensor, features: Callable[[SampleSet], torch.Tensor]
) -> NearestSearch:
    """Search by the distance of image features, which shifts and small deformations hardly change."""
    order, cases = _by_case(reference)
    starts = np.flatnonzero(np.diff(cases, prepend=-1))
    sorted_reference = reference_features[order]

    def search(samples: SampleSet, own: np.ndarray | None) -> Nearest:
        count = min(CANDIDATES, len(starts) - (own is not None))
        distances, indices = [], []
        for block, vectors in enumerate(features(samples).split(QUERIES)):
            matrix = torch.cdist(vectors, sorted_reference)
            left_out = None if own is None else own[block * QUERIES : (block + 1) * QUERIES]
            index = best_of_cases(-matrix, starts, cases, left_out, count)[:, :, 0]
            distances.append(matrix.gather(1, index))
            indices.append(index)
        distance, index = torch.cat(distances), torch.cat(indices)
        return _nearest(distance, -distance[:, 0], order[index[:, 0].numpy()])

    return search


def _by_case(reference: SampleSet) -> tuple[np.ndarray, np.ndarray]:
    """An order in which patches of a case are contiguous, and their cases' numbers in that order."""
    numbers = reference.case_numbers()
    order = np.argsort(numbers, kind="stable")
    return order, numbers[order]


def _nearest(distances: torch.Tensor, nearness: torch.Tensor, index: np.ndarray) -> Nearest:
    """distances: `[N, cases]`, nearest case first."""
    distances = distances.double().clamp_min(SMALLEST)
    score = (distances[:, 0] / distances[:, 1:].mean(dim=1)).log()
    return Nearest(score.numpy(), nearness.float().numpy(), index)


def copies_in_pixels(comparison: Comparison) -> CopySearch:
    """Calibrate the threshold on real patches, and score the generated ones, by correlation.

    Real patches are compared with the cases that are not their own; so are generated ones that come from training
    cases, as in a comparison of real with real.
    """
    reference, generated = comparison.reference, comparison.generated
    search = correlation_search(reference)
    usual = nearest_other_cases(search, comparison.real, reference, CORRELATION, comparison.cache_folder)
    threshold = float(np.quantile(usual.score, ALARMS))
    return CopySearch(threshold, search(generated, own_cases(reference, generated)), usual)


@register
class Copies(Metric):
    """Percentage of generated patches that are copies of a training patch in pixels; about 0.5 % by chance."""

    name = "copies"
    title = "copies, %"
    needs = ("image",)

    def refusal(self, comparison: Comparison) -> str | None:
        """Needs enough training cases."""
        cases = len(np.unique(comparison.reference.case_numbers()))
        few = f"needs at least {FEWEST_CASES} training cases to calibrate (found {cases})"
        return super().refusal(comparison) or (few if cases < FEWEST_CASES else None)

    def __call__(self, comparison: Comparison) -> Result:
        found = comparison.cached(copies_in_pixels)
        count, alarms = len(found.alarms), int(found.alarms.sum())
        adjusted = (alarms + 2) / (count + 4)  # none among few does not prove none (Agresti & Coull 1998)
        error = 100 * math.sqrt(adjusted * (1 - adjusted) / (count + 4))
        details = {
            "expected": 100 * ALARMS,
            "threshold": found.threshold,
            "nearest generated": float(found.generated.nearness.mean()),
            "nearest real": float(found.real.nearness.mean()),
        }
        return Result(100 * alarms / count, error, details)
