"""Filters: checks that a sample must pass to enter a bank, with limits learnt from the training cases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from scipy import stats

from nnunet_synth.bank.calibration import FilterCalibration
from nnunet_synth.bank.format import FilterRecord
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import CachedExtractor, RandomPyramid
from stylegan2_cond.metrics.mask_statistics import describe_masks
from stylegan2_cond.metrics.memorization import (
    ALARMS,
    CORRELATION,
    NearestSearch,
    correlation_search,
    feature_search,
    nearest_other_cases,
)
from stylegan2_cond.progress_bar import ProgressBar

RARE = 0.005  # fraction of real patches outside each limit of an area
FIT_RARE = 0.05  # fraction of real patches whose mask nnU-Net agrees with less than with a sample's
MOST_IN_COMBINATIONS = 10  # classes up to which whole combinations are compared; beyond, pairs of classes
MOST_OUTSIDE = 0.05  # fraction of a channel's voxels outside the limits; up to it, they are clipped
NOT_WANTED = "not wanted"
ALL_FILTERS = "all"
FEWEST_COPY_CASES = 3  # a sample is compared with the nearest case and the next ones, a real patch not with its own


class FilterOff(Exception):
    """Why a filter cannot be used."""


class Filter(ABC):
    """One check. It learns its limits when it is made, and then screens samples.

    Raises:
        FilterOff: when made, if it cannot be used.
    """

    name: ClassVar[str]
    problem: ClassVar[str]  # with a sample that it refuses
    of_masks: ClassVar[bool] = False  # whether it looks at masks alone; given ones then get no image if it refuses them

    def __init__(self, calibration: FilterCalibration):
        self.limits: dict[str, float] = {}

    @abstractmethod
    def allows(self, samples: SampleSet) -> np.ndarray:
        """`[N]` booleans, True for samples that may enter."""

    def correct(self, samples: SampleSet) -> SampleSet:
        """Allowed samples in the form in which they enter."""
        return samples

    def explain(self, image: np.ndarray) -> str:
        """Details about refused images `[N, C, *spatial]`, with figures; empty if there are none."""
        return ""


FILTERS: dict[str, type[Filter]] = {}


def register(filter_: type[Filter]) -> type[Filter]:
    """Add a filter, to be applied after those registered before."""
    FILTERS[filter_.name] = filter_
    return filter_


@register
class Finite(Filter):
    """All intensities are finite."""

    name, problem = "finite", "has intensities that are NaN or infinite"

    def allows(self, samples: SampleSet) -> np.ndarray:
        return np.isfinite(samples.image).reshape(len(samples), -1).all(axis=1)


@register
class Range(Filter):
    """Nearly all voxels of each channel are within the intensities of real patches; the others are clipped."""

    name, problem = "range", "has intensities outside the real range"

    def __init__(self, calibration: FilterCalibration):
        super().__init__(calibration)
        real = calibration.reference.real
        channels = real.image.swapaxes(0, 1).reshape(real.channels, -1)
        low, high = channels.min(axis=1), channels.max(axis=1)
        slack = calibration.margin * (high - low)
        self._low, self._high = low - slack, high + slack
        for channel, (least, most) in enumerate(zip(self._low, self._high, strict=True)):
            self.limits |= {f"channel {channel} minimum": float(least), f"channel {channel} maximum": float(most)}
        self.limits["fraction of voxels outside, maximum"] = MOST_OUTSIDE

    def allows(self, samples: SampleSet) -> np.ndarray:
        return (self._outside(samples.image) <= MOST_OUTSIDE).all(axis=1)

    def _outside(self, image: np.ndarray) -> np.ndarray:
        """`[N, C]`: fraction of the voxels of each channel outside the limits."""
        flat = image.reshape(*image.shape[:2], -1)
        return (~((flat >= self._low[:, None]) & (flat <= self._high[:, None]))).mean(axis=2)

    def correct(self, samples: SampleSet) -> SampleSet:
        shape = (-1, *[1] * len(samples.patch_size))
        return replace(samples, image=np.clip(samples.image, self._low.reshape(shape), self._high.reshape(shape)))

    def explain(self, image: np.ndarray) -> str:
        outside = self._outside(image)
        worst = int(outside.max(axis=0).argmax())
        values, low, high = image[:, worst], self._low[worst], self._high[worst]
        return (
            f"In channel {worst}, up to {outside[:, worst].max():.1%} of a sample's voxels are outside the real range, "
            f"{low:.3g} to {high:.3g}; their values range from {values.min():.3g} to {values.max():.3g}."
        )


@register
class Anatomy(Filter):
    """Classes appear together, and have areas, components and holes, as in real patches."""

    name, problem = "anatomy", "has areas, components or holes that real masks do not have"
    of_masks = True
    counted = ("components", "holes")

    def __init__(self, calibration: FilterCalibration):
        super().__init__(calibration)
        label, cases = calibration.reference.real.label, calibration.reference.real.case_numbers()
        self._labels = [value for value in calibration.labels if value > 0]
        self._real = self._shown(label)
        rare = RARE / max(1.0, self._real.sum(axis=1).mean())  # a patch of many classes has as many chances to be rare
        for value in self._labels:
            real = describe_masks(label, value)
            if not (shown := real["presence"] > 0).any():
                continue
            area = real["area"][shown]
            least, most = np.quantile(area, [rare, 1 - rare], method="nearest")
            slack = calibration.margin * (most - least) + self._of_further_cases(area, cases[shown], rare)
            self.limits[f"class {value} area minimum"] = float(least - slack)
            self.limits[f"class {value} area maximum"] = float(most + slack)
            for count in self.counted:
                most = np.quantile(real[count][shown], 1 - rare, method="nearest")
                self.limits[f"class {value} {count} maximum"] = float(np.floor(most * (1 + calibration.margin)))

    @staticmethod
    def _of_further_cases(area: np.ndarray, cases: np.ndarray, rare: float) -> float:
        """How far the areas of other cases may lie beyond those of a few: with many cases, 0.

        A 3-D patch often holds all of a structure, so four cases are four areas, however many patches they are cut
        into. It is what the quantile of a further value (Student's t) adds to that of a known normal distribution, for
        the mean areas of the cases. One case says nothing about others.
        """
        means = [area[cases == case].mean() for case in np.unique(cases)]
        if (count := len(means)) == 1:
            return 1.0
        further = stats.t.isf(rare, count - 1) * (1 + 1 / count) ** 0.5
        return float(np.std(means, ddof=1) * (further - stats.norm.isf(rare)))

    def _shown(self, label: np.ndarray) -> np.ndarray:
        """`[N, classes]` booleans."""
        return np.stack([(label == value).reshape(len(label), -1).any(axis=1) for value in self._labels], axis=1)

    def _seen_together(self, shown: np.ndarray) -> np.ndarray:
        """`[N]` booleans: whether a real patch shows exactly these classes, or, of many classes, each two of them.

        With many classes, nearly every patch is a combination of its own.
        """
        if len(self._labels) <= MOST_IN_COMBINATIONS:
            seen = {tuple(row) for row in self._real.tolist()}
            return np.array([tuple(row) in seen for row in shown.tolist()], bool)
        real, generated = self._real.astype(float), shown.astype(float)
        never = (real.T @ real == 0).astype(float)  # a class that no real patch shows is never seen with itself
        unseen = ((generated @ never) * generated).any(axis=1)
        empty = ~shown.any(axis=1) & self._real.any(axis=1).all()
        return ~(unseen | empty)

    def allows(self, samples: SampleSet) -> np.ndarray:
        shown = self._shown(samples.label)
        allowed = self._seen_together(shown)
        for column, value in enumerate(self._labels):
            if f"class {value} area maximum" not in self.limits:
                continue
            found = describe_masks(samples.label, value)
            good = found["area"] >= self.limits[f"class {value} area minimum"]
            for what in ("area", *self.counted):
                good &= found[what] <= self.limits[f"class {value} {what} maximum"]
            allowed &= good | ~shown[:, column]
        return allowed


@register
class Fit(Filter):
    """The fold's nnU-Net agrees with each class of the mask as much as it does for real masks.

    The measure is Dice with half a percent of the patch's voxels added to both sides, so that a few voxels of a tiny
    structure, which nnU-Net misses in real patches as well, do not matter.
    """

    name, problem = "fit", "has a mask that nnU-Net does not find in the image"

    def __init__(self, calibration: FilterCalibration):
        super().__init__(calibration)
        if calibration.nnunet is None:
            raise FilterOff("no nnU-Net was trained on the real cases of the fold")
        self._nnunet = calibration.nnunet
        self._labels = [value for value in calibration.labels if value > 0]
        for value, dice in zip(self._labels, self._agreement(calibration.reference.real).T, strict=True):
            if len(present := dice[~np.isnan(dice)]):
                least = np.quantile(present, FIT_RARE, method="lower")
                self.limits[f"class {value} Dice minimum"] = float(least - calibration.margin * least)

    def _agreement(self, samples: SampleSet) -> np.ndarray:
        """`[N, classes]` Dice; NaN where neither the mask nor nnU-Net shows the class."""
        seen = self._nnunet.segment(samples)
        slack = np.prod(samples.patch_size) / 200
        columns = []
        for value in self._labels:
            ours, theirs = ((side == value).reshape(len(side), -1) for side in (samples.label, seen))
            both, either = (ours & theirs).sum(axis=1), ours.sum(axis=1) + theirs.sum(axis=1)
            columns.append(np.where(either > 0, (2 * both + slack) / (either + slack), np.nan))
        return np.stack(columns, axis=1)

    def allows(self, samples: SampleSet) -> np.ndarray:
        least = [self.limits.get(f"class {value} Dice minimum", 0.0) for value in self._labels]
        agreement = self._agreement(samples)
        return (np.isnan(agreement) | (agreement >= least)).all(axis=1)


@register
class Copy(Filter):
    """Relative to the next cases, the nearest training case is not nearer than real patches are to other cases.

    Compared in pixels, by the largest normalised cross-correlation over small shifts, and in features; see
    `metrics.memorization`.
    """

    name, problem = "copy", "is nearly a patch of a training case"

    def __init__(self, calibration: FilterCalibration):
        super().__init__(calibration)
        real, cover = calibration.reference.real, calibration.reference.cover.patches
        if (cases := len(np.unique(cover.case_numbers()))) < FEWEST_COPY_CASES:
            raise FilterOff(f"needs at least {FEWEST_COPY_CASES} training cases to calibrate (found {cases})")
        inner = cover.cropped(real.patch_size)
        features = calibration.nnunet or RandomPyramid()
        features = CachedExtractor(features, calibration.cache) if calibration.cache else features
        self._searches: dict[str, NearestSearch] = {
            "pixels": correlation_search(cover),
            "features": feature_search(inner, features(inner), features),
        }
        cached_as = {"pixels": CORRELATION, "features": f"unscaled {features.identity()}" if calibration.cache else ""}
        for name, find in self._searches.items():
            usual = nearest_other_cases(find, real, cover, cached_as[name], calibration.cache)
            self.limits[f"score in {name} minimum"] = float(np.quantile(usual.score, ALARMS))

    def allows(self, samples: SampleSet) -> np.ndarray:
        scores = {name: find(samples, None).score for name, find in self._searches.items()}
        return np.all([score >= self.limits[f"score in {name} minimum"] for name, score in scores.items()], axis=0)


def parse_filters_off(names: Sequence[str], known: Collection[str]) -> set[str]:
    """The filters that are turned off; `all` stands for each of those that are known.

    Raises:
        UserError: an unknown filter.
    """
    if unknown := sorted(set(names) - {*known, ALL_FILTERS}):
        raise UserError(f"--without {unknown[0]}: unknown filter. Known: {', '.join(known)}, {ALL_FILTERS}")
    return set(known) if ALL_FILTERS in names else set(names)


@dataclass(frozen=True)
class Filters:
    """The filters of a bank, in the order of their use; a sample counts for the first that refuses it.

    Attributes:
        filters: those in use.
        off: the reason for each of the others, by name.
    """

    filters: tuple[Filter, ...]
    off: dict[str, str]

    @classmethod
    def calibrate(cls, calibration: FilterCalibration, without: Collection[str] = ()) -> Filters:
        """Make all filters but those in `without`."""
        filters, off = [], dict.fromkeys(without, NOT_WANTED)
        used = [filter_ for name, filter_ in FILTERS.items() if name not in off]
        with ProgressBar(used, desc="Calibrating the filters", unit="filter", leave=False, delay=2) as bar:
            for filter_ in bar:
                bar.set_postfix_str(filter_.name)
                try:
                    filters.append(filter_(calibration))
                except FilterOff as reason:
                    off[filter_.name] = str(reason)
        return cls(tuple(filters), {name: off[name] for name in FILTERS if name in off})

    def records(self) -> dict[str, FilterRecord]:
        """Their entries in `bank.json` before they have screened anything."""
        limits = {filter_.name: filter_.limits for filter_ in self.filters}
        return {name: FilterRecord(limits=limits.get(name, {}), off=self.off.get(name)) for name in FILTERS}

    def screen_masks(self, label: np.ndarray) -> list[str | None]:
        """For each of the masks `[N, *spatial]`, the name of the first filter of masks that refuses it, or None."""
        masks = SampleSet(np.empty((len(label), 0, *label.shape[1:]), np.float32), label)
        refused_by: list[str | None] = [None] * len(masks)
        for filter_ in self.filters:
            if filter_.of_masks:
                for index in np.flatnonzero(~filter_.allows(masks)):
                    refused_by[index] = refused_by[index] or filter_.name
        return refused_by

    @torch.inference_mode()
    def screen(self, samples: SampleSet) -> tuple[SampleSet, list[str | None], list[list[str]]]:
        """Apply the filters one after the other.

        Returns:
            The samples as all filters have corrected them; for each, the name of the first filter that refuses it, or
            None; and the names of the filters that have changed its image.
        """
        refused_by: list[str | None] = [None] * len(samples)
        corrected_by: list[list[str]] = [[] for _ in range(len(samples))]
        left = np.arange(len(samples))
        for filter_ in self.filters:
            if not len(left):
                break
            allowed = filter_.allows(samples.take(left))
            for index in left[~allowed]:
                refused_by[index] = filter_.name
            left = left[allowed]
            corrected = filter_.correct(samples)
            changed = (corrected.image != samples.image).reshape(len(samples), -1).any(axis=1)
            for index in left[changed[left]]:
                corrected_by[index].append(filter_.name)
            samples = corrected
        return samples, refused_by, corrected_by

    def explain(self, name: str, refused: Sequence[np.ndarray]) -> str:
        """What is wrong with images `[C, *spatial]` that the filter of this name refused."""
        filter_ = next(filter_ for filter_ in self.filters if filter_.name == name)
        return f"a sample {filter_.problem}. {filter_.explain(np.stack(refused)) if refused else ''}".rstrip()
