"""A dataset that draws real or synthetic cases, for nnU-Net's own loader, in its own worker processes."""

from __future__ import annotations

import os
from multiprocessing.sharedctypes import RawArray, RawValue

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_synth.bank.format import BankDataset, BankRecord
from nnunet_synth.training.mirror_padding import Margins, Mirrored, shifted

# One row of counts per process, found by its id, so that no worker waits for a lock that a killed one may hold.
_ROWS = 2**15


class MixingControl:
    """Shared memory of the trainer, which sets the ratio, and its running workers, which count their draws."""

    def __init__(self) -> None:
        self._ratio = RawValue("d", 0.0)
        self._counts = RawArray("q", 2 * _ROWS)
        self._taken = np.zeros(2, dtype=np.int64)

    @property
    def ratio(self) -> float:
        return self._ratio.value

    @ratio.setter
    def ratio(self, value: float) -> None:
        self._ratio.value = value

    def count(self, synthetic: bool) -> None:
        """Count one draw of this process."""
        self._counts[2 * (os.getpid() % _ROWS) + synthetic] += 1

    def take(self) -> tuple[int, int]:
        """Real and synthetic draws of all processes since the last call."""
        total = np.frombuffer(self._counts, dtype=np.int64).reshape(_ROWS, 2).sum(axis=0)
        real, synthetic = (total - self._taken).tolist()
        self._taken = total
        return real, synthetic


class MixedDataset:
    """What nnU-Net's loader asks of a dataset: it draws among the real cases, and some draws are answered by a shard.

    With ratio 0 nothing is drawn from any random state, so nnU-Net's own stream of random numbers stays as it is.

    Args:
        real: nnU-Net's dataset of training cases.
        bank: a dataset of shards.
        record: the bank's record; shards are drawn in proportion to their samples.
        control: shared with the trainer.
        margins: that synthetic patches are grown by.
    """

    def __init__(
        self,
        real: nnUNetBaseDataset,
        bank: BankDataset,
        record: BankRecord,
        control: MixingControl,
        margins: Margins,
    ):
        self.real = real
        self.bank = bank
        self.control = control
        self.margins = margins
        self.identifiers = real.identifiers
        self._shards = [shard.name for shard in record.shards]
        self._ends = np.cumsum([shard.samples for shard in record.shards])

    def load_case(self, identifier: str):
        """Image, label, previous stage, properties: of the case asked for, or of a synthetic shard."""
        ratio = self.control.ratio
        synthetic = ratio > 0 and np.random.uniform() < ratio
        self.control.count(synthetic)
        if synthetic:
            place = int(np.random.uniform() * self._ends[-1])
            return self._load_shard(self._shards[np.searchsorted(self._ends, place, side="right")])
        return self.real.load_case(identifier)

    def __getitem__(self, identifier: str):
        return self.load_case(identifier)

    def _load_shard(self, name: str):
        image, label, previous, properties = self.bank.load_case(name)
        if self.margins:
            image, label = Mirrored(image, self.margins), Mirrored(label, self.margins)
            properties = {**properties, "class_locations": shifted(properties["class_locations"], self.margins)}
        return image, label, previous, properties
