"""Real patches against drawn ones: what the metrics share, so that each is computed once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import RANGE_QUANTILES
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import Features, RandomPyramid, Setting, build_features
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.jackknife import make_groups
from stylegan2_cond.metrics.registry import METRICS, Result, default_metrics
from stylegan2_cond.metrics.sample_set import Samples, as_samples, check_alike

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
        real: Samples,
        drawn: Samples,
        *,
        features: Features,
        nnunet: NnUNet | None = None,
        reference: Samples | None = None,
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
        rng, members = self.rng(1), [self.real.groups(), self.drawn.groups()]
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

    def look(self, samples: Samples) -> torch.Tensor:
        """`[K, F]`: vectors of further images, scaled like `features`."""
        vectors = self.extractor(samples)
        if not self.extractor.standardised:
            return vectors
        centre, scale = standardisation(self.extractor(self.real))
        return (vectors - centre) / scale


def compare(
    real: object,
    drawn: object,
    metrics: Sequence[str] | None = None,
    features: str | Features | None = None,
    seed: int = 0,
    *,
    nnunet: NnUNet | None = None,
    reference: object | None = None,
    conditions: Conditions | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Result]:
    """Judge drawn patches by real ones.

    Args:
        real, drawn: patches, in any form that `as_samples` takes.
        metrics: names of the registry; all the default ones that this input allows, when None.
        features: of images, an extractor or the name of one; what `nnunet` sees when there is one, else a random
            pyramid, when None.
        seed: of all randomness.
        nnunet: trained on the real cases.
        reference: patches among which copies are looked for, perhaps with a margin; `real`, when None.
        conditions: of the generator, where the drawn patches know what they were asked for.
        progress: is told the name of each metric before it is computed.

    Returns:
        A result for each metric, by name.

    Raises:
        UserError: patches that can't be compared, an unknown metric, or one that was asked for and that this input
            does not allow.
    """
    real, drawn = as_samples(real, "real patches"), as_samples(drawn, "drawn patches")
    reference = real if reference is None else as_samples(reference, "reference patches")
    if reference.case is None and np.array_equal(reference.image, real.image):
        reference = real  # and so each real patch knows which one it is itself
    check_alike(real, drawn, "drawn")
    check_alike(real, reference, "reference", larger=True)
    if not isinstance(features, Features):
        features = build_features(features, Setting(*_robust_range(real), nnunet=nnunet))
    comparison = Comparison(
        real, drawn, features=features, nnunet=nnunet, reference=reference, conditions=conditions, seed=seed
    )
    chosen = default_metrics() if metrics is None else check_names(metrics)
    refused = refusals(comparison, chosen)
    if metrics is not None and refused:
        raise UserError("; ".join(f"{name} {reason}" for name, reason in refused.items()) + ".")
    return judge(comparison, [name for name in chosen if name not in refused], progress)


def judge(
    comparison: Comparison, names: Sequence[str], progress: Callable[[str], None] = lambda name: None
) -> dict[str, Result]:
    """The results of metrics that the comparison allows."""
    results = {}
    for name in names:
        progress(name)
        results[name] = METRICS[name](comparison)
    return results


def refusals(comparison: Comparison, names: Sequence[str]) -> dict[str, str]:
    """Why the comparison can't have some of these metrics, by name."""
    reasons = {name: METRICS[name].refusal(comparison) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, in the order of the table.

    Raises:
        UserError: one of them is unknown.
    """
    for name in names:
        if name not in METRICS:
            nearest = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.4)
            hint = f"Did you mean {nearest[0]}? " if nearest else ""
            raise UserError(f"There is no metric '{name}'. {hint}There are: {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in names)


def standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per feature, mean and standard deviation; features that are as good as constant keep the smallest scale."""
    scale = features.std(dim=0)
    return features.mean(dim=0), scale.clamp_min(SMALLEST_SPREAD * scale.square().mean().sqrt()).clamp_min(1e-12)


def _robust_range(samples: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, the intensities that nearly all voxels lie between."""
    channels = np.moveaxis(samples.image, 1, 0).reshape(samples.channels, -1)
    low, high = np.quantile(channels, RANGE_QUANTILES, axis=1)
    return tuple(low.tolist()), tuple(high.tolist())
