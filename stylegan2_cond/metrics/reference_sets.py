"""The real patches that samples are compared with: the same ones for training, `evaluate`, filters and inspection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case, Preprocessed
from stylegan2_cond.data.patch_sampler import PatchBatch, PatchSampler, cover, covering_places
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.ncc import RIM
from stylegan2_cond.planning import Plan, open_patches, open_scans, run_folder
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.random_streams import RandomStream

COVER_BYTES = 2**30  # of the images of the cover; where they take more, only every n-th patch is kept


@dataclass(frozen=True)
class Cover:
    """Patches that cover the training cases, with a margin, among which copies are searched for.

    Attributes:
        patches: `[M, C, *size]`, in the order of the cases.
        corners: `[M, 3]`, the lower corner of each patch, without its margin, in voxels of the (averaged) case.
        thinned: every n-th patch is kept; 1 where all are.
    """

    patches: SampleSet
    corners: np.ndarray
    thinned: int


def cache_folder(plan: Plan) -> Path:
    """Folder in the generator's run for results that depend on its real patches alone."""
    return run_folder(plan.source, plan.variant) / "evaluation"


class ReferenceSet:
    """Real patches of a fold; each part is cut when it is first used, and is the same every time.

    Args:
        preprocessed: the folder with the cases.
        plan: of the generator whose samples are compared; patches are sampled as its training samples them.
        count: number of patches of `real`, `again` and `held_out`.
        held_out_cases: names of cases that the generator did not see.
        factors: blocks of so many voxels along each axis are averaged in the patches of the cover.
        cover_bytes: limit of the cover's images.
    """

    def __init__(
        self,
        preprocessed: Preprocessed,
        plan: Plan,
        count: int,
        *,
        held_out_cases: Sequence[str] = (),
        factors: Sequence[int] | None = None,
        cover_bytes: int = COVER_BYTES,
    ):
        self.preprocessed = preprocessed
        self.plan = plan
        self.count = count
        self.held_out_cases = held_out_cases
        self.factors = tuple(factors or (1,) * len(plan.patch_size))
        self.cover_bytes = cover_bytes

    @cached_property
    def real(self) -> SampleSet:
        """Patches of the training cases."""
        return self._sample(open_patches(self.preprocessed, self.plan, RandomStream.REAL))

    @cached_property
    def again(self) -> SampleSet:
        """Further patches of the training cases: compared with `real`, they show what a perfect generator reaches."""
        return self._sample(open_patches(self.preprocessed, self.plan, RandomStream.REAL_AGAIN))

    @cached_property
    def held_out(self) -> SampleSet | None:
        """Patches of the held-out cases; None where there are none."""
        if not self.held_out_cases:
            return None
        share, seed = self.plan.foreground_share, RandomStream.HELD_OUT
        size = self.plan.patch_size
        return self._sample(
            PatchSampler(self.preprocessed, self.held_out_cases, size, foreground_share=share, seed=seed)
        )

    def cases(self) -> list[Case]:
        """The training cases, opened, and then the scans that the generator learnt from."""
        scans = open_scans(self.preprocessed, self.plan)
        labelled = [self.preprocessed.load(name) for name in self.plan.source.training_cases]
        return labelled + ([scans.load(name) for name in scans.names] if scans else [])

    @cached_property
    def cover(self) -> Cover:
        """All patches of the training cases; for a mask generator, `real`, since masks are not searched for copies."""
        if self.plan.variant == "mask":
            return Cover(self.real, np.zeros((self.count, 3), int), 1)
        size = [length // factor for length, factor in zip(self.plan.patch_size, self.factors, strict=True)]
        cases = self.cases()
        corners = [covering_places(np.array(case.image.shape[1:]) // self._fitting(case), size, RIM) for case in cases]
        each = 4 * self.plan.codec.image_channels * math.prod(length + 2 * RIM for length in size)
        thinned = -(-sum(map(len, corners)) * each // self.cover_bytes)
        found = PatchBatch.stack(
            [
                patch
                for case in ProgressBar(cases, desc="Reading the training cases", unit="case", leave=False, delay=2)
                for patch in cover(self._averaged(case), size, reach=RIM, margin=RIM, every=thinned)
            ]
        )
        label = None if max(self.factors) > 1 else _without_ignored(found.label, self.plan)
        return Cover(
            SampleSet(found.image, label, found.case),
            np.concatenate([places[::thinned] for places in corners]),
            thinned,
        )

    def _sample(self, sampler: PatchSampler) -> SampleSet:
        """Patches with the conditions measured on them."""
        plan, found = self.plan, sampler.batch(0, self.count)
        condition = plan.conditions.measure(torch.from_numpy(found.label), torch.from_numpy(found.position)).numpy()
        return with_mask_images(
            SampleSet(found.image, _without_ignored(found.label, plan), found.case, condition), plan
        )

    def _averaged(self, case: Case) -> Case:
        """The case at the cover's resolution; without its label, unless that is the full one."""
        if max(factors := self._fitting(case)) == 1:
            return case
        image = average_blocks(case.image[:][None], factors)[0]
        return Case(case.name, image, np.zeros((1, *image.shape[1:]), np.int16), {}, case.labelled)

    def _fitting(self, case: Case) -> np.ndarray:
        """The factors along the case's three axes, none larger than the case."""
        return np.minimum((1,) * (3 - len(self.factors)) + self.factors, case.image.shape[1:])


def with_mask_images(samples: SampleSet, plan: Plan) -> SampleSet:
    """Patches as they are compared: those of a mask generator have their masks as images, one channel per class.

    The background has no channel.
    """
    if plan.variant != "mask":
        return samples
    labels = [label for label in plan.codec.labels if label != 0] or plan.codec.labels
    one_hot = np.stack([samples.label == label for label in labels], axis=1).astype(np.float32)
    return SampleSet(one_hot, samples.label, samples.case, samples.condition)


def block_factors(patch_size: Sequence[int], voxels: int) -> tuple[int, ...]:
    """Whole factors, one for each axis, that bring a patch down to at most `voxels`; the longest axis shrinks first."""
    factors = [1] * len(patch_size)
    while math.prod(sizes := [length // factor for length, factor in zip(patch_size, factors, strict=True)]) > voxels:
        factors[int(np.argmax(sizes))] += 1
    return tuple(factors)


def average_blocks(image: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of `factors` voxels; an incomplete block at the end of an axis is left out.

    image: `[N, C, *spatial]` → the same, each axis shorter by its factor.
    """
    if max(factors) == 1:
        return image
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(factors)]
    image = torch.from_numpy(np.ascontiguousarray(image, np.float32))
    return pool(image, [int(factor) for factor in factors]).numpy()


def _without_ignored(label: np.ndarray, plan: Plan) -> np.ndarray:
    """The ignore label replaced by `OUTSIDE`, since no sample has it."""
    return label if plan.codec.ignore is None else np.where(label == plan.codec.ignore, OUTSIDE, label).astype(np.int16)
