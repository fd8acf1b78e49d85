"""Copies of training cases: drawn patches that are nearer to one case than real patches of other cases ever are.

A smooth, typical patch is near to every case, and a copy only to one. So what is looked at is not how near the nearest
training case is, but how much nearer than the next ones (after Yoon et al. 2023, Diffusion Probabilistic Models
Generalize when They Fail to Memorize, who compare with the second nearest). What is usual is learnt from real patches,
each of them among the cases that are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import content_key
from stylegan2_cond.metrics.ncc import CANDIDATES, QUERIES, best_of_cases, nearest_cases
from stylegan2_cond.metrics.registry import Metric, Result, register

# Share of real patches beyond the threshold: half of the 1 % that is allowed on cases never seen, since the threshold
# itself is an estimate.
ALARMS = 0.005
FEWEST_CASES = CANDIDATES + 1  # a real patch must not be compared with its own
CORRELATION = "correlation"  # name under which what is usual is kept
SMALLEST = 1e-4  # distance, so that exact copies have a finite score


@dataclass(frozen=True)
class Nearest:
    """What the training cases are to some patches.

    Attributes:
        score: `[N]`, log of the ratio between the distance to the nearest case and the mean distance to the next ones;
            the lower, the more like a copy.
        nearness: `[N]`, the largest normalised cross-correlation with any training patch, or minus the distance.
        index: `[N]`, of that training patch.
    """

    score: np.ndarray
    nearness: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class CopySearch:
    """Drawn patches among the training cases, and real ones among the cases of others.

    Attributes:
        threshold: scores below it are alarms.
        drawn, real: what was found.
    """

    threshold: float
    drawn: Nearest
    real: Nearest

    @property
    def alarms(self) -> np.ndarray:
        """`[N]` booleans: which drawn patches are taken for copies."""
        return self.drawn.score < self.threshold

    def worst(self, count: int) -> np.ndarray:
        """Numbers of the drawn patches that are most like copies."""
        return np.argsort(self.drawn.score)[:count]


Find = Callable[[SampleSet, "np.ndarray | None"], Nearest]


def search_copies(comparison: Comparison, find: Find, reference: SampleSet, name: str) -> CopySearch:
    """Learn from real patches what nearness is usual, and look at the drawn ones.

    Args:
        comparison: its real patches are each compared with the cases that are not their own; so are drawn ones that
            come from training cases, as in a comparison of real with real.
        find: what the reference's cases are to some patches, leaving out one case for each of them (-1: none).
        reference: all training patches.
        name: of the search, under which the usual nearness is kept.
    """
    real, drawn = comparison.real, comparison.drawn
    usual = usual_nearness(find, real, reference, name, comparison.keep)
    return CopySearch(float(np.quantile(usual.score, ALARMS)), find(drawn, own_cases(reference, drawn)), usual)


def usual_nearness(find: Find, real: SampleSet, reference: SampleSet, name: str, keep: Path | None) -> Nearest:
    """What other cases of the reference are to real patches; from the folder `keep` where it was found before.

    Args:
        find: as for `search_copies`.
        real: patches of cases.
        reference: all training patches.
        name: of the search.
        keep: None where nothing is to be kept.
    """
    path = keep and keep / f"nearest_{content_key(real, name, content_key(reference))}.npz"
    if path and path.exists():
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(path, allow_pickle=False) as arrays:
            return Nearest(arrays["score"], arrays["nearness"], arrays["index"])
    found = find(real, own_cases(reference, real))
    if path:
        with suppress(UserError, OSError), write_atomically(path) as temporary, temporary.open("wb") as file:
            np.savez(file, score=found.score, nearness=found.nearness, index=found.index)
    return found


def own_cases(reference: SampleSet, samples: SampleSet) -> np.ndarray:
    """`[N]`: the numbers that the samples' cases have among the reference's; -1 for such as are not there."""
    if reference.case is None or samples.case is None:
        return np.arange(len(samples)) if samples is reference else np.full(len(samples), -1)
    names = np.unique(reference.case)
    places = np.searchsorted(names, samples.case).clip(0, len(names) - 1)
    return np.where(names[places] == samples.case, places, -1)


def by_correlation(reference: SampleSet, progress: Callable[[int], object] = lambda count: None) -> Find:
    """Nearness in pixels: the largest normalised cross-correlation over small shifts.

    `progress` is told how many patches were looked up, every so often.
    """
    order, cases = _by_case(reference)
    in_order = np.array_equal(order, np.arange(len(order)))  # no second copy of what may be a GiB
    sorted_reference = torch.from_numpy(reference.image if in_order else reference.image[order])

    def find(samples: SampleSet, own: np.ndarray | None) -> Nearest:
        correlation, index = nearest_cases(
            torch.from_numpy(samples.image), sorted_reference, cases, own, progress=progress
        )
        return _nearest(1 - correlation.double(), correlation[:, 0], order[index[:, 0].numpy()])

    return find


def by_features(
    reference: SampleSet, reference_features: torch.Tensor, features: Callable[[SampleSet], torch.Tensor]
) -> Find:
    """Nearness of the images' features: shifts and small bends hardly change them."""
    order, cases = _by_case(reference)
    starts = np.flatnonzero(np.diff(cases, prepend=-1))
    sorted_reference = reference_features[order]

    def find(samples: SampleSet, own: np.ndarray | None) -> Nearest:
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

    return find


