"""A dataset that draws real or synthetic cases, for nnU-Net's own loader, in its own worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray, RawValue

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_synth.bank.format import BankDataset, BankRecord
from nnunet_synth.training.mirror_padding import Margins, Mirrored, shifted

# One row of counts per process, found by its id, so that no worker waits for a lock that a killed one may hold.
_ROWS = 2**15
_NOT_COUNTED = 255  # what nnU-Net's -1 turns into as a byte
_MOST_LOOKED_AT = 2**17  # voxels of a crop in which classes are looked for; of larger ones, every so-many-th


@dataclass(frozen=True)
class Tally:
    """Draws, real and synthetic: of all, and of those whose crop shows a class."""

    draws: tuple[int, int]
    showing: dict[int, tuple[int, int]]

    def __str__(self) -> str:
        return f"Synthetic share {_share(self.draws):.4f}" + "".join(
            f", of crops with class {label} {_share(counts):.4f}" for label, counts in self.showing.items()
        )


def _share(counts: tuple[int, int]) -> float:
    return counts[1] / max(1, sum(counts))


class MixingControl:
    """What trainer and running workers tell each other, in memory that all of them share.

    The trainer tells the ratio; the workers count their draws.

    Args:
        classes: labels whose draws are counted one by one, those from 255 on excepted.
    """

    def __init__(self, classes: Sequence[int] = ()) -> None:
        self.classes = tuple(label for label in classes if label < _NOT_COUNTED)
        self._width = 2 * (1 + len(self.classes))
        self._ratio = RawValue("d", 0.0)
        self._counts = RawArray("q", self._width * _ROWS)
        self._taken = np.zeros(self._width, dtype=np.int64)

    @property
    def ratio(self) -> float:
        return self._ratio.value

    @ratio.setter
    def ratio(self, value: float) -> None:
        self._ratio.value = value

    def count(self, synthetic: bool) -> None:
        """Note one draw of this process."""
        self._counts[self._width * (os.getpid() % _ROWS) + synthetic] += 1

    def count_classes(self, crop: np.ndarray, synthetic: bool) -> None:
        """Note the classes that a crop of this process shows."""
        if crop.size > _MOST_LOOKED_AT:
            step = int(np.ceil((crop.size / _MOST_LOOKED_AT) ** (1 / 3)))
            crop = crop[..., ::step, ::step, ::step]
        if crop.itemsize > 1:  # a byte would take 300 for 44
            crop = np.minimum(crop, _NOT_COUNTED)
        seen = crop.astype(np.uint8).tobytes()  # nothing finds a value faster than bytes do
        row = self._width * (os.getpid() % _ROWS)
        for place, label in enumerate(self.classes, start=1):
            self._counts[row + 2 * place + synthetic] += label in seen

    def take(self) -> Tally:
        """What all processes together counted since the last call."""
        total = np.frombuffer(self._counts, dtype=np.int64).reshape(_ROWS, self._width).sum(axis=0)
        new, self._taken = (total - self._taken).reshape(-1, 2).tolist(), total
        return Tally(tuple(new[0]), {label: tuple(pair) for label, pair in zip(self.classes, new[1:], strict=True)})


class Watched:
    """A label array whose crops are noted; what nnU-Net's loader asks of one (`crop_and_pad_nd`)."""

    def __init__(self, array: np.ndarray | Mirrored, control: MixingControl, synthetic: bool):
        self.array, self.control, self.synthetic = array, control, synthetic
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        crop = self.array[box]
        self.control.count_classes(crop, self.synthetic)
        return crop


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
        image, label, previous, properties = self.real.load_case(identifier)
        return image, Watched(label, self.control, False) if ratio > 0 else label, previous, properties

    def __getitem__(self, identifier: str):
        return self.load_case(identifier)

    def _load_shard(self, name: str):
        image, label, previous, properties = self.bank.load_case(name)
        if self.margins:
            image, label = Mirrored(image, self.margins), Mirrored(label, self.margins)
            properties = {**properties, "class_locations": shifted(properties["class_locations"], self.margins)}
        return image, Watched(label, self.control, True), previous, properties
