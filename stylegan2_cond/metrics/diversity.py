"""How different generated patches are from each other, relative to real ones: mode collapse as a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

GROUPS = 10
MOST = 4000  # patches of each side; the matrix of distances grows with the square


@dataclass(frozen=True)
class Distances:
    """Distances among the patches of one side.

    Attributes:
        matrix: `[N, N]`, of the features; infinite between patches of one case, which are not independent.
        chosen: `[N]`, indices of the patches.
    """

    matrix: torch.Tensor
    chosen: np.ndarray


def mean_distance(distances: torch.Tensor, pairs: torch.Tensor | None = None) -> float:
    """Mean of the finite distances, or of those among `pairs`; NaN without any."""
    allowed = distances.isfinite() if pairs is None else distances.isfinite() & pairs
    return float(distances[allowed].mean())


def mean_nearest(distances: torch.Tensor) -> float:
    """Mean distance of each patch to its nearest neighbour."""
    nearest = distances.min(dim=1).values
    return float(nearest[nearest.isfinite()].mean())


class _Diversity(Metric):
    better = "one"

    def figure(self, distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        raise NotImplementedError

    def __call__(self, comparison: Comparison) -> Result:
        sides = comparison.cached(_distances)
        combinations = comparison.cached(_combinations)

        def ratio(*keep: np.ndarray) -> np.ndarray:
            figures = []
            for side, combination, kept in zip(sides, combinations, keep, strict=True):
                rows = torch.from_numpy(kept[side.chosen])
                own = None if combination is None else combination[torch.from_numpy(side.chosen)][rows]
                figures.append(self.figure(side.matrix[rows][:, rows], own))
            return np.array([figures[1] / figures[0] if figures[0] else math.nan, *figures])

        values, errors = jackknife(ratio, *comparison.jackknife_groups(GROUPS))
        return Result(float(values[0]), float(errors[0]), {"real": float(values[1]), "generated": float(values[2])})


def _distances(comparison: Comparison) -> list[Distances]:
    found = []
    for features, samples in zip(comparison.features, (comparison.real, comparison.generated), strict=True):
        chosen = np.sort(comparison.rng(5).permutation(len(features))[:MOST])
        matrix = torch.cdist(features[chosen], features[chosen])
        case = torch.from_numpy(samples.case_numbers()[chosen])
        found.append(Distances(matrix.masked_fill(case.unsqueeze(0) == case.unsqueeze(1), torch.inf), chosen))
    return found


def _combinations(comparison: Comparison) -> list[torch.Tensor | None]:
    """`[N]` of each side: the number of the combination of classes that each patch shows; None without masks."""
    if comparison.real.label is None or comparison.generated.label is None:
        return [None, None]
    shown = []
    for samples in (comparison.real, comparison.generated):
        flat = samples.label.reshape(len(samples), -1)
        shows = [(flat == label).any(axis=1) for label in comparison.labels]
        shown.append(np.stack([np.ones(len(flat), bool), *shows]))
    numbers = np.unique(np.concatenate(shown, axis=1), axis=1, return_inverse=True)[1].reshape(-1)
    return list(torch.from_numpy(numbers).split([len(comparison.real), len(comparison.generated)]))


@register
class Diversity(_Diversity):
    """Mean distance of two generated patches, over that of two real ones of different cases; 0 is collapse."""

    name = "diversity"
    title = "diversity"
    default = False

    def figure(self, distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Mean distance."""
        return mean_distance(distances)


@register
class DiversityWithin(_Diversity):
    """The same among patches that show the same classes; below 1 where conditions determine too much."""

    name = "diversity-within"
    title = "diversity within classes"
    needs = ("label",)

    def figure(self, distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Mean distance within combinations."""
        return mean_distance(distances, combination.unsqueeze(0) == combination.unsqueeze(1))


@register
class DiversityNearest(_Diversity):
    """Mean distance of a patch to its nearest neighbour, over the same among real ones; near 0 for repeated samples."""

    name = "diversity-nearest"
    title = "diversity, nearest"

    def figure(self, distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Mean distance to the nearest neighbour."""
        return mean_nearest(distances)
