"""Filters: checks that a sample must pass to enter a bank, held against what the training cases show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from nnunet_synth.bank.format import FilterRecord
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.features import KeptFeatures, RandomPyramid
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.mask_statistics import describe_masks
from stylegan2_cond.metrics.memorization import ALARMS, CORRELATION, Find, by_correlation, by_features, usual_nearness
from stylegan2_cond.progress_bar import ProgressBar

REAL_PATCHES = {2: 1000, 3: 200}  # that filters learn from, by the number of axes
RARE = 0.005  # share of real patches beyond each limit of an area
FIT_RARE = 0.05  # share of real patches whose mask nnU-Net agrees with less than a sample's mask must
MOST_IN_COMBINATIONS = 10  # classes of which whole combinations are compared; of more, pairs
MOST_CLIPPED = 0.05  # share of a channel's voxels beyond the limits; fewer are clipped, as saturated detectors do
NOT_WANTED = "not wanted"
FEWEST_CASES = 3  # a sample is compared with the nearest case and with the next ones, a real patch not with its own


class FilterOff(Exception):
    """Why a filter can't look."""


@dataclass(frozen=True)
class Known:
    """What filters learn from.

    Attributes:
        real: patches of the training cases, as the generator's training draws them.
        reference: all patches of the training cases, perhaps with a margin, to look for copies in.
        labels: all that a mask may hold.
        nnunet: trained on the real cases of the fold; None where there is none.
        margin: how much further than the real patches samples may go, as a share of the real range.
        keep: folder for what depends on the real patches alone, to be computed once; nothing is kept, when None.
    """

    real: SampleSet
    reference: SampleSet
    labels: Sequence[int]
    nnunet: NnUNet | None
    margin: float
    keep: Path | None = None


class Filter(ABC):
    """One check. It learns its limits when it is made, and then looks at samples.

    Raises:
        FilterOff: when made, if it can't look.
    """

    name: ClassVar[str]
    says: ClassVar[str]  # what is wrong with a sample that it refuses

    def __init__(self, known: Known):
        self.limits: dict[str, float] = {}

    @abstractmethod
    def allows(self, samples: SampleSet) -> np.ndarray:
        """`[N]` booleans, True for samples that may enter."""

    def corrected(self, samples: SampleSet) -> SampleSet:
        """Samples that this filter allows, in the form in which they may enter."""
        return samples

    def explain(self, image: np.ndarray) -> str:
        """More about images `[N, C, *spatial]` that this filter refused, with figures; empty if there is no more."""
        return ""


FILTERS: dict[str, type[Filter]] = {}


def register(filter_: type[Filter]) -> type[Filter]:
    """Let samples pass this filter, after those that were registered before."""
    FILTERS[filter_.name] = filter_
    return filter_


@register
class Finite(Filter):
    """All intensities are numbers."""

    name, says = "finite", "has intensities that are no numbers"

    def allows(self, samples: SampleSet) -> np.ndarray:
        return np.isfinite(samples.image).reshape(len(samples), -1).all(axis=1)


@register
class Range(Filter):
    """Nearly all of each channel lies within the intensities of the real patches; the rest is clipped to them."""

    name, says = "range", "has intensities that no real patch has"

    def __init__(self, known: Known):
        super().__init__(known)
        channels = known.real.image.swapaxes(0, 1).reshape(known.real.channels, -1)
        low, high = channels.min(axis=1), channels.max(axis=1)
        slack = known.margin * (high - low)
        self._low, self._high = low - slack, high + slack
        for channel, (least, most) in enumerate(zip(self._low, self._high, strict=True)):
            self.limits |= {f"channel {channel} least": float(least), f"channel {channel} most": float(most)}
        self.limits["share of voxels beyond, most"] = MOST_CLIPPED

    def allows(self, samples: SampleSet) -> np.ndarray:
        return (self._beyond(samples.image) <= MOST_CLIPPED).all(axis=1)

    def _beyond(self, image: np.ndarray) -> np.ndarray:
        """`[N, C]`: share of the voxels of each channel that lie beyond the limits."""
        flat = image.reshape(*image.shape[:2], -1)
        return (~((flat >= self._low[:, None]) & (flat <= self._high[:, None]))).mean(axis=2)

    def corrected(self, samples: SampleSet) -> SampleSet:
        shape = (-1, *[1] * len(samples.patch_size))
        image = np.clip(samples.image, self._low.reshape(shape), self._high.reshape(shape))
        return replace(samples, image=image)

    def explain(self, image: np.ndarray) -> str:
        beyond = self._beyond(image)
        worst = int(beyond.max(axis=0).argmax())
        values, low, high = image[:, worst], self._low[worst], self._high[worst]
        return (
            f"In channel {worst}, up to {beyond[:, worst].max():.1%} of a sample's voxels lie beyond the real range, "
            f"{low:.3g} to {high:.3g}: they reach from {values.min():.3g} to {values.max():.3g}."
        )


