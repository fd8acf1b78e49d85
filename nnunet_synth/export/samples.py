"""A bank's samples as cases: volumes as they are, slices alone or stacked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankDataset, BankRecord


def sample_cases(folder: Path, record: BankRecord, per_case: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cases in the bank's order: image `[C, z, y, x]` float32 in nnU-Net's units, label `[z, y, x]` int16.

    Args:
        folder: of the bank.
        record: of the bank.
        per_case: slices that make a case, for 2-D samples; the last case may have fewer.
    """
    samples = _samples(folder, record)
    if len(record.patch_size) == 3:
        yield from samples
        return
    while group := list(itertools.islice(samples, per_case)):
        image, label = zip(*group, strict=True)
        yield np.stack(image, axis=1), np.stack(label)


def value_range(folder: Path, record: BankRecord) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest value of each channel, `[C]`."""
    lowest, highest = [], []
    for image, _ in sample_cases(folder, record, per_case=64):
        lowest.append(image.min(axis=(1, 2, 3)))
        highest.append(image.max(axis=(1, 2, 3)))
    return np.min(lowest, axis=0), np.max(highest, axis=0)


def _samples(folder: Path, record: BankRecord) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """image `[C, *spatial]`, label `[*spatial]` of each sample."""
    dataset = BankDataset(str(folder), [shard.name for shard in record.shards])
    for shard in record.shards:
        image, label, _, _ = dataset.load_case(shard.name)
        image, label = image[:], label[0]
        if len(record.patch_size) == 3:
            yield image, label
        else:
            yield from zip(image.swapaxes(0, 1), label, strict=True)
