"""How sure teachers are of each class of a scan, and which classes of which scans are too unsure to be learnt from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy import ndimage

from nnunet_synth.pseudo_labels.teachers import Prediction

CONFIDENCE, ANATOMY = "confidence", "anatomy"
FILTERS = (CONFIDENCE, ANATOMY)
SMALLEST_PART = 0.02  # of a class's volume; smaller parts are specks


@dataclass(frozen=True)
class TargetClass:
    """A label or region that nnU-Net learns.

    Attributes:
        name: in dataset.json.
        labels: that it consists of.
        head: its channel in nnU-Net's output.
    """

    name: str
    labels: tuple[int, ...]
    head: int

    def mask(self, label: np.ndarray) -> np.ndarray:
        """Where a label map shows the class."""
        return np.isin(label, self.labels)


def target_classes(manager: LabelManager) -> tuple[TargetClass, ...]:
    """All classes but the background, in the order of nnU-Net's heads."""
    targets = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    names = {_labels(value): name for name, value in manager.label_dict.items()}
    return tuple(
        TargetClass(names[_labels(target)], _labels(target), place if manager.has_regions else int(target))
        for place, target in enumerate(targets)
    )


def _labels(target: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(int(one) for one in (target if isinstance(target, Sequence) else (target,)))


def confidences(prediction: Prediction, label: np.ndarray, classes: Sequence[TargetClass]) -> dict[str, float]:
    """Confidence of each class that a label map `[z, y, x]` shows, by name, from 0 to 1.

    It is the mean probability of the voxels that are labelled so, times the mean Dice of the label map with those of
    each teacher alone and without mirroring.
    """
    found = {}
    for one in classes:
        if not (mask := one.mask(label)).any():
            continue
        probability = float(prediction.probabilities[one.head].numpy()[mask].mean())
        agreements = [dice(mask, one.mask(other)) for other in prediction.alternatives]
        found[one.name] = probability * float(np.mean(agreements)) if agreements else probability
    return found


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice of two masks; 0 if both are empty."""
    return 2 * float((first & second).sum()) / max(1, float(first.sum() + second.sum()))


@dataclass(frozen=True)
class Anatomy:
    """Volume and parts of each class in the labelled cases.

    Attributes:
        limits: smallest and largest volume in mm³ and largest number of parts that a scan may have, by class.
        always: classes that each labelled case shows.
    """

    limits: Mapping[str, tuple[float, float, int]]
    always: frozenset[str]

    @classmethod
    def of(cls, cases: Iterable[tuple[np.ndarray, Sequence[float]]], classes: Sequence[TargetClass]) -> Anatomy:
        """Limits learnt from label maps `[z, y, x]` and their spacings.

        They are half the smallest volume, twice the largest, and twice the most parts: with a handful of labelled
        cases, quantiles would say nothing.
        """
        found = [[describe(one.mask(label), spacing) for one in classes] for label, spacing in cases]
        limits, always = {}, set()
        for place, one in enumerate(classes):
            if not (shown := [case[place] for case in found if case[place][0]]):
                continue
            volumes, parts = zip(*shown, strict=True)
            limits[one.name] = (min(volumes) / 2, max(volumes) * 2, max(parts) * 2)
            if len(shown) == len(found):
                always.add(one.name)
        return cls(limits, frozenset(always))

    def problem(self, name: str, mask: np.ndarray, spacing: Sequence[float]) -> str | None:
        """What is wrong with the mask `[z, y, x]` of a class, in words; None if nothing is."""
        volume, parts = describe(mask, spacing)
        if not volume:
            return f"{name} is missing" if name in self.always else None
        if name not in self.limits:
            return f"{name} is in no labelled case"
        least, most, most_parts = self.limits[name]
        if not least <= volume <= most:
            return f"{name} has {volume:.3g} mm³, not {least:.3g} to {most:.3g}"
        return f"{name} has {parts} parts, not {most_parts} or fewer" if parts > most_parts else None


def describe(mask: np.ndarray, spacing: Sequence[float]) -> tuple[float, int]:
    """Volume in mm³ of a mask `[z, y, x]`, and the number of its connected parts that are a fair share of it."""
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    return float(sizes.sum()) * float(np.prod(spacing)), int((sizes >= SMALLEST_PART * sizes.sum()).sum())
