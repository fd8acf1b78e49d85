"""The training cases that a bank is held against, where they are still there, as its generators saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_synth.bank.filters import REAL_PATCHES
from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.reference_sets import Cover, ReferenceSet
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot import CARD_FILE, Card, open_same_cases


@dataclass(frozen=True)
class RealSide:
    """What samples are held against.

    Attributes:
        patches: of the training cases, drawn as the generator's training draws them.
        again: the same, drawn once more: how far apart two draws of the same thing are.
        reference: all patches of the training cases, with a margin, among which neighbours are looked for.
        thinned: the reference holds every so-many-th patch; 1 where it holds all.
        places: for each patch of the reference, where it is from, in words.
        positions: `[M]`, where in its volume each slice of the reference lies, from 0 to 1; None for volumes, or where
            each case is a single slice.
    """

    patches: SampleSet
    again: SampleSet
    reference: SampleSet
    thinned: int
    places: Sequence[str]
    positions: np.ndarray | None


def open_real(record: BankRecord) -> tuple[Preprocessed, Plan]:
    """The training cases as they were, and the plan that the bank's first generator was trained by.

    Raises:
        UserError: the cases or the snapshot are gone, or not the same any more.
    """
    reference = record.snapshots[0]
    card = Card.load(Path(reference.path) / CARD_FILE)
    if card.weights_sha256 != reference.weights_sha256:
        raise UserError(f"In {reference.path} lies another generator now.")
    plan = card.plan.model_copy(update={"source": record.source})
    return open_same_cases(plan), plan


def read_real_side(preprocessed: Preprocessed, plan: Plan) -> RealSide:
    """Cut all of it, the same patches each time."""
    sets = ReferenceSet(preprocessed, plan, REAL_PATCHES[len(plan.patch_size)])
    places, positions = _places(preprocessed, plan, sets.cover)
    return RealSide(sets.real, sets.again, sets.cover.patches, sets.cover.thinned, places, positions)


def _places(preprocessed: Preprocessed, plan: Plan, cover: Cover) -> tuple[list[str], np.ndarray | None]:
    """Where the patches of the reference are from, in its order."""
    words, positions, flat = [], [], len(plan.patch_size) == 2
    depths = {name: preprocessed.load(name).image.shape[1] for name in plan.source.training_cases}
    for name, lower in zip(cover.patches.case, cover.corners, strict=True):
        if flat:
            words.append(f"{name}, slice {lower[0] + 1} of {depths[name]}" if depths[name] > 1 else str(name))
        else:
            words.append(f"{name}, from voxel {', '.join(map(str, np.maximum(lower, 0)))}")
        positions.append((lower[0] + 0.5) / depths[name])
    varied = flat and len(set(positions)) > 1
    return words, np.array(positions) if varied else None
