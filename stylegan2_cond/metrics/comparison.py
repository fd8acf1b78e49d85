"""Real patches against drawn ones: what the metrics share, so that each is computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.features import Features, RandomPyramid
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.jackknife import make_groups

T = TypeVar("T")

SMALLEST_SPREAD = 0.01  # of a feature, as a share of the typical one; below, it is as good as constant


class Comparison:
    """Two sets of patches, and everything that several metrics want of them.

    Args:
        real: patches that the drawn ones should look like.
        drawn: patches to judge.
        features: of images.
        nnunet: trained on real cases of the fold, for metrics that need its word.
        reference: patches among which copies are looked for; `real`, when None.
        conditions: what the vectors mean that patches were asked for, and how they are measured.
        seed: of the groups that standard errors leave out, and of whatever a metric draws.
        keep: folder for what depends on real patches alone, to be computed once; nothing is kept, when None.
    """

    def __init__(
        self,
        real: SampleSet,
        drawn: SampleSet,
        *,
        features: Features,
        nnunet: NnUNet | None = None,
        reference: SampleSet | None = None,
        conditions: Conditions | None = None,
        seed: int = 0,
        keep: Path | None = None,
    ):
        self.real, self.drawn = real, drawn
        self.reference = real if reference is None else reference
        self.extractor = features
        self.nnunet = nnunet
        self.conditions = conditions
        self.seed = seed
        self.keep = keep
        self._kept: dict[Callable, object] = {}

    def once(self, compute: Callable[[Comparison], T]) -> T:
        """What `compute` makes of this comparison, computed the first time only."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        return self._kept[compute]

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A stream of its own for each purpose."""
        return np.random.default_rng([self.seed, purpose])

    def groups(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`[N]` and `[M]`: the patches' groups of the jackknife; as many on both sides, at most `count`."""
        rng, members = self.rng(1), [self.real.case_numbers(), self.drawn.case_numbers()]
        count = min(count, *(len(np.unique(side)) for side in members))
        return make_groups(members[0], rng, count), make_groups(members[1], rng, count)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The foreground labels that any patch shows."""
        shown = np.union1d(np.unique(self.real.label), np.unique(self.drawn.label))
        return tuple(int(label) for label in shown if label > 0)

    @cached_property
    def features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, F]` and `[M, F]`: vectors of the real and the drawn images."""
        return self.vectors(self.extractor)

    @cached_property
    def pair_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, F]` and `[M, F]`: vectors of images and masks together."""
        return self.vectors(RandomPyramid(labels=self.labels))

    def vectors(self, extractor: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of both sides, scaled by the real side's mean and standard deviation where the extractor wants it."""
        real, drawn = extractor(self.real), extractor(self.drawn)
        centre, scale = standardisation(real) if extractor.standardised else (0, 1)
        return (real - centre) / scale, (drawn - centre) / scale

    def look(self, samples: SampleSet) -> torch.Tensor:
        """`[K, F]`: vectors of further images, scaled like `features`."""
        vectors = self.extractor(samples)
        if not self.extractor.standardised:
            return vectors
        centre, scale = standardisation(self.extractor(self.real))
        return (vectors - centre) / scale


def standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per feature, mean and standard deviation; features that are as good as constant keep the smallest scale."""
    scale = features.std(dim=0)
    return features.mean(dim=0), scale.clamp_min(SMALLEST_SPREAD * scale.square().mean().sqrt()).clamp_min(1e-12)
