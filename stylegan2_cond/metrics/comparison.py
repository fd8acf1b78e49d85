"""Real patches and generated ones, and what several metrics need of them, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.features import FeatureExtractor, RandomPyramid
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.jackknife import make_groups
from stylegan2_cond.random_streams import MetricStream

T = TypeVar("T")

SMALLEST_SPREAD = 0.01  # of a feature, as a fraction of the typical one; below, it counts as constant


class Comparison:
    """What a metric is computed from.

    Args:
        real: patches that the generated ones should resemble.
        generated: patches to evaluate.
        features: extractor of image features.
        nnunet: trained on the real cases of the fold, for metrics that need its segmentation.
        reference: patches in which copies are searched for; `real`, when None.
        conditions: what condition vectors mean, and how they are measured.
        seed: of the jackknife groups and of whatever a metric samples.
        cache_folder: for results that depend on real patches alone; nothing is cached, when None.
        real_features: of earlier comparisons with the same real patches, by the extractor's identity; more are added.
    """

    def __init__(
        self,
        real: SampleSet,
        generated: SampleSet,
        *,
        features: FeatureExtractor,
        nnunet: NnUNet | None = None,
        reference: SampleSet | None = None,
        conditions: Conditions | None = None,
        seed: int = 0,
        cache_folder: Path | None = None,
        real_features: dict[str, torch.Tensor] | None = None,
    ):
        self.real, self.generated = real, generated
        self.reference = real if reference is None else reference
        self.extractor = features
        self.nnunet = nnunet
        self.conditions = conditions
        self.seed = seed
        self.cache_folder = cache_folder
        self.real_features = {} if real_features is None else real_features
        self._cache: dict[Callable, object] = {}

    def cached(self, compute: Callable[[Comparison], T]) -> T:
        """`compute(self)`, computed the first time only."""
        if compute not in self._cache:
            self._cache[compute] = compute(self)
        return self._cache[compute]

    def rng(self, stream: MetricStream) -> np.random.Generator:
        """The start of a random stream."""
        return np.random.default_rng([self.seed, stream])

    def jackknife_groups(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`[N]` and `[M]` group numbers of real and generated patches: as many on both sides, at most `count`."""
        rng, members = self.rng(MetricStream.JACKKNIFE), [self.real.case_numbers(), self.generated.case_numbers()]
        count = min(count, *(len(np.unique(side)) for side in members))
        return make_groups(members[0], rng, count), make_groups(members[1], rng, count)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The foreground labels that any patch shows."""
        shown = np.union1d(np.unique(self.real.label), np.unique(self.generated.label))
        return tuple(int(label) for label in shown if label > 0)

    @cached_property
    def features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, F]` and `[M, F]`: features of the real and the generated images."""
        return self.vectors(self.extractor)

    @cached_property
    def pair_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, F]` and `[M, F]`: features of images and masks together."""
        return self.vectors(RandomPyramid(labels=self.labels))

    def vectors(self, extractor: FeatureExtractor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of both sides; standardised by those of the real side, if the extractor says so."""
        key, generated = extractor.identity(), extractor(self.generated)
        if key not in self.real_features:
            self.real_features[key] = extractor(self.real)
        real = self.real_features[key]
        centre, scale = standardisation(real) if extractor.standardised else (0, 1)
        return (real - centre) / scale, (generated - centre) / scale


def standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature, the latter bounded below for nearly constant features."""
    scale = features.std(dim=0)
    return features.mean(dim=0), scale.clamp_min(SMALLEST_SPREAD * scale.square().mean().sqrt()).clamp_min(1e-12)
