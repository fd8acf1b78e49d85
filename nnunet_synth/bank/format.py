"""What a bank is on disk: shards that are nnU-Net cases, and `bank.json`, which says where they come from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import blosc2
import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from nnunet_synth.bank.plain_files import (
    check_array,
    check_finite,
    check_labels,
    check_properties,
    is_plain_name,
    load_properties,
    open_plain,
)
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Record, explained_write
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import sha256

RECORD_FILE = "bank.json"
SHARD_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
MOST_NAMED = 5  # damaged files in an error
_LOCATIONS = 2000  # of a class in a shard, where there are so many: every draw reads them
_KEPT_OPEN = 128  # shards in a process, a quarter of a MB each; opening takes longer than reading a sample


class DamagedBank(UserError):
    """Files of a bank are not what its record says."""


Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Shard(BaseModel):
    """One nnU-Net case of a bank, and the checksum of each of its files.

    Attributes:
        name: of the case.
        numbers: of its samples, in order, in the stream that the bank's seed names.
        next_sample: number of the first sample of the stream that was not drawn for this shard.
        files: SHA-256 of each file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^synth_\d{5,}$")
    numbers: tuple[int, ...] = Field(min_length=1)
    next_sample: int
    files: dict[str, Checksum]

    @property
    def samples(self) -> int:
        return len(self.numbers)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.files.keys() != {self.name + ending for ending in SHARD_ENDINGS}:
            raise ValueError(f"a shard has just the files {', '.join(self.name + ending for ending in SHARD_ENDINGS)}")
        stream = (-1, *self.numbers, self.next_sample)
        if any(one >= next_one for one, next_one in pairwise(stream)):
            raise ValueError("numbers of samples rise from 0 on, and next_sample is above them")
        return self


class SnapshotReference(BaseModel):
    """Which snapshot samples were drawn from, and how often in proportion to the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    weights_sha256: Checksum
    images_seen: int
    variant: str
    weight: float = Field(default=1.0, gt=0)


class FilterRecord(BaseModel):
    """What a filter did.

    Attributes:
        refused: samples that it was the first to refuse.
        clipped: samples that entered with a few values clipped to its limits.
        limits: what it holds samples against, as learnt from the training cases.
        off: why it did not look; None where it did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    refused: int = 0
    clipped: int = 0
    limits: dict[str, float] = Field(default_factory=dict)
    off: str | None = None


