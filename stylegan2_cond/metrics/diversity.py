"""How different generated patches are from each other, relative to real ones: mode collapse as a number."""

from __future__ import annotations

import math

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register
from stylegan2_cond.random_streams import MetricStream

GROUPS = 10
MOST = 4000  # patches of each side; the matrix of distances grows with the square


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


class _Diversity(Metric):
    better = "one"

    @staticmethod
    def mean_distance(distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Of a set of patches; NaN where no two can be compared.

        distances: `[n, n]`, infinite for pairs that do not count; combination: `[n]`, the classes that each shows.
        """
        raise NotImplementedError

    def __call__(self, comparison: Comparison) -> Result:
        sides = comparison.cached(_sides)

        def ratio(*keep: np.ndarray) -> np.ndarray:
            figures = []
            for (chosen, distances, combination), kept in zip(sides, keep, strict=True):
                rows = torch.from_numpy(kept[chosen])
                classes = None if combination is None else combination[rows]
                figures.append(self.mean_distance(distances[rows][:, rows], classes))
            return np.array([figures[1] / figures[0] if figures[0] else math.nan, *figures])

        values, errors = jackknife(ratio, *comparison.jackknife_groups(GROUPS))
        return Result(float(values[0]), float(errors[0]), {"real": float(values[1]), "generated": float(values[2])})


@register
class DiversityWithin(_Diversity):
    """Mean distance of two generated patches that show the same classes, over that of two real ones of different cases.

    0 is collapse; below 1, conditions determine too much.
    """

    name = "diversity-within"
    title = "diversity within classes"
    needs = ("label",)

    @staticmethod
    def mean_distance(distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Of two patches that show the same classes."""
        return float(distances[distances.isfinite() & (combination.unsqueeze(0) == combination.unsqueeze(1))].mean())


@register
class DiversityNearest(_Diversity):
    """Mean distance of a patch to its nearest neighbour, over the same among real ones; near 0 for repeated samples."""

    name = "diversity-nearest"
    title = "diversity, nearest"

    @staticmethod
    def mean_distance(distances: torch.Tensor, combination: torch.Tensor | None) -> float:
        """Of a patch to its nearest neighbour."""
        nearest = distances.min(dim=1).values
        return float(nearest[nearest.isfinite()].mean())
