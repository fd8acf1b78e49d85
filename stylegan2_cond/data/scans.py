"""Unlabelled scans with pseudo-labels: a bank of `nnunet-synth pseudo-label`, read without trusting its files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.data.nnunet_dataset import Case, Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import BANK_FORMAT, RECORD_FILE, banks_folder
from stylegan2_cond.data.untrusted_files import PlainName, is_plain_name, load_properties, open_plain
from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.io import Record

SHARD_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
_OPEN_SHARDS = 128  # of a process, a quarter of a MB each; opening one takes longer than reading a sample
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LabelledScan(BaseModel):
    """An unlabelled scan and what its teachers made of it.

    Attributes:
        name: of the case.
        image_sha256: of its preprocessed image, as in `case_hashes`.
        refused: the filter that refused it, and why; None if it entered.
        ignored: classes that became ignored voxels because a filter refused the class.
        confidence: of each class that the teachers found, by its name.
        evaluation_case: the validation or test case that it is, in words; None if it is none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: PlainName
    image_sha256: Checksum
    refused: str | None = None
    ignored: tuple[str, ...] = ()
    confidence: dict[str, float] = Field(default_factory=dict)
    evaluation_case: str | None = None


class _Shard(BaseModel):
    name: PlainName


class _Origin(BaseModel):
    kind: str
    scans: tuple[LabelledScan, ...] = ()


class _Source(BaseModel):
    preprocessing: str
    training_cases: tuple[str, ...]


class _ScanRecord(Record):
    """The part of a bank's record that a generator needs; the plugin's `BankRecord` is the whole of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    remedy: ClassVar[str] = "Delete the bank's folder and fill it again: nnunet-synth pseudo-label …"
    format_version: int = BANK_FORMAT
    requested: int
    source: _Source
    origin: _Origin
    shards: tuple[_Shard, ...]


@dataclass(frozen=True)
class ScanBank:
    """The scans of a bank, with their pseudo-labels.

    Attributes:
        folder: of the bank.
        scans: those that entered.
        shards: names of their shards.
        by_confidence: draw a scan in proportion to the confidence of its least certain class, instead of all alike.
    """

    folder: Path
    scans: tuple[LabelledScan, ...]
    shards: tuple[str, ...]
    by_confidence: bool

    @classmethod
    def open(cls, preprocessed: Preprocessed, fold: Fold, bank: str, *, by_confidence: bool = False) -> ScanBank:
        """The scans of a fold's bank.

        Raises:
            UserError: no such bank exists, or it holds generated pairs, is incomplete, or belongs to other cases.
        """
        place = f"{preprocessed.dataset_name} {preprocessed.configuration_name} {fold.name}"
        command = f"nnunet-synth pseudo-label {place} -i FOLDER"
        banks = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, fold.name)
        folder = banks / bank
        if not is_plain_name(bank) or not (folder / RECORD_FILE).exists():
            there = sorted(path.parent.name for path in banks.glob(f"*/{RECORD_FILE}"))
            raise UserError(
                f"There is no bank '{bank}' in {banks}. "
                + (f"The banks there are: {', '.join(there)}. " if there else "")
                + f"Fill one: {command}"
            )
        record = _ScanRecord.load(folder / RECORD_FILE)
        if not record.origin.scans:
            raise UserError(f"Bank {folder} holds generated pairs. Choose a bank of scans, or fill one: {command}")
        if len(record.origin.scans) < record.requested:
            raise UserError(
                f"Bank {folder} has {len(record.origin.scans)} of {record.requested} scans. Repeat the command that "
                f"fills it: {command} --name {bank}"
            )
        made, here = record.source, (preprocessed.preprocessing_hash, set(fold.training))
        if (made.preprocessing, set(made.training_cases)) != here:
            raise UserError(
                f"Bank {folder} was filled with other preprocessing or other training cases than fold {fold.name} has "
                f"now. Fill one of another name: {command} --name NAME"
            )
        entered = tuple(scan for scan in record.origin.scans if not scan.refused)
        if not entered:
            raise UserError(
                f"Bank {folder} has no scan: all {record.requested} were refused. nnunet-synth inspect {folder} shows "
                f"why."
            )
        if len(entered) != len(record.shards):
            raise UserError(
                f"Bank {folder} lists {len(entered)} scans and {len(record.shards)} shards. {record.remedy}"
            )
        return cls(folder, entered, tuple(shard.name for shard in record.shards), by_confidence)

    @property
    def names(self) -> list[str]:
        """Names of the scans."""
        return [scan.name for scan in self.scans]

    @property
    def record_sha256(self) -> str:
        """Checksum of the bank's record, which has the checksums of all shards."""
        return hashlib.sha256((self.folder / RECORD_FILE).read_bytes()).hexdigest()

    def draw(self, rng: np.random.Generator) -> str:
        """The name of a random scan."""
        return self.scans[rng.choice(len(self.scans), p=self._chances)].name

    def load(self, name: str) -> Case:
        """Open one scan.

        Raises:
            UserError: its files are missing or cannot be read.
        """
        try:
            image, label, _, properties = self._dataset.load_case(self._shards[name])
        except OSError as error:
            raise self.unreadable(name, error) from None
        return Case(name, image, label, properties["class_locations"], labelled=False)

    def unreadable(self, name: str, error: Exception) -> UserError:
        """What to raise if a scan cannot be read, or not to its end."""
        why = getattr(error, "strerror", None) or first_line(error)
        return UserError(f"Scan {name} of bank {self.folder} cannot be read ({why}). {_ScanRecord.remedy}")

    @cached_property
    def _dataset(self) -> BankDataset:
        """The bank as a dataset; it looks for no cases until one is loaded."""
        return BankDataset(str(self.folder), [])

    @cached_property
    def _shards(self) -> dict[str, str]:
        """Name of each scan's shard."""
        return dict(zip(self.names, self.shards, strict=True))

    @cached_property
    def _chances(self) -> np.ndarray | None:
        """Probability of each scan; None if all are alike."""
        if not self.by_confidence:
            return None
        certain = np.array([min(scan.confidence.values(), default=1.0) for scan in self.scans])
        return certain / certain.sum()


class BankDataset(nnUNetDatasetBlosc2):
    """nnU-Net's dataset of a bank's shards, with readers that cannot run code."""

    def load_case(self, identifier: str) -> tuple:
        """As nnU-Net's: image, label, None (no previous stage), properties."""
        base = os.path.join(self.source_folder, identifier)
        with open(base + SHARD_ENDINGS[2], "rb") as file:
            image, label = _open_arrays(base, os.fstat(file.fileno()).st_mtime_ns, **self.mmap_kwargs)
            return image, label, None, load_properties(file.read())


@lru_cache(maxsize=_OPEN_SHARDS)
def _open_arrays(base: str, written: int, **mapping: str) -> tuple[blosc2.NDArray, ...]:
    """Image and label of a shard, opened but not read; `written` changes when a shard is replaced."""
    return tuple(open_plain(base + ending, **mapping) for ending in SHARD_ENDINGS[:2])