class BankRecord(Record):
    """`bank.json`: provenance and contents. A bank is complete when its shards hold as many samples as requested.

    Attributes:
        source: the cases that all of the bank's generators learnt from.
        snapshots: that samples are drawn from; more than one are an ensemble.
        masks: what images were drawn for, where a snapshot is of the variant `image`: `real`, `deformed`, or `drawn`.
        mask_snapshot: that drew those masks.
        balanced: each class was asked for equally often; otherwise as the training patches show them.
        filters: by name, in the order in which they look.
        margin: how much further than the training cases samples may go, as a share of their range.
        backends: that computed the samples, as `name_backend` names them, in the order of their use.
    """

    remedy: ClassVar[str] = "Delete the bank's folder and fill it again: nnunet-synth bank …"
    format_version: int = 3
    name: str
    source: Source
    snapshots: tuple[SnapshotReference, ...] = Field(min_length=1)
    masks: str | None = None
    mask_snapshot: SnapshotReference | None = None
    balanced: bool = False
    patch_size: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2, max_length=3)
    seed: int = Field(ge=0)
    requested: int = Field(ge=1)
    shards: tuple[Shard, ...] = ()
    filters: dict[str, FilterRecord] = Field(default_factory=dict)
    margin: float = Field(default=0.0, ge=0)
    backends: tuple[str, ...] = Field(min_length=1)
    created: str
    release: str

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not is_plain_name(name):
            raise ValueError("a bank has a plain name, not a path")
        return name

    @field_validator("shards")
    @classmethod
    def _in_order(cls, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        first = 0
        for place, shard in enumerate(shards):
            if shard.name != shard_name(place) or shard.numbers[0] < first:
                raise ValueError(f"shard {place} is {shard_name(place)}, and its samples follow those before it")
            first = shard.next_sample
        return shards

    @model_validator(mode="after")
    def _one_volume_each(self) -> Self:
        if len(self.patch_size) == 3 and any(shard.samples != 1 for shard in self.shards):
            raise ValueError("a shard of volumes holds one sample")
        return self

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def drawn(self) -> int:
        """Samples that were drawn, whether they entered or not."""
        return self.shards[-1].next_sample if self.shards else 0

    @property
    def complete(self) -> bool:
        return self.samples >= self.requested


def banks_folder(base: Path, data_identifier: str, fold: str | int) -> Path:
    """Folder of the banks of a fold, next to nnU-Net's own folder of cases.

    Args:
        base: `nnUNet_preprocessed/DatasetXXX_Name`.
        data_identifier: of the configuration; `*` in a pattern for all.
        fold: `0` to `4`, or `all`; `*` in a pattern for all.
    """
    return base / f"{data_identifier}_synth" / f"fold_{fold}"


def folds_with_bank(preprocessed: Preprocessed, name: str) -> list[str]:
    """The folds that have a bank of this name, complete or not."""
    pattern = banks_folder(Path(), preprocessed.configuration.data_identifier, "*") / name / RECORD_FILE
    return sorted(path.parent.parent.name.removeprefix("fold_") for path in preprocessed.base.glob(str(pattern)))


def shard_name(number: int) -> str:
    """Of the shard of a bank, counted from 0."""
    return f"synth_{number:05d}"


def find_banks(folder: Path) -> list[Path]:
    """The complete banks in a fold's `banks_folder`, oldest first.

    Raises:
        UserError: a bank.json that cannot be read.
    """
    records = {path.parent: BankRecord.load(path) for path in folder.glob(f"*/{RECORD_FILE}")}
    return sorted((path for path, record in records.items() if record.complete), key=lambda path: records[path].created)


def write_shard(
    folder: Path,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    numbers: Sequence[int],
    next_sample: int,
    preprocessed: Preprocessed,
) -> Shard:
    """Write one shard through nnU-Net's own classes, read it back, and only then give it its name.

    Args:
        folder: of the bank.
        name: of the case.
        image: `[C, z, y, x]` float32 in nnU-Net's units; for 2-D configurations z counts samples.
        label: `[1, z, y, x]` int16.
        numbers: of the samples, in the stream that they are of.
        next_sample: where the stream of samples goes on after this shard.
        preprocessed: whose labels and patch size the shard follows.

    Raises:
        UserError: the disk is full, or what was read back is not what was written.
    """
    properties = {
        "class_locations": class_locations(label, preprocessed),
        "spacing": preprocessed.configuration.spacing,
    }
    scratch = Path(tempfile.mkdtemp(prefix=".filling_", dir=folder))
    try:
        with explained_write(folder / name):
            _save_case(scratch, name, image, label, properties, preprocessed)
            read_image, read_label, _, _ = nnUNetDatasetBlosc2(str(scratch), [name]).load_case(name)
            if not (np.array_equal(read_image[:], image, equal_nan=True) and np.array_equal(read_label[:], label)):
                raise UserError(f"{folder / name} was not stored as it was written. Is the disk full or damaged?")
            for ending in SHARD_ENDINGS:
                os.replace(scratch / (name + ending), folder / (name + ending))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    files = {name + ending: sha256(folder / (name + ending)) for ending in SHARD_ENDINGS}
    return Shard(name=name, numbers=tuple(numbers), next_sample=next_sample, files=files)


def class_locations(label: np.ndarray, preprocessed: Preprocessed) -> dict:
    """Where each class (or region) lies, by nnU-Net's own sampling, which its loader oversamples by.

    label: `[1, z, y, x]`. The keys are those of `DefaultPreprocessor.run_case_npy`.
    """
    manager = preprocessed.label_manager
    wanted = list(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    if manager.has_ignore_label:
        wanted.append([OUTSIDE, *manager.all_labels])
    return DefaultPreprocessor._sample_foreground_locations(label, wanted, min_num_samples=_LOCATIONS)


def verify_bank(folder: Path, preprocessed: Preprocessed | None = None) -> BankRecord:
    """Read `bank.json` and hold every file against it.

    Args:
        folder: of the bank.
        preprocessed: whose channels and labels the samples must have; not looked at, when None.

    Raises:
        UserError: the bank is not complete.
        DamagedBank: files are missing, cut off or changed, or hold what a bank does not hold.
    """
    record = BankRecord.load(folder / RECORD_FILE)
    if not record.complete:
        raise UserError(
            f"Bank {folder} has {record.samples} of {record.requested} samples. Run the nnunet-synth bank command that "
            f"began it again; it goes on."
        )
    if preprocessed is not None and len(record.patch_size) != (axes := len(preprocessed.patch_size)):
        raise DamagedBank(
            f"Bank {folder} holds samples of {len(record.patch_size)} axes, not {axes}. {BankRecord.remedy}"
        )
    verify_shards(folder, record, record.shards, preprocessed)
    return record


def verify_shards(
    folder: Path, record: BankRecord, shards: Sequence[Shard], preprocessed: Preprocessed | None = None
) -> int:
    """Hold every file of these shards against its checksum, and then what is in it against the record.

    Returns:
        The size of the files in bytes, all together.

    Raises:
        DamagedBank: files are missing, cut off or changed, or hold what a bank does not hold.
    """
    files = [(folder / name, checksum) for shard in shards for name, checksum in shard.files.items()]
    problems, size = [], 0
    for path, checksum in ProgressBar(files, desc="Checking the files", unit="file", leave=False, delay=2):
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256(path) != checksum:
            problems.append(f"{path} was changed or cut off")
        else:
            size += path.stat().st_size
    if problems:
        more = [f"{len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
        raise DamagedBank(f"{'; '.join([*problems[:MOST_NAMED], *more])}. {BankRecord.remedy}")
    for shard in ProgressBar(shards, desc="Checking what they hold", unit="shard", leave=False, delay=2):
        try:
            _check_shard(folder, record, shard, preprocessed)
        except UserError as error:
            raise DamagedBank(f"{error} {BankRecord.remedy}") from None
    return size


def _check_shard(folder: Path, record: BankRecord, shard: Shard, preprocessed: Preprocessed | None) -> None:
    image_file, label_file, properties_file = (f"{folder / shard.name}{ending}" for ending in SHARD_ENDINGS)
    image, label = open_plain(image_file), open_plain(label_file)
    spatial = (shard.samples, *record.patch_size) if len(record.patch_size) == 2 else record.patch_size
    check_array(image, image_file, np.float32, (_channels(preprocessed), *spatial))
    check_array(label, label_file, np.int16, (1, *spatial))
    finite = record.filters.get("finite")
    check_finite(image, image_file, may_be_nan=bool(finite and finite.off))
    labels = None if preprocessed is None else {OUTSIDE, *preprocessed.label_manager.all_labels}
    check_labels(label, label_file, labels)
    check_properties(load_properties(Path(properties_file).read_bytes()), properties_file, label.shape)


def _channels(preprocessed: Preprocessed | None) -> int:
    """Of images; 0 where it is not known."""
    if preprocessed is None:
        return 0
    return determine_num_input_channels(
        preprocessed.plans_manager, preprocessed.configuration, preprocessed.dataset_json
    )


class BankDataset(nnUNetDatasetBlosc2):
    """nnU-Net's dataset over a bank's shards, with readers that cannot run code."""

    def load_case(self, identifier: str):
        """As nnU-Net's: image, label, None (no previous stage), properties."""
        base = os.path.join(self.source_folder, identifier)
        with open(base + SHARD_ENDINGS[2], "rb") as file:
            image, label = _open_arrays(base, os.fstat(file.fileno()).st_mtime_ns, **self.mmap_kwargs)
            return image, label, None, load_properties(file.read())


@lru_cache(maxsize=_KEPT_OPEN)
def _open_arrays(base: str, written: int, **mapping: str) -> tuple[blosc2.NDArray, ...]:
    """Image and label of a shard, opened but not read; `written` tells one that was filled anew from the one before."""
    return tuple(open_plain(base + ending, **mapping) for ending in SHARD_ENDINGS[:2])


def _save_case(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray, properties: dict, preprocessed: Preprocessed
) -> None:
    blocks, chunks = comp_blosc2_params(image.shape, preprocessed.patch_size, image.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(label.shape, preprocessed.patch_size, label.itemsize)
    nnUNetDatasetBlosc2.save_case(
        image,
        label,
        properties,
        str(folder / name),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )
