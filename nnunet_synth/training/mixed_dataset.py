"""A dataset for nnU-Net's own loader that returns a real case or, with given probabilities, a shard of a bank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.training.mirror_padding import Margins, MirrorPaddedArray
from stylegan2_cond.data.scans import BankDataset

# One row of counts per process, found by its id: no worker waits for a lock that a killed one may hold.
_ROWS = 2**15


class MixingControl:
    """Memory shared by the trainer, which sets the ratios, and the loader's workers, which count their draws.

    Args:
        banks: number of banks.
    """

    def __init__(self, banks: int = 1) -> None:
        self._ratios = RawArray("d", banks)
        self._counts = RawArray("q", (1 + banks) * _ROWS)
        self._taken = np.zeros(1 + banks, dtype=np.int64)

    @property
    def ratios(self) -> np.ndarray:
        """`[banks]`: probability that a draw comes from each bank."""
        return np.frombuffer(self._ratios)

    @ratios.setter
    def ratios(self, values: Sequence[float]) -> None:
        self._ratios[:] = values

    def count(self, source: int) -> None:
        """Count one draw of this process: 0 for a real case, else 1 + the number of the bank."""
        self._counts[len(self._taken) * (os.getpid() % _ROWS) + source] += 1

    def take(self) -> list[int]:
        """Draws of all processes since the last call: of real cases, and of each bank."""
        total = np.frombuffer(self._counts, dtype=np.int64).reshape(_ROWS, -1).sum(axis=0)
        taken, self._taken = self._taken, total
        return (total - taken).tolist()


class MixedBank:
    """A bank whose shards are drawn in proportion to their samples.

    Args:
        dataset: of the shards.
        record: of the bank; not kept, since each worker gets a copy of this object.
        margins: by which its samples are padded.
    """

    def __init__(self, dataset: BankDataset, record: BankRecord, margins: Margins):
        self.dataset = dataset
        self.margins = margins
        self._shards = [shard.name for shard in record.shards]
        self._ends = np.cumsum([shard.samples for shard in record.shards])

    def load_random(self) -> tuple:
        """As nnU-Net's `load_case`, of a random shard."""
        place = int(np.random.uniform() * self._ends[-1])
        name = self._shards[np.searchsorted(self._ends, place, side="right")]
        image, label, previous, properties = self.dataset.load_case(name)
        if self.margins:
            image, label = MirrorPaddedArray(image, self.margins), MirrorPaddedArray(label, self.margins)
            properties = {**properties, "class_locations": self.margins.shift(properties["class_locations"])}
        return image, label, previous, properties


class MixedDataset:
    """Stands in for nnU-Net's dataset of training cases; some draws return a shard of a bank instead.

    With ratios of 0, no random state is used, so that nnU-Net's own random numbers stay the same.

    Args:
        real: nnU-Net's dataset of training cases.
        banks: one or several.
        control: shared with the trainer.
    """

    def __init__(self, real: nnUNetBaseDataset, banks: Sequence[MixedBank], control: MixingControl):
        self.real = real
        self.banks = tuple(banks)
        self.control = control
        self.identifiers = real.identifiers
        self.source = 0  # of the last draw: 0 for a real case, else 1 + the number of the bank

    def load_case(self, identifier: str) -> tuple:
        """Image, label, previous stage and properties: of the case `identifier`, or of a random shard."""
        ends = np.cumsum(self.control.ratios)
        self.source = 0
        if ends[-1] > 0 and (chance := np.random.uniform()) < ends[-1]:
            self.source = 1 + int(np.searchsorted(ends, chance, side="right"))
        self.control.count(self.source)
        return self.banks[self.source - 1].load_random() if self.source else self.real.load_case(identifier)

    def __getitem__(self, identifier: str) -> tuple:
        return self.load_case(identifier)
