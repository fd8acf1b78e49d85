"""Patches of the training cases, and of no others, that the snapshots of a training are judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from stylegan2_cond.data.nnunet_dataset import Case, Preprocessed
from stylegan2_cond.data.patch_sampler import cover, covering_places
from stylegan2_cond.metrics.ncc import RIM
from stylegan2_cond.metrics.reference_sets import REAL, cut_patches
from stylegan2_cond.metrics.sample_set import Samples
from stylegan2_cond.planning import Plan

COPY_VOXELS = 6000  # of the patches that copies are looked for in; larger ones are shrunk
REFERENCE_BYTES = 2**28  # of training patches that copies are looked for in; more are thinned out


@dataclass(frozen=True)
class Yardstick:
    """Real patches.

    Attributes:
        real: drawn from the training cases as the generator's training draws them, and as `evaluate` does; of a mask
            generator, the masks stand in the image's place.
        labels: the foreground labels that they show.
        small: their images, shrunk so far that copies are found soon; None of a mask generator.
        reference: all patches of the training cases, shrunk alike, with a margin; None of a mask generator.
    """

    real: Samples
    labels: tuple[int, ...]
    small: Samples | None
    reference: Samples | None

    @classmethod
    def cut(cls, preprocessed: Preprocessed, plan: Plan, count: int) -> Yardstick:
        """Read the training cases and cut `count` patches, and the reference."""
        real = cut_patches(preprocessed, plan, plan.source.training_cases, count, REAL)
        labels = tuple(int(label) for label in np.unique(real.label) if label > 0)
        if plan.variant == "mask":
            return cls(real, labels, None, None)
        factors = shrinking(plan.patch_size)
        return cls(real, labels, shrunk(real, factors), _cut_reference(preprocessed, plan, factors))


def shrinking(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Whole factors, one an axis, by which a patch has at most `COPY_VOXELS`; the longest axis shrinks first."""
    factors = [1] * len(patch_size)
    while (
        math.prod(sizes := [length // factor for length, factor in zip(patch_size, factors, strict=True)]) > COPY_VOXELS
    ):
        factors[int(np.argmax(sizes))] += 1
    return tuple(factors)


def shrunk(samples: Samples, factors: Sequence[int]) -> Samples:
    """Images alone, averaged over blocks; an incomplete block at the end of an axis is left out."""
    if max(factors) == 1:
        return Samples(samples.image, None, samples.case)
    return Samples(_pooled(samples.image, factors), None, samples.case)


def _cut_reference(preprocessed: Preprocessed, plan: Plan, factors: Sequence[int]) -> Samples:
    cases = [preprocessed.load(name) for name in plan.source.training_cases]
    along = (1,) * (3 - len(factors)) + tuple(factors)
    patch_size = [length // factor for length, factor in zip(plan.patch_size, factors, strict=True)]
    places = sum(len(covering_places(_size_of(case) // _fitting(case, along), patch_size, RIM)) for case in cases)
    size = 4 * plan.codec.image_channels * math.prod(length + 2 * RIM for length in patch_size)
    every = -(-places * size // REFERENCE_BYTES)
    images, owners = [], []
    for case in cases:
        for image, _ in cover(_shrunk_case(case, along), patch_size, reach=RIM, margin=RIM, every=every):
            images.append(image)
            owners.append(case.name)
    return Samples(np.stack(images), None, np.array(owners))


def _shrunk_case(case: Case, factors: Sequence[int]) -> Case:
    """Without its mask."""
    image, fitting = case.image[:], _fitting(case, factors)
    image = image if max(fitting) == 1 else _pooled(image[None], fitting)[0]
    return Case(case.name, image, np.zeros((1, *image.shape[1:]), np.int16), {})


def _fitting(case: Case, factors: Sequence[int]) -> np.ndarray:
    """The factors, none larger than the image is along its axis."""
    return np.minimum(factors, _size_of(case))


def _size_of(case: Case) -> np.ndarray:
    return np.array(case.image.shape[1:])


def _pooled(image: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks. `[N, C, *size]` → the same, each axis shorter by its factor."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(factors)]
    image = torch.from_numpy(np.ascontiguousarray(image, np.float32))
    return pool(image, [int(factor) for factor in factors]).numpy()