@register
class Anatomy(Filter):
    """Classes are shown together, are as large, and have as many pieces and holes, as real patches have them."""

    name, says = "anatomy", "has areas, pieces or holes that real masks don't have"
    counted = ("components", "holes")

    def __init__(self, known: Known):
        super().__init__(known)
        self._labels = [label for label in known.labels if label > 0]
        self._real = self._shown(known.real.label)
        rare = RARE / max(1.0, self._real.sum(axis=1).mean())  # a patch of many classes has as many chances to be rare
        for label in self._labels:
            real = describe_masks(known.real.label, label)
            if not (shown := real["presence"] > 0).any():
                continue
            least, most = np.quantile(real["area"][shown], [rare, 1 - rare], method="nearest")
            slack = known.margin * (most - least)
            self.limits[f"class {label} area least"] = float(least - slack)
            self.limits[f"class {label} area most"] = float(most + slack)
            for count in self.counted:
                most = np.quantile(real[count][shown], 1 - rare, method="nearest")
                self.limits[f"class {label} {count} most"] = float(np.floor(most * (1 + known.margin)))

    def _shown(self, label: np.ndarray) -> np.ndarray:
        """`[N, classes]` booleans."""
        return np.stack([(label == one).reshape(len(label), -1).any(axis=1) for one in self._labels], axis=1)

    def _seen_together(self, shown: np.ndarray) -> np.ndarray:
        """`[N]` booleans: whether real patches show just these classes together, or of many classes each two of them.

        Of many classes, nearly every patch is a combination of its own.
        """
        if len(self._labels) <= MOST_IN_COMBINATIONS:
            known = {tuple(row) for row in self._real.tolist()}
            return np.array([tuple(row) in known for row in shown.tolist()], bool)
        real, drawn = self._real.astype(float), shown.astype(float)
        never = (real.T @ real == 0).astype(float)  # a class that no real patch shows is never seen with itself
        unseen = ((drawn @ never) * drawn).any(axis=1)
        empty = ~shown.any(axis=1) & self._real.any(axis=1).all()
        return ~(unseen | empty)

    def allows(self, samples: SampleSet) -> np.ndarray:
        shown = self._shown(samples.label)
        allowed = self._seen_together(shown)
        for column, label in enumerate(self._labels):
            if f"class {label} area most" not in self.limits:
                continue
            found = describe_masks(samples.label, label)
            good = found["area"] >= self.limits[f"class {label} area least"]
            for what in ("area", *self.counted):
                good &= found[what] <= self.limits[f"class {label} {what} most"]
            allowed &= good | ~shown[:, column]
        return allowed


@register
class Fit(Filter):
    """The nnU-Net of the real cases of the fold agrees with each class of the mask as it does with real masks.

    The measure is Dice with one voxel in two hundred added to both sides, so that a few voxels of a tiny structure,
    which nnU-Net misses in real patches, too, decide nothing.
    """

    name, says = "fit", "has a mask that nnU-Net sees no reason for in the image"

    def __init__(self, known: Known):
        super().__init__(known)
        if known.nnunet is None:
            raise FilterOff("no nnU-Net was trained on the real cases of the fold")
        self._nnunet = known.nnunet
        self._labels = [label for label in known.labels if label > 0]
        agreement = self._agreement(known.real)
        for label, dice in zip(self._labels, agreement.T, strict=True):
            if len(there := dice[~np.isnan(dice)]):
                least = np.quantile(there, FIT_RARE, method="lower")
                self.limits[f"class {label} Dice least"] = float(least - known.margin * least)

    def _agreement(self, samples: SampleSet) -> np.ndarray:
        """`[N, classes]` Dice; NaN where neither mask nor nnU-Net shows the class."""
        seen = self._nnunet.segment(samples)
        slack = np.prod(samples.patch_size) / 200
        columns = []
        for label in self._labels:
            ours, theirs = ((side == label).reshape(len(side), -1) for side in (samples.label, seen))
            both, either = (ours & theirs).sum(axis=1), ours.sum(axis=1) + theirs.sum(axis=1)
            columns.append(np.where(either > 0, (2 * both + slack) / (either + slack), np.nan))
        return np.stack(columns, axis=1)

    def allows(self, samples: SampleSet) -> np.ndarray:
        least = [self.limits.get(f"class {label} Dice least", 0.0) for label in self._labels]
        agreement = self._agreement(samples)
        return (np.isnan(agreement) | (agreement >= least)).all(axis=1)


