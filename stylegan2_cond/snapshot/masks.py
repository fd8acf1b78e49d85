"""Masks that images are drawn for: those of training cases, the same ones deformed, or drawn ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from stylegan2_cond.data.canvases import Canvases
from stylegan2_cond.data.deformation import deform
from stylegan2_cond.data.preprocessed import Preprocessed, open_preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan

if TYPE_CHECKING:
    from stylegan2_cond.snapshot.generator import Ask, PairGenerator

TRIES = 2000  # canvases that are looked at for one that shows the classes asked for
MASKS = 77  # the stream of random numbers that masks are deformed by


class MaskSource(Protocol):
    """Mask number `index` of the stream that `seed` names, which depends on nothing else."""

    def draw(self, seed: int, index: int, ask: Ask) -> tuple[np.ndarray, np.float32]:
        """Label map `[*canvas]` int16, and the position of the slice in its volume, from 0 to 1."""


class RealMasks:
    """Masks of the training cases, cut as the generator's training cuts them; deformed, if wanted."""

    def __init__(self, preprocessed: Preprocessed, plan: Plan, *, deformed: bool):
        self.plan = plan
        self.deformed = deformed
        self.preprocessed = preprocessed
        self._streams: dict[int, Canvases] = {}

    def draw(self, seed: int, index: int, ask: Ask) -> tuple[np.ndarray, np.float32]:
        """As `MaskSource`.

        Raises:
            ValueError: an area or a place is asked for, or classes that no canvas shows.
        """
        if ask.areas is not None or ask.position is not None:
            raise ValueError("real masks are as they are: areas and positions can be asked of a mask snapshot only")
        stream = self._stream(seed)
        for number in self._numbers(index, ask):
            label = stream.draw(number)[1]
            if ask.classes is None or self._shown(label) == set(ask.classes):
                return self._deform(label, seed, index), stream.position(number)
        raise ValueError(f"{TRIES} canvases were looked at, none shows just the classes {sorted(ask.classes)}")

    def _numbers(self, index: int, ask: Ask) -> range:
        return range(index, index + 1) if ask.classes is None else range(index * TRIES, (index + 1) * TRIES)

    def _shown(self, label: np.ndarray) -> set[int]:
        return set(np.unique(label).tolist()) & set(self.plan.conditions.classes)

    def _deform(self, label: np.ndarray, seed: int, index: int) -> np.ndarray:
        if not self.deformed:
            return label
        spacing = self.plan.spacing
        return deform(label, np.random.default_rng([seed, MASKS, index]), spacing=spacing)

    def _stream(self, seed: int) -> Canvases:
        if seed not in self._streams:
            share = self.plan.foreground_share
            self._streams[seed] = Canvases(
                self.preprocessed, self.plan.source.training_cases, self.plan.canvas, foreground_share=share, seed=seed
            )
        return self._streams[seed]


class DrawnMasks:
    """Masks of another snapshot, which draws them."""

    def __init__(self, generator: PairGenerator, plan: Plan):
        self.generator = generator
        self.plan = plan

    def draw(self, seed: int, index: int, ask: Ask) -> tuple[np.ndarray, np.float32]:
        """As `MaskSource`; what is asked is asked of the mask snapshot."""
        drawn = self.generator.sample(
            1, seed=seed, first=index, with_classes=ask.classes, position=ask.position, areas=ask.areas
        )
        conditions = self.generator.plan.conditions
        place = (drawn.condition[0, -1] + 1) / 2 if conditions.has_position else 0.5
        return drawn.label[0], np.float32(place)


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
