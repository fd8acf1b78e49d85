"""The judgement of each snapshot while training goes on: fixed latents, and training cases alone to compare with."""

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
from stylegan2_cond.metrics.compare import compute_metrics, refusals
from stylegan2_cond.metrics.comparison import Comparison, standardisation
from stylegan2_cond.metrics.features import FeatureExtractor, RandomPyramid
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
OF_DRAWN_MASKS = ("masks", "conditions")  # not told of one that is given its masks
# By the number of axes. A snapshot of Hippocampus takes about 8 s on one core in 2-D (44×33), and 20 s in 3-D
# (28×44×33); the first one, for which the training cases are read, 15 s more.
SAMPLES = {2: 700, 3: 100}
COPY_SAMPLES = {2: 200, 3: 50}  # the first of them, that copies are looked for among; each costs as much as 5 others
SET_BYTES = 2**28  # of all generated images together
FEWEST = 24
COPY_VOXELS = 6000  # of the patches that copies are searched in; larger ones are averaged over blocks
COVER_BYTES = 2**28  # of those patches together, beside all that training holds


class SnapshotEvaluator:
    """Judges snapshots of one training by figures that `evaluate` shows too, of fewer samples.

    Image features are always those of random filters, so that a curve means the same before and after an nnU-Net was
    trained. Copies are looked for among the first few samples, and, where patches are large, in shrunken ones.

    Args:
        preprocessed: where the cases are; they are read when the first snapshot is judged.
        plan: of the generator.
        samples: to draw, and real patches to compare them with; by the patch, when None.
    """

    def __init__(self, preprocessed: Preprocessed, plan: Plan, *, samples: int | None = None):
        self.preprocessed = preprocessed
        self.plan = plan
        self.samples = samples or _affordable(plan)
        self.reference = ReferenceSet(
            preprocessed,
            plan,
            self.samples,
            factors=block_factors(plan.patch_size, COPY_VOXELS),
            cover_bytes=COVER_BYTES,
        )
        self._remembered: dict[str, torch.Tensor] = {}

    def judge(self, generator: PairGenerator, masks: MaskSource | None = None) -> dict[str, Result]:
        """Figures by the metric's name, always of the same latents; what the data do not allow is left out."""
        generated = generator.sample(self.samples, seed=self.plan.seed, masks=masks)
        if not np.isfinite(generated.image).all():
            return {}
        names = self._names()
        with np.errstate(over="ignore", invalid="ignore"):  # of samples that are far off
            results = _told(self._comparison(generated), [name for name in names if name != "copies"])
            if "copies" in names:
                results |= self._copies(generated)
        return {name: result for name, result in results.items() if math.isfinite(result.value)}

    @cached_property
    def real(self) -> dict[str, Result]:
        """What other patches of the training cases get: the best that a generator can hope for. Without copies."""
        results = _told(self._comparison(self.reference.again), [name for name in self._names() if name != "copies"])
        return {name: result for name, result in results.items() if math.isfinite(result.value)}

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The foreground labels that the real patches show."""
        return tuple(int(label) for label in np.unique(self.reference.real.label) if label > 0)

    def _names(self) -> list[str]:
        of_images = tuple(name for name in SNAPSHOT_METRICS if name in METRICS and "image" in METRICS[name].needs)
        silent = {"mask": of_images, "image": OF_DRAWN_MASKS}.get(self.plan.variant, ())
        silent += () if self.labels else ("kid-pair",)  # it would be the KID of images once more
        return [name for name in SNAPSHOT_METRICS if name in METRICS and name not in silent]

    def _comparison(self, generated: SampleSet) -> Comparison:
        generated = with_mask_images(generated, self.plan)
        return _SameRealSide(self.reference.real, generated, self.labels, self.plan, self._remembered)

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
        # What is usual is the extreme of the real patches: so many that lie apart, which are few in volumes, are
        # exceeded by a share of about 1 / (n + 1) of patches never seen. 13 % were, with 8 and 20 Hippocampus volumes.
        unsure = 100 / (min(len(real), len(reference)) + 1)
        return {
            name: replace(result, standard_error=math.hypot(result.standard_error, unsure))
            for name, result in _told(comparison, ["copies"]).items()
        }

    def _averaged(self, samples: SampleSet) -> SampleSet:
        """Images alone, at the resolution in which copies are searched for."""
        return SampleSet(average_blocks(samples.image, self.reference.factors), None, samples.case)


def _told(comparison: Comparison, names: Sequence[str]) -> dict[str, Result]:
    """The results of those metrics that the comparison allows."""
    return compute_metrics(comparison, [name for name in names if name not in refusals(comparison, names)])


class _SameRealSide(Comparison):
    """A comparison that looks at the real patches once in a training, and always minds the same labels."""

    def __init__(
        self,
        real: SampleSet,
        generated: SampleSet,
        labels: tuple[int, ...],
        plan: Plan,
        remembered: dict[str, torch.Tensor],
    ):
        super().__init__(real, generated, features=RandomPyramid(), conditions=plan.conditions)
        self.labels = labels
        self._remembered = remembered

    def vectors(self, extractor: FeatureExtractor) -> tuple[torch.Tensor, torch.Tensor]:
        """As every comparison has them, the real ones from memory."""
        key = extractor.identity()
        if key not in self._remembered:
            self._remembered[key] = extractor(self.real)
        real, generated = self._remembered[key], extractor(self.generated)
        centre, scale = standardisation(real)
        return (real - centre) / scale, (generated - centre) / scale


def _affordable(plan: Plan) -> int:
    channels = len(plan.codec.labels) if plan.variant == "mask" else plan.codec.image_channels
    size = 4 * channels * math.prod(plan.patch_size)
    return max(FEWEST, min(SAMPLES[len(plan.patch_size)], SET_BYTES // size))
