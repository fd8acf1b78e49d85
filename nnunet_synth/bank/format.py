"""What a bank is on disk: shards that are nnU-Net cases, and `bank.json`, which says where they come from."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import blosc2
import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from stylegan2_cond.data.preprocessed import OUTSIDE, Preprocessed
from stylegan2_cond.documents import Document, explained_write
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256

RECORD_FILE = "bank.json"
SHARD_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
MOST_NAMED = 5  # damaged files in an error
_LOCATIONS = 2000  # of a class in a shard, where there are so many: every draw reads them
_KEPT_OPEN = 128  # shards in a process, a quarter of a MB each; opening takes longer than reading a sample


class DamagedBank(UserError):
    """Files of a bank are not what its record says."""


class Shard(BaseModel):
    """One nnU-Net case of a bank, and the checksum of each of its files.

    Attributes:
        name: of the case.
        numbers: of its samples, in order, in the stream that the bank's seed names.
        next_sample: number of the first sample of the stream that was not drawn for this shard.
        files: SHA-256 of each file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    numbers: tuple[int, ...]
    next_sample: int
    files: dict[str, str]

    @property
    def samples(self) -> int:
        return len(self.numbers)


class SnapshotReference(BaseModel):
    """Which snapshot samples were drawn from, and how often in proportion to the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    weights_sha256: str
    images_seen: int
    variant: str
    weight: float = Field(default=1.0, gt=0)


class GateRecord(BaseModel):
    """What a gate did.

    Attributes:
        refused: samples that it was the first to refuse.
        limits: what it holds samples against, as learnt from the training cases.
        off: why it did not look; None where it did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    refused: int = 0
    limits: dict[str, float] = Field(default_factory=dict)
    off: str | None = None


class BankRecord(Document):
    """`bank.json`: provenance and contents. A bank is complete when its shards hold as many samples as requested.

    Attributes:
        source: the cases that all of the bank's generators learnt from.
        snapshots: that samples are drawn from; more than one are an ensemble.
        masks: what images were drawn for, where a snapshot is of the variant `image`: `real`, `deformed`, or `drawn`.
        mask_snapshot: that drew those masks.
        balanced: each class was asked for equally often; otherwise as the training canvases show them.
        gates: by name, in the order in which they look.
        margin: how much further than the training cases samples may go, as a share of their range.
    """

    remedy: ClassVar[str] = "Delete the bank's folder and fill it again: nnunet-synth bank …"
    format_version: int = 2
    name: str
    source: Source
    snapshots: tuple[SnapshotReference, ...]
    masks: str | None = None
    mask_snapshot: SnapshotReference | None = None
    balanced: bool = False
    canvas: tuple[int, ...]
    seed: int
    requested: int
    shards: tuple[Shard, ...] = ()
    gates: dict[str, GateRecord] = Field(default_factory=dict)
    margin: float = 0.0
    created: str
    release: str

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


def banks_folder(preprocessed: Preprocessed, fold: str) -> Path:
    """Where the banks of a fold lie, beside nnU-Net's own folder of cases."""
    return preprocessed.base / f"{preprocessed.configuration.data_identifier}_synth" / f"fold_{fold}"


def folds_with_bank(preprocessed: Preprocessed, name: str) -> list[str]:
    """The folds that have a bank of this name, complete or not."""
    found = banks_folder(preprocessed, "*").relative_to(preprocessed.base) / name / RECORD_FILE
    return sorted(path.parent.parent.name.removeprefix("fold_") for path in preprocessed.base.glob(str(found)))


def shard_name(number: int) -> str:
    """Of the shard of a bank, counted from 0."""
    return f"synth_{number:05d}"


def find_banks(preprocessed: Preprocessed, fold: str) -> list[Path]:
    """The complete banks of a fold, oldest first.

    Raises:
        UserError: a bank.json that cannot be read.
    """
    records = {path.parent: BankRecord.load(path) for path in banks_folder(preprocessed, fold).glob(f"*/{RECORD_FILE}")}
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


def verify_bank(folder: Path) -> BankRecord:
    """Read `bank.json` and hold every file against its checksum.

    Raises:
        UserError: the bank is not complete.
        DamagedBank: files are missing, cut off or changed.
    """
    record = BankRecord.load(folder / RECORD_FILE)
    if not record.complete:
        raise UserError(
            f"Bank {folder} has {record.samples} of {record.requested} samples. Run the nnunet-synth bank command that "
            f"began it again; it goes on."
        )
    verify_shards(folder, record.shards)
    return record


def verify_shards(folder: Path, shards: Sequence[Shard]) -> int:
    """Hold every file of these shards against its checksum; their size in bytes, all together.

    Raises:
        DamagedBank: files are missing, cut off or changed.
    """
    files = [(folder / name, checksum) for shard in shards for name, checksum in shard.files.items()]
    problems, size = [], 0
    for path, checksum in tqdm(files, desc="Checking the files", unit="file", leave=False, delay=2):
        if not path.exists():
            problems.append(f"{path} is missing")
        elif sha256(path) != checksum:
            problems.append(f"{path} was changed or cut off")
        else:
            size += path.stat().st_size
    if problems:
        more = [f"{len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
        raise DamagedBank(f"{'; '.join([*problems[:MOST_NAMED], *more])}. {BankRecord.remedy}")
    return size


class BankDataset(nnUNetDatasetBlosc2):
    """nnU-Net's dataset over a bank's shards, with a reader of properties that cannot run code."""

    def load_case(self, identifier: str):
        """As nnU-Net's: image, label, None (no previous stage), properties."""
        base = os.path.join(self.source_folder, identifier)
        with open(base + SHARD_ENDINGS[2], "rb") as file:
            image, label = _open_arrays(base, os.fstat(file.fileno()).st_mtime_ns, **self.mmap_kwargs)
            return image, label, None, load_properties(file.read())


@lru_cache(maxsize=_KEPT_OPEN)
def _open_arrays(base: str, written: int, **mapping: str) -> tuple[blosc2.NDArray, ...]:
    """Image and label of a shard, opened but not read; `written` tells one that was filled anew from the one before."""
    return tuple(
        blosc2.open(urlpath=base + ending, mode="r", dparams={"nthreads": 1}, **mapping) for ending in SHARD_ENDINGS[:2]
    )


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy arrays; everything else that pickle could name is refused."""

    _KNOWN: ClassVar[set[tuple[str, str]]] = {
        (module, name)
        for module, name in (
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
        )
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a bank")
        return super().find_class(module, name)


def load_properties(content: bytes) -> Mapping:
    """Unpickle a shard's properties: dicts, tuples, numbers, strings and numpy arrays.

    Raises:
        UserError: the content is cut off, or names anything else.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:
        raise UserError(f"The properties of a shard cannot be trusted or read ({error}). {BankRecord.remedy}") from None


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
