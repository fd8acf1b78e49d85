"""Sources of masks for a generator of the variant `image`: the training cases, or another snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import torch

from stylegan2_cond import MaskVariation
from stylegan2_cond.data.mask_blending import blend
from stylegan2_cond.data.mask_deformation import Deformation, deform
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.patch_sampler import Patch, PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, condition_patches, open_patches
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.snapshot.request import MaskSource, SampleRequest
from stylegan2_cond.snapshot.sampler import PairGenerator, load_generator

AFTER_BLENDING = Deformation(rotation=4.0, scale=0.04, shear=0.02, translation=0.02, elastic=0.012)
NEAREST = 16  # patches of like position, one of which a mask is blended with
TRIES = 20  # patches of its own that a sample looks at for one that shows the requested classes


class RealMasks:
    """Masks of the training cases, sampled as the generator's training samples them, and varied.

    The variation `deformed` deforms each mask at random. `blended` blends each with one of another case that shows the
    same classes at a like position, and then deforms it slightly. `real` leaves it as it is.

    Where classes are requested, a sample looks at a few patches of its own. Where none shows exactly these classes,
    one is chosen of those that the plan's conditions were measured on, which show every combination seen in training.

    Args:
        patches: of the training cases, with the plan's seed.
        plan: of the generator that the masks are for.
        variation: of the masks.
    """

    def __init__(self, patches: PatchSampler, plan: Plan, variation: MaskVariation):
        self.patches = patches
        self.plan = plan
        self.variation = variation

    @classmethod
    def of_cases(cls, preprocessed: Preprocessed, plan: Plan, variation: MaskVariation) -> RealMasks:
        """Masks of the plan's training cases in a preprocessed folder, and of the scans that it learnt from."""
        return cls(open_patches(preprocessed, plan), plan, variation)

    def sample(
        self, seed: int, numbers: Sequence[int], request: SampleRequest = SampleRequest()
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `MaskSource`.

        Raises:
            ValueError: an area or a position is requested, or classes that no patch shows together.
        """
        if request.areas is not None or request.position is not None:
            raise ValueError("areas and positions can be requested of a mask snapshot only, not of real masks")
        masks = [self._sample(seed, number, request.classes) for number in numbers]
        return np.stack([label for label, _ in masks]), np.array([position for _, position in masks], np.float32)

    def _sample(self, seed: int, number: int, classes: Sequence[int] | None) -> tuple[np.ndarray, float]:
        patches, index = self.patches.with_seed(seed), number
        if classes is not None:
            patches, index = self._showing(patches, seed, number, classes)
        patch, spacing = patches.sample(index, with_image=False), self.plan.spacing
        if self.variation == "real":
            return patch.label, patch.position
        if self.variation == "deformed":
            rng = np.random.default_rng([seed, RandomStream.DEFORMATION, number])
            return deform(patch.label, rng, spacing=spacing), patch.position
        rng = np.random.default_rng([seed, RandomStream.BLENDING, number])
        weight, partner = rng.random(), self._partner(patch, rng)
        label = blend(patch.label, partner.label, weight, spacing=spacing)
        position = (1 - weight) * patch.position + weight * partner.position
        return deform(label, rng, AFTER_BLENDING, spacing=spacing), position

    def _partner(self, patch: Patch, rng: np.random.Generator) -> Patch:
        """A patch of another case that shows the same classes at a like position; of the same case if there is none.

        The patch itself where no other shows its classes.
        """
        known = self._catalogue
        alike = (known.shown == self._shown(patch.label)).all(axis=1)
        elsewhere = alike & (known.case != patch.case)
        chosen = np.flatnonzero(elsewhere if elsewhere.any() else alike)
        if not len(chosen):
            return patch
        distance = np.linalg.norm(known.centre[chosen] - patch.centre, axis=1)
        nearest = chosen[np.argsort(distance, kind="stable")[:NEAREST]]
        return self.patches.sample(int(rng.choice(nearest)), with_image=False)

    def _showing(self, own: PatchSampler, seed: int, number: int, classes: Sequence[int]) -> tuple[PatchSampler, int]:
        """A patch that shows exactly these classes, or the nearest combination where the plan has seen this one."""
        known = self.plan.conditions.classes
        if unknown := sorted(set(classes) - set(known)):
            raise ValueError(f"class {unknown[0]} is not one that this generator knows: {list(known)}")
        wanted = np.isin(known, classes)
        for index in range(number * TRIES, (number + 1) * TRIES):
            if (self._shown(own.sample(index, with_image=False).label) == wanted).all():
                return own, index
        missing = (wanted & ~self._catalogue.shown).sum(axis=1)
        surplus = (~wanted & self._catalogue.shown).sum(axis=1)
        best = np.lexsort((surplus, missing))[0]
        nearest = np.flatnonzero((missing == missing[best]) & (surplus == surplus[best]))
        seen = (self.plan.conditions.table.shown == wanted).all(axis=1).any()
        if missing[best] + surplus[best] and not seen:
            raise ValueError(f"none of {TRIES + len(missing)} patches shows exactly the classes {sorted(classes)}")
        return self.patches, int(np.random.default_rng([seed, RandomStream.MASK_CHOICE, number]).choice(nearest))

    @cached_property
    def _catalogue(self) -> _Catalogue:
        numbers = range(condition_patches(self.plan.patch_size))
        found = (self.patches.sample(number, with_image=False) for number in numbers)
        rows = [(self._shown(patch.label), patch.case, patch.centre) for patch in found]
        return _Catalogue(*map(np.array, zip(*rows, strict=True)))

    def _shown(self, label: np.ndarray) -> np.ndarray:
        """`[classes]` booleans."""
        return np.isin(self.plan.conditions.classes, np.unique(label))


@dataclass(frozen=True, eq=False)
class _Catalogue:
    """The patches that the plan's conditions were measured on.

    Attributes:
        shown: `[patches, classes]` booleans, the classes that each shows.
        case: `[patches]`, names.
        centre: `[patches, 3]`, as of a `Patch`.
    """

    shown: np.ndarray
    case: np.ndarray
    centre: np.ndarray


class GeneratedMasks:
    """Masks that another snapshot generates."""

    def __init__(self, generator: PairGenerator):
        self.generator = generator

    def sample(
        self, seed: int, numbers: Sequence[int], request: SampleRequest = SampleRequest()
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `MaskSource`; the request goes to the mask snapshot."""
        masks = self.generator.sample_numbers(numbers, seed=seed, request=request)
        position = self.generator.plan.conditions.decode(torch.from_numpy(masks.condition))[2]
        return masks.label, np.full(len(numbers), 0.5, np.float32) if position is None else position.numpy()


def open_masks(text: str, plan: Plan, device: str | torch.device = "cpu") -> MaskSource:
    """Masks for a generator of the variant `image`: `deformed`, `blended`, `real`, or the folder of a mask snapshot.

    Raises:
        UserError: there is no such snapshot, it generates masks of another kind, or the training cases are gone.
    """
    if text in get_args(MaskVariation):
        return RealMasks.of_cases(open_same_cases(plan), plan, text)
    generator = load_generator(text, device)
    if generator.plan.variant == "image":
        raise UserError(f"{text} generates images, not masks. Choose a snapshot of the variant mask.")
    for key, what in (("patch_size", "another patch size"), ("source", "other cases")):
        if getattr(generator.plan, key) != getattr(plan, key):
            raise UserError(f"{text} was trained on {what}. Train one: stylegan2-cond train … --variant mask")
    return GeneratedMasks(generator)


def open_same_cases(plan: Plan) -> Preprocessed:
    """The cases that a generator was trained on, preprocessed as they were then.

    Raises:
        UserError: dataset, configuration or plans are gone, or the cases have been preprocessed differently since.
    """
    source = plan.source
    preprocessed = open_preprocessed(source.dataset_name, source.configuration, source.plans_name)
    if preprocessed.preprocessing_hash != source.preprocessing:
        raise UserError(
            f"{preprocessed.folder} was preprocessed differently than the cases that this generator was trained on. "
            f"Restore the plans, or train the generator again: stylegan2-cond train {source.dataset_name} "
            f"{source.configuration} {source.fold}"
        )
    if gone := sorted(set(source.training_cases) - set(preprocessed.case_names())):
        raise UserError(
            f"{len(gone)} of the cases that this generator was trained on are not in {preprocessed.folder}, the first "
            f"is {gone[0]}. Preprocess them: {preprocessed.preprocess_command}"
        )
    return preprocessed
