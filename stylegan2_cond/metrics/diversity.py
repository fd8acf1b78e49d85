"""How different generated patches are from each other, relative to real ones: mode collapse as a number."""

from __future__ import annotations

import math

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison, MetricStream
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

GROUPS = 10
MOST = 4000  # patches of each side; the matrix of distances grows with the square


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
        sides = comparison.cached(_sides)

        def ratio(*keep: np.ndarray) -> np.ndarray:
            figures = []
            for (chosen, distances, combination), kept in zip(sides, keep, strict=True):
                rows = torch.from_numpy(kept[chosen])
                figures.append(
                    self.figure(distances[rows][:, rows], None if combination is None else combination[rows])
                )
            return np.array([figures[1] / figures[0] if figures[0] else math.nan, *figures])

        values, errors = jackknife(ratio, *comparison.jackknife_groups(GROUPS))
        return Result(float(values[0]), float(errors[0]), {"real": float(values[1]), "generated": float(values[2])})


def _sides(comparison: Comparison) -> list[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """Of each side, the indices of some patches, their distances, and a number for the classes that each shows.

    Distances `[n, n]` are infinite between patches of one case, which are not independent. Without masks, there are no
    numbers of classes.
    """
    sides = []
    for features, samples in zip(comparison.features, (comparison.real, comparison.generated), strict=True):
        chosen = np.sort(comparison.rng(MetricStream.DIVERSITY).permutation(len(features))[:MOST])
        distances = torch.cdist(features[chosen], features[chosen])
        case = torch.from_numpy(samples.case_numbers()[chosen])
        distances = distances.masked_fill(case.unsqueeze(0) == case.unsqueeze(1), torch.inf)
        combination = None
        if comparison.real.label is not None and comparison.generated.label is not None:
            flat = samples.label[chosen].reshape(len(chosen), -1)
            shown = [(flat == label).any(axis=1) for label in comparison.labels]
            shown = np.stack([np.ones(len(flat), bool), *shown])
            combination = torch.from_numpy(np.unique(shown, axis=1, return_inverse=True)[1].reshape(-1))
        sides.append((chosen, distances, combination))
    return sides


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