@register
class Copy(Filter):
    """The nearest training case is no nearer, for the next ones' distance, than it is to real patches of others.

    In pixels by the largest normalised cross-correlation over small shifts, and in features; see `metrics.copies`.
    """

    name, says = "copy", "is nearly a patch of a training case"

    def __init__(self, known: Known):
        super().__init__(known)
        if (cases := len(np.unique(known.reference.case_numbers()))) < FEWEST_CASES:
            raise FilterOff(f"needs at least {FEWEST_CASES} training cases to calibrate (found {cases})")
        inner = known.reference.cropped(known.real.patch_size)
        features = known.nnunet or RandomPyramid()
        features = KeptFeatures(features, known.keep) if known.keep else features
        self._searches: dict[str, Find] = {
            "pixels": by_correlation(known.reference),
            "features": by_features(inner, features(inner), features),
        }
        kept_as = {"pixels": CORRELATION, "features": f"unscaled {features.identity()}" if known.keep else ""}
        for name, find in self._searches.items():
            usual = usual_nearness(find, known.real, known.reference, kept_as[name], known.keep)
            self.limits[f"score in {name}, least"] = float(np.quantile(usual.score, ALARMS))

    def allows(self, samples: SampleSet) -> np.ndarray:
        scores = {name: find(samples, None).score for name, find in self._searches.items()}
        return np.all([score >= self.limits[f"score in {name}, least"] for name, score in scores.items()], axis=0)


@dataclass(frozen=True)
class Filters:
    """The filters of a bank, in the order in which they look; a sample is told by the first that refuses it."""

    filters: tuple[Filter, ...]
    off: dict[str, str]  # reason by name

    @classmethod
    def learn(cls, known: Callable[[], Known], without: Collection[str] = ()) -> Filters:
        """Make all filters but those of `without`; `known` is called where a filter learns anything."""
        filters, off = [], dict.fromkeys(without, NOT_WANTED)
        wanted = [filter_ for name, filter_ in FILTERS.items() if name not in off]
        learnt = known() if any(filter_ is not Finite for filter_ in wanted) else None
        with ProgressBar(wanted, desc="Learning what is real", unit="filter", leave=False, delay=2) as bar:
            for filter_ in bar:
                bar.set_postfix_str(filter_.name)
                try:
                    filters.append(filter_(learnt))
                except FilterOff as reason:
                    off[filter_.name] = str(reason)
        return cls(tuple(filters), {name: off[name] for name in FILTERS if name in off})

    def records(self) -> dict[str, FilterRecord]:
        """What `bank.json` says of them before they have looked at anything."""
        limits = {filter_.name: filter_.limits for filter_ in self.filters}
        return {name: FilterRecord(limits=limits.get(name, {}), off=self.off.get(name)) for name in FILTERS}

    @torch.inference_mode()
    def first_refusal(self, samples: SampleSet) -> list[str | None]:
        """For each sample, the name of the first filter that refuses it; None for those that may enter."""
        verdicts: list[str | None] = [None] * len(samples)
        left = np.arange(len(samples))
        for filter_ in self.filters:
            if not len(left):
                break
            allowed = filter_.allows(samples.take(left))
            for index in left[~allowed]:
                verdicts[index] = filter_.name
            left = left[allowed]
            samples = filter_.corrected(samples)
        return verdicts

    def corrected(self, samples: SampleSet) -> SampleSet:
        """Samples that all filters allow, in the form in which they may enter."""
        for filter_ in self.filters:
            samples = filter_.corrected(samples)
        return samples

    def explain(self, name: str, refused: Sequence[np.ndarray]) -> str:
        """What is wrong with images `[C, *spatial]` that the filter of this name refused."""
        filter_ = next(filter_ for filter_ in self.filters if filter_.name == name)
        return f"a sample {filter_.says}. {filter_.explain(np.stack(refused)) if refused else ''}".rstrip()