def _by_case(reference: SampleSet) -> tuple[np.ndarray, np.ndarray]:
    """The order in which patches of a case stand together, and their cases' numbers in that order."""
    groups = reference.case_numbers()
    order = np.argsort(groups, kind="stable")
    return order, groups[order]


def _nearest(distances: torch.Tensor, nearness: torch.Tensor, index: np.ndarray) -> Nearest:
    """distances: `[N, cases]`, nearest case first."""
    distances = distances.double().clamp_min(SMALLEST)
    score = (distances[:, 0] / distances[:, 1:].mean(dim=1)).log()
    return Nearest(score.numpy(), nearness.float().numpy(), index)


def copies_of(comparison: Comparison) -> CopySearch:
    """The search by correlation; what the metric and the picture of a comparison are made of."""
    reference = comparison.reference
    return search_copies(comparison, by_correlation(reference), reference, CORRELATION)


def copies_in_features(comparison: Comparison) -> CopySearch:
    """The search by features."""
    reference = comparison.reference.cropped(comparison.real.patch_size)
    find = by_features(reference, comparison.look(reference), comparison.look)
    return search_copies(comparison, find, reference, comparison.extractor.identity())


class _Copies(Metric):
    least = 20

    def refusal(self, comparison: Comparison) -> str | None:
        cases = len(np.unique(comparison.reference.case_numbers()))
        few = f"needs {FEWEST_CASES} cases to know what is usual, there are {cases}" if cases < FEWEST_CASES else None
        return super().refusal(comparison) or few

    def search(self, comparison: Comparison) -> CopySearch:
        raise NotImplementedError

    def __call__(self, comparison: Comparison) -> Result:
        found = self.search(comparison)
        count, alarms = len(found.alarms), int(found.alarms.sum())
        adjusted = (alarms + 2) / (count + 4)  # none among few is no proof of none (Agresti & Coull 1998)
        error = 100 * math.sqrt(adjusted * (1 - adjusted) / (count + 4))
        details = {
            "expected": 100 * ALARMS,
            "threshold": found.threshold,
            "nearest drawn": float(found.drawn.nearness.mean()),
            "nearest real": float(found.real.nearness.mean()),
        }
        return Result(100 * alarms / count, error, details)


@register
class Copies(_Copies):
    """Share of drawn patches that are copies of a training patch in pixels; about 0.5 % by chance."""

    name = "copies"
    title = "copies, %"

    def search(self, comparison: Comparison) -> CopySearch:
        return comparison.once(copies_of)


@register
class FeatureCopies(_Copies):
    """The same in features, which forgive bends, and raise more false alarms."""

    name = "copies-features"
    title = "copies in features, %"
    default = False

    def search(self, comparison: Comparison) -> CopySearch:
        return comparison.once(copies_in_features)
