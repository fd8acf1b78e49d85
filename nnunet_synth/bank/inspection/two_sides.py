"""Samples read out of a bank's shards, spread evenly over all of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankDataset, BankRecord, Shard
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.progress_bar import ProgressBar

MOST_SAMPLES = {2: 1000, 3: 150}  # by the number of axes; as many as there are real patches beside them
MOST_BYTES = 2**28  # of their images


@dataclass(frozen=True)
class Drawn:
    """Samples of a bank, and where each is to be found.

    Attributes:
        samples: `[N, C, *spatial]` and `[N, *spatial]`, all of them finite.
        numbers: `[N]`, in the stream that the bank's seed names.
        shards: `[N]` names of the cases that hold them.
        slices: `[N]`, which slice of its shard each 2-D sample is; 0 in 3-D.
        broken: how many were left out, since they hold values that are no numbers.
    """

    samples: SampleSet
    numbers: np.ndarray
    shards: np.ndarray
    slices: np.ndarray
    broken: int = 0

    def __len__(self) -> int:
        return len(self.numbers)


def spread(total: int, count: int) -> np.ndarray:
    """At most `count` of the numbers from 0 to `total - 1`, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def read_samples(folder: Path, record: BankRecord) -> Drawn | None:
    """As many samples as a page looks at; the same ones each time. None where there is none, or none that is finite.

    Raises:
        UserError: the properties of a shard cannot be trusted, or it does not hold what the record says.
    """
    if not record.samples:
        return None
    bank = BankDataset(str(folder), [shard.name for shard in record.shards])
    starts = list(accumulate((shard.samples for shard in record.shards), initial=0))
    shard_bytes = 4 * math.prod(bank.load_case(record.shards[0].name)[0].shape)
    bytes_each = shard_bytes // record.shards[0].samples
    most = min(MOST_SAMPLES[len(record.patch_size)], max(1, MOST_BYTES // bytes_each))
    chosen = spread(record.samples, most)
    images, labels, numbers, shards, slices = [], [], [], [], []
    bar = ProgressBar(record.shards, desc="Reading the samples", unit="shard", leave=False, delay=1)
    for shard, start in zip(bar, starts, strict=False):
        within = chosen[(chosen >= start) & (chosen < start + shard.samples)] - start
        if not len(within):
            continue
        image, label, _, _ = bank.load_case(shard.name)
        if (there := image.shape[1:]) != _shape(record, shard):
            raise UserError(f"{folder / shard.name} holds {there} voxels, bank.json tells of {_shape(record, shard)}.")
        if len(record.patch_size) == 2:
            image, label = image[:].swapaxes(0, 1)[within], label[0][within]
        else:
            image, label = image[:][None], label[:]
        images.append(image)
        labels.append(label)
        numbers += [shard.numbers[place] for place in within]
        shards += [shard.name] * len(within)
        slices += within.tolist()
    samples = SampleSet(np.concatenate(images), np.concatenate(labels).astype(np.int16, copy=False))
    return _finite(Drawn(samples, np.array(numbers), np.array(shards), np.array(slices)))


def _shape(record: BankRecord, shard: Shard) -> tuple[int, ...]:
    """`(z, y, x)` of a shard; of 2-D samples, z counts samples."""
    return (shard.samples, *record.patch_size) if len(record.patch_size) == 2 else record.patch_size


def _finite(drawn: Drawn) -> Drawn | None:
    """Without the samples that a filter left open has let in."""
    whole = np.isfinite(drawn.samples.image).reshape(len(drawn), -1).all(axis=1)
    if whole.all():
        return drawn
    if not whole.any():
        return None
    left = (part[whole] for part in (drawn.numbers, drawn.shards, drawn.slices))
    return Drawn(drawn.samples.take(whole), *left, broken=int((~whole).sum()))
