"""Patches of real cases, as an evaluation wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler, cover, covering_places
from stylegan2_cond.metrics.ncc import RIM
from stylegan2_cond.metrics.sample_set import Samples
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar

REAL, AGAIN, HELD_OUT = 101, 102, 103  # streams of patches; the generator's training draws from another
REFERENCE_BYTES = 2**30  # of training patches that copies are looked for in; more are thinned out


@dataclass(frozen=True)
class RealSets:
    """What drawn patches are judged by.

    Attributes:
        real: patches drawn from the training cases, as the generator's training draws them.
        again: the same, drawn once more: what a perfect generator would come to.
        held_out: the same of validation cases; None where there are none.
        reference: all patches of the training cases, with a margin, to look for copies in.
        thinned: the reference holds every so-many-th patch; 1 where it holds all.
    """

    real: Samples
    again: Samples
    held_out: Samples | None
    reference: Samples
    thinned: int


def read_real_sets(preprocessed: Preprocessed, plan: Plan, held_out: Sequence[str], count: int) -> RealSets:
    """Cut all of them; the same ones for every snapshot of a plan. Nobody looks for copies of masks alone."""
    training = plan.source.training_cases
    real = cut_patches(preprocessed, plan, training, count, REAL)
    reference, thinned = (real, 1) if plan.variant == "mask" else read_reference(preprocessed, plan)
    return RealSets(
        real=real,
        again=cut_patches(preprocessed, plan, training, count, AGAIN),
        held_out=cut_patches(preprocessed, plan, held_out, count, HELD_OUT) if held_out else None,
        reference=reference,
        thinned=thinned,
    )


def cut_patches(preprocessed: Preprocessed, plan: Plan, names: Sequence[str], count: int, stream: int) -> Samples:
    """Patches of the named cases, drawn as the generator's training draws them, with what they would be asked for."""
    patches = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=plan.foreground_share, seed=stream)
    image, label = patches.batch(0, count)
    case = np.array([patches.case_name(index) for index in range(count)])
    position = torch.from_numpy(patches.positions(0, count))
    asked = plan.conditions.measure(torch.from_numpy(label), position).numpy()
    return as_judged(Samples(image, _known(label, plan), case, asked), plan)


def as_judged(samples: Samples, plan: Plan) -> Samples:
    """Patches as a plan's generator is judged by: of one that draws masks alone, they stand in the image's place.

    One channel a class, background left out.
    """
    if plan.variant != "mask":
        return samples
    labels = [label for label in plan.codec.labels if label != 0] or plan.codec.labels
    one_hot = np.stack([samples.label == label for label in labels], axis=1).astype(np.float32)
    return Samples(one_hot, samples.label, samples.case, samples.asked)


def read_reference(preprocessed: Preprocessed, plan: Plan) -> tuple[Samples, int]:
    names = plan.source.training_cases
    cases = [preprocessed.load(name) for name in names]
    places = sum(len(covering_places(case.image.shape[1:], plan.patch_size, RIM)) for case in cases)
    size = 4 * plan.codec.image_channels * int(np.prod([length + 2 * RIM for length in plan.patch_size]))
    every = -(-places * size // REFERENCE_BYTES)
    images, labels, owners = [], [], []
    for case in ProgressBar(cases, desc="Reading the training cases", unit="case", leave=False, delay=2):
        for image, label in cover(case, plan.patch_size, reach=RIM, margin=RIM, every=every):
            images.append(image)
            labels.append(label)
            owners.append(case.name)
    return Samples(np.stack(images), _known(np.stack(labels), plan), np.array(owners)), every


def _known(label: np.ndarray, plan: Plan) -> np.ndarray:
    """Voxels to be ignored count as outside: no sample has that label."""
    return label if plan.codec.ignore is None else np.where(label == plan.codec.ignore, OUTSIDE, label).astype(np.int16)
