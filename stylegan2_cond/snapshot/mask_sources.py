"""Masks that images are drawn for: those of training cases, the same ones deformed, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stylegan2_cond.data.condition_sampler import read_rows
from stylegan2_cond.data.mask_deformation import deform
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, condition_patches

if TYPE_CHECKING:
    from stylegan2_cond.snapshot.sampler import Ask, PairGenerator

TRIES = 20  # patches of its own that a sample looks at for one that shows the classes asked for
MASKS, CATALOGUE = 77, 80  # streams of random numbers: masks are deformed by one, and chosen by the other


class MaskSource(Protocol):
    """Masks of the stream that `seed` names; each depends on seed, number, and what was asked alone."""

    def draw(self, seed: int, indices: Sequence[int], ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """Label maps `[N, *spatial]` int16, and the positions of slices in their volumes, `[N]` float32 from 0 to 1."""


class RealMasks:
    """Masks of the training cases, cut as the generator's training cuts them; deformed, if wanted.

    Where classes are asked for, a sample looks at a few patches of its own. Where none shows exactly these classes,
    one is chosen of those that the plan's conditions were measured on, which show every combination that is asked for.
    """

    def __init__(self, preprocessed: Preprocessed, plan: Plan, *, deformed: bool):
        self.plan = plan
        self.deformed = deformed
        self.preprocessed = preprocessed
        self._measured = PatchSampler(
            preprocessed,
            plan.source.training_cases,
            plan.patch_size,
            foreground_share=plan.foreground_share,
            seed=plan.seed,
        )

    def draw(self, seed: int, indices: Sequence[int], ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """As `MaskSource`.

        Raises:
            ValueError: an area or a place is asked for, or classes that no patch shows together.
        """
        if ask.areas is not None or ask.position is not None:
            raise ValueError("real masks are as they are: areas and positions can be asked of a mask snapshot only")
        drawn = [self._one(seed, index, ask) for index in indices]
        return np.stack([label for label, _ in drawn]), np.array([place for _, place in drawn], np.float32)

    def _one(self, seed: int, index: int, ask: Ask) -> tuple[np.ndarray, float]:
        stream = self._measured.with_seed(seed)
        stream, number = (stream, index) if ask.classes is None else self._showing(stream, seed, index, ask.classes)
        patch = stream.sample(number, with_image=False)
        return self._deform(patch.label, seed, index), patch.position

    def _showing(self, own: PatchSampler, seed: int, index: int, classes: Sequence[int]) -> tuple[PatchSampler, int]:
        """A patch that shows just these classes; of those that the plan knows together, the nearest there is."""
        known = self.plan.conditions.classes
        if unknown := sorted(set(classes) - set(known)):
            raise ValueError(f"class {unknown[0]} is not one that this generator knows: {list(known)}")
        wanted = np.isin(known, classes)
        for number in range(index * TRIES, (index + 1) * TRIES):
            if (self._shown(own.sample(number, with_image=False).label) == wanted).all():
                return own, number
        missing = (wanted & ~self._catalogue).sum(axis=1)
        surplus = (~wanted & self._catalogue).sum(axis=1)
        best = np.lexsort((surplus, missing))[0]
        nearest = np.flatnonzero((missing == missing[best]) & (surplus == surplus[best]))
        if missing[best] + surplus[best] and not self._is_known(wanted):
            looked_at = TRIES + len(missing)
            raise ValueError(f"{looked_at} patches were looked at, none shows just the classes {sorted(classes)}")
        return self._measured, int(np.random.default_rng([seed, CATALOGUE, index]).choice(nearest))

    @cached_property
    def _catalogue(self) -> np.ndarray:
        """`[patches, classes]` booleans: what the patches show that the plan's conditions were measured on."""
        count = condition_patches(self.plan.patch_size)
        return np.stack([self._shown(self._measured.sample(number, with_image=False).label) for number in range(count)])

    def _shown(self, label: np.ndarray) -> np.ndarray:
        """`[classes]` booleans."""
        return np.isin(self.plan.conditions.classes, np.unique(label))

    def _is_known(self, wanted: np.ndarray) -> bool:
        conditions = self.plan.conditions
        table = read_rows(conditions.rows, len(conditions.classes), has_position=conditions.has_position)
        return bool((table.shown == wanted).all(axis=1).any())

    def _deform(self, label: np.ndarray, seed: int, index: int) -> np.ndarray:
        if not self.deformed:
            return label
        spacing = self.plan.spacing
        return deform(label, np.random.default_rng([seed, MASKS, index]), spacing=spacing)


class DrawnMasks:
    """Masks of another snapshot, which draws them."""

    def __init__(self, generator: PairGenerator, plan: Plan):
        self.generator = generator
        self.plan = plan

    def draw(self, seed: int, indices: Sequence[int], ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """As `MaskSource`; what is asked is asked of the mask snapshot."""
        drawn = self.generator.sample_numbers(
            indices, seed=seed, with_classes=ask.classes, position=ask.position, areas=ask.areas
        )
        conditions = self.generator.plan.conditions
        places = (drawn.condition[:, -1] + 1) / 2 if conditions.has_position else np.full(len(indices), 0.5)
        return drawn.label, places.astype(np.float32)


def open_real_masks(plan: Plan, *, deformed: bool) -> RealMasks:
    """Masks of a plan's training cases.

    Raises:
        UserError: the cases are gone or were preprocessed anew, or their masks have voxels to be ignored.
    """
    if plan.codec.ignore is not None:
        raise UserError(
            "Masks of this dataset have voxels whose label is not known; images can't be drawn for them. Train a mask "
            "generator and give its snapshot: stylegan2-cond train … --variant mask, then --masks SNAPSHOT"
        )
    return RealMasks(open_same_cases(plan), plan, deformed=deformed)


def open_same_cases(plan: Plan) -> Preprocessed:
    """The cases that a generator was trained on, as they were then.

    Raises:
        UserError: dataset, configuration or plans are gone, or the cases were preprocessed differently since.
    """
    source = plan.source
    preprocessed = open_preprocessed(source.dataset_name, source.configuration, source.plans_name)
    if preprocessed.fingerprint != source.preprocessing:
        raise UserError(
            f"{preprocessed.folder} was preprocessed differently than the cases that this generator saw. Restore the "
            f"plans, or train the generator again: stylegan2-cond train {source.dataset_name} {source.configuration} "
            f"{source.fold}"
        )
    if gone := sorted(set(source.training_cases) - set(preprocessed.case_names())):
        raise UserError(
            f"{len(gone)} of the cases that this generator saw are not in {preprocessed.folder}, the first is "
            f"{gone[0]}. Preprocess them: {preprocessed.preprocess_command}"
        )
    return preprocessed
