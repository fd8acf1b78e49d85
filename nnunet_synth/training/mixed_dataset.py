"""A dataset for nnU-Net's own loader that returns a real case or, with the probability `ratio`, a synthetic one."""

from __future__ import annotations

import os
from multiprocessing.sharedctypes import RawArray, RawValue

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_synth.bank.format import BankDataset, BankRecord
from nnunet_synth.training.mirror_padding import Margins, MirrorPaddedArray

# One row of counts per process, found by its id: no worker waits for a lock that a killed one may hold.
_ROWS = 2**15


class MixingControl:
    """Memory shared by the trainer, which sets the ratio, and the loader's workers, which count their draws."""

    def __init__(self) -> None:
        self._ratio = RawValue("d", 0.0)
        self._counts = RawArray("q", 2 * _ROWS)
        self._taken = np.zeros(2, dtype=np.int64)

    @property
    def ratio(self) -> float:
        """Probability that a draw is synthetic."""
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
    """Stands in for nnU-Net's dataset of training cases; some draws return a shard of the bank instead.

    With ratio 0, no random state is used, so that nnU-Net's own random numbers stay the same.

    Args:
        real: nnU-Net's dataset of training cases.
        bank: dataset of shards.
        record: of the bank; shards are chosen in proportion to their samples.
        control: shared with the trainer.
        margins: by which synthetic patches are padded.
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

    def load_case(self, identifier: str) -> tuple:
        """Image, label, previous stage and properties: of the case `identifier`, or of a random shard."""
        ratio = self.control.ratio
        synthetic = ratio > 0 and np.random.uniform() < ratio
        self.control.count(synthetic)
        if not synthetic:
            return self.real.load_case(identifier)
        place = int(np.random.uniform() * self._ends[-1])
        name = self._shards[np.searchsorted(self._ends, place, side="right")]
        image, label, previous, properties = self.bank.load_case(name)
        if self.margins:
            image, label = MirrorPaddedArray(image, self.margins), MirrorPaddedArray(label, self.margins)
            properties = {**properties, "class_locations": self.margins.shift(properties["class_locations"])}
        return image, label, previous, properties

    def __getitem__(self, identifier: str) -> tuple:
        return self.load_case(identifier)
