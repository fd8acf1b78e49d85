"""Both sides of the comparison: samples of a bank, real patches of its training cases, and which are most alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from nnunet_synth.bank.calibration import REAL_PATCHES
from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.memorization import (
    ALARMS,
    CORRELATION,
    FEWEST_CASES,
    Nearest,
    correlation_search,
    nearest_other_cases,
)
from stylegan2_cond.metrics.reference_sets import ReferenceSet, cache_folder
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import CARD_FILE, Card, open_same_cases

MOST_SAMPLES = {2: 1000, 3: 150}  # by the number of axes
MOST_BYTES = 2**28  # of their images


@dataclass(frozen=True)
class BankSamples:
    """Samples of a bank, spread evenly over it.

    Attributes:
        samples: `[N, C, *spatial]` and `[N, *spatial]`, all of them finite.
        numbers: `[N]`, in the stream that the bank's seed names.
        shards: `[N]` names of the cases that hold them.
        slices: `[N]`, which slice of its shard each 2-D sample is; 0 in 3-D.
        broken: how many were left out because of values that are not finite.
    """

    samples: SampleSet
    numbers: np.ndarray
    shards: np.ndarray
    slices: np.ndarray
    broken: int = 0

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Neighbours:
    """The nearest training patches.

    Attributes:
        generated: of the samples.
        real: of the real patches, each among the cases other than its own; None with a single case.
        threshold: lower scores are alarms, as in `stylegan2-cond evaluate`; None with too few cases to calibrate.
        places: case and position of each training patch, in words.
        positions: `[M]`, the position of each training slice in its volume, from 0 to 1; None for volumes, or where
            each case is a single slice.
    """

    generated: Nearest
    real: Nearest | None
    threshold: float | None
    places: Sequence[str]
    positions: np.ndarray | None

    @property
    def alarms(self) -> np.ndarray:
        """`[N]` booleans: samples that may be copies."""
        return self.generated.score < (-np.inf if self.threshold is None else self.threshold)

    def most_alike(self, count: int) -> np.ndarray:
        """Indices of samples closest to one case compared with the next ones; without a threshold, of the closest."""
        order = -self.generated.nearness if self.threshold is None else self.generated.score
        return np.argsort(order, kind="stable")[:count]


def spread(total: int, count: int) -> np.ndarray:
    """At most `count` of the numbers from 0 to `total - 1`, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def read_samples(folder: Path, record: BankRecord) -> BankSamples | None:
    """The same samples every time; None where the bank has none, or none that is finite.

    Raises:
        UserError: the properties of a shard are not safe to read.
    """
    if not record.samples:
        return None
    flat = len(record.origin.patch_size) == 2
    bank = BankDataset(str(folder), [shard.name for shard in record.shards])
    starts = accumulate((shard.samples for shard in record.shards), initial=0)
    channels = bank.load_case(record.shards[0].name)[0].shape[0]
    most = MOST_BYTES // (4 * channels * math.prod(record.origin.patch_size))
    chosen = spread(record.samples, min(MOST_SAMPLES[len(record.origin.patch_size)], max(1, most)))
    images, labels, numbers, shards, slices = [], [], [], [], []
    bar = ProgressBar(record.shards, desc="Reading the samples", unit="shard", leave=False, delay=1)
    for shard, start in zip(bar, starts, strict=False):
        within = chosen[(chosen >= start) & (chosen < start + shard.samples)] - start
        if not len(within):
            continue
        image, label, _, _ = bank.load_case(shard.name)
        images.append(image[:].swapaxes(0, 1)[within] if flat else image[:][None])
        labels.append(label[0][within] if flat else label[:])
        numbers += [shard.numbers[place] for place in within]
        shards += [shard.name] * len(within)
        slices += within.tolist()
    samples = SampleSet(np.concatenate(images), np.concatenate(labels).astype(np.int16, copy=False))
    finite = np.isfinite(samples.image).reshape(len(samples), -1).all(axis=1)
    if not finite.any():
        return None
    where = (np.array(part)[finite] for part in (numbers, shards, slices))
    return BankSamples(samples if finite.all() else samples.take(finite), *where, broken=int((~finite).sum()))


def open_reference(record: BankRecord) -> ReferenceSet:
    """The real patches that the bank's first generator was trained on.

    Raises:
        UserError: the cases or the snapshot are gone, or have changed.
    """
    snapshot = record.origin.snapshots[0]
    card = Card.load(Path(snapshot.path) / CARD_FILE)
    if card.weights_sha256 != snapshot.weights_sha256:
        raise UserError(f"The snapshot in {snapshot.path} changed since the bank was filled.")
    plan = card.plan.model_copy(update={"source": record.source})
    return ReferenceSet(open_same_cases(plan), plan, REAL_PATCHES[len(plan.patch_size)])


def find_neighbours(samples: SampleSet, reference: ReferenceSet) -> Neighbours:
    """By the largest normalised cross-correlation over small shifts, among all patches of the training cases."""
    cover, plan = reference.cover.patches, reference.plan
    with ProgressBar(total=len(samples), desc="Searching neighbours", unit="patch") as bar:
        generated = correlation_search(cover, bar.update)(samples, None)
    usual, cases = None, len(np.unique(cover.case))
    if cases > 1:
        keep = cache_folder(plan)
        title = "Comparing real patches"
        with ProgressBar(total=len(reference.real), desc=title, unit="patch", leave=False, delay=1) as bar:
            usual = nearest_other_cases(correlation_search(cover, bar.update), reference.real, cover, CORRELATION, keep)
    threshold = float(np.quantile(usual.score, ALARMS)) if cases >= FEWEST_CASES else None
    return Neighbours(generated, usual, threshold, *_places(reference))


def _places(reference: ReferenceSet) -> tuple[list[str], np.ndarray | None]:
    """Case and position of each patch of the cover, in words; position in the volume, from 0 to 1."""
    plan, cover, words = reference.plan, reference.cover, []
    flat = len(plan.patch_size) == 2
    depths = {case.name: case.image.shape[1] for case in reference.cases()}
    for name, corner in zip(cover.patches.case, cover.corners, strict=True):
        if not flat:
            words.append(f"{name}, from voxel {', '.join(map(str, np.maximum(corner, 0)))}")
        else:
            words.append(f"{name}, slice {corner[0] + 1} of {depths[name]}" if depths[name] > 1 else str(name))
    positions = (cover.corners[:, 0] + 0.5) / [depths[name] for name in cover.patches.case]
    return words, positions if flat and len(np.unique(positions)) > 1 else None
