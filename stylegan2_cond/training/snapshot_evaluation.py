"""Evaluation of each snapshot during training: fixed latents, compared with the training cases alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics import METRICS, Result
from stylegan2_cond.metrics.compare import allowed_metrics, compute_metrics
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import RandomPyramid
from stylegan2_cond.metrics.reference_sets import (
    ReferenceSet,
    average_blocks,
    block_factors,
    cache_folder,
    with_mask_images,
)
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot import MaskSource, PairGenerator

SNAPSHOT_METRICS = (
    "kid",
    "kid-pair",
    "precision",
    "coverage",
    "swd",
    "masks",
    "conditions",
    "diversity-within",
    "diversity-nearest",
    "copies",
)
OF_GENERATED_MASKS = ("masks", "conditions")  # not computed for a generator with given masks
# By the number of axes. A snapshot of Hippocampus takes about 8 s on one core in 2-D (44×33), and 20 s in 3-D
# (28×44×33); the first one, for which the training cases are read, 15 s more.
SAMPLES = {2: 700, 3: 100}
COPY_SAMPLES = {2: 200, 3: 50}  # the first samples, which are searched for copies; each costs as much as 5 others
SET_BYTES = 2**28  # of all generated images together
FEWEST_SAMPLES = 24
COPY_VOXELS = 6000  # of patches that are searched for copies; larger ones are averaged over blocks
COVER_BYTES = 2**28  # of those patches together, next to all that training holds


class SnapshotEvaluator:
    """Evaluates the snapshots of one training with metrics of `evaluate`, on fewer samples.

    Image features are always those of random filters, so that a curve does not change when an nnU-Net was trained.
    Copies are searched for among the first few samples, and at a lower resolution if patches are large.

    Args:
        preprocessed: dataset with the training cases; they are read when the first snapshot is evaluated.
        plan: of the generator.
        samples: number of samples, and of real patches to compare them with; depends on the patch size if None.
    """

    def __init__(self, preprocessed: Preprocessed, plan: Plan, *, samples: int | None = None):
        self.preprocessed = preprocessed
        self.plan = plan
        channels = len(plan.codec.labels) if plan.variant == "mask" else plan.codec.image_channels
        affordable = SET_BYTES // (4 * channels * math.prod(plan.patch_size))
        self.samples = samples or max(FEWEST_SAMPLES, min(SAMPLES[len(plan.patch_size)], affordable))
        self.reference = ReferenceSet(
            preprocessed,
            plan,
            self.samples,
            factors=block_factors(plan.patch_size, COPY_VOXELS),
            cover_bytes=COVER_BYTES,
        )
        self._real_features: dict[str, torch.Tensor] = {}

    def evaluate(self, generator: PairGenerator, masks: MaskSource | None = None) -> dict[str, Result]:
        """Results by metric, always with the same latents; metrics that the data do not allow are left out."""
        generated = generator.sample(self.samples, seed=self.plan.seed, masks=masks)
        if not np.isfinite(generated.image).all():
            return {}
        names = self._metric_names()
        with np.errstate(over="ignore", invalid="ignore"):  # for samples that are far off
            results = _compute(self._comparison(generated), [name for name in names if name != "copies"])
            if "copies" in names:
                results |= self._copies(generated)
        return results

    @cached_property
    def real(self) -> dict[str, Result]:
        """Results of other patches of the training cases, which a perfect generator would reach; without copies."""
        names = [name for name in self._metric_names() if name != "copies"]
        return _compute(self._comparison(self.reference.again), names)

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The foreground labels that the real patches show."""
        return tuple(int(label) for label in np.unique(self.reference.real.label) if label > 0)

    def _metric_names(self) -> list[str]:
        of_images = tuple(name for name in SNAPSHOT_METRICS if name in METRICS and "image" in METRICS[name].needs)
        skipped = {"mask": of_images, "image": OF_GENERATED_MASKS}.get(self.plan.variant, ())
        skipped += () if self.labels else ("kid-pair",)  # it would equal the KID of images
        return [name for name in SNAPSHOT_METRICS if name in METRICS and name not in skipped]

    def _comparison(self, generated: SampleSet) -> Comparison:
        comparison = Comparison(
            self.reference.real,
            with_mask_images(generated, self.plan),
            features=RandomPyramid(),
            conditions=self.plan.conditions,
            real_features=self._real_features,
        )
        comparison.labels = self.labels  # whatever labels this snapshot generates
        return comparison

    def _copies(self, generated: SampleSet) -> dict[str, Result]:
        real, reference = self._averaged(self.reference.real), self.reference.cover.patches
        few = generated.take(slice(COPY_SAMPLES[len(self.plan.patch_size)]))
        comparison = Comparison(
            real,
            self._averaged(few),
            features=RandomPyramid(),
            reference=reference,
            cache_folder=cache_folder(self.plan),
        )
        # The limit is the extreme of n real patches, few in volumes; about 1 / (n + 1) of unseen patches exceed it.
        # 13 % did with 8 and 20 Hippocampus volumes.
        unsure = 100 / (min(len(real), len(reference)) + 1)
        return {
            name: replace(result, standard_error=math.hypot(result.standard_error, unsure))
            for name, result in _compute(comparison, ["copies"]).items()
        }

    def _averaged(self, samples: SampleSet) -> SampleSet:
        """Images alone, at the resolution at which copies are searched for."""
        return SampleSet(average_blocks(samples.image, self.reference.factors), None, samples.case)


def _compute(comparison: Comparison, names: Sequence[str]) -> dict[str, Result]:
    """Finite results of the metrics that the comparison allows."""
    results = compute_metrics(comparison, allowed_metrics(comparison, names)[0])
    return {name: result for name, result in results.items() if math.isfinite(result.value)}
