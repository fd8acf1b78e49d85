"""What a bank is on disk: shards that are nnU-Net cases, and `bank.json`, which says where they come from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.data.nnunet_folders import BANK_FORMAT, RECORD_FILE, banks_folder
from stylegan2_cond.data.scans import SHARD_ENDINGS, Checksum, LabelledScan
from stylegan2_cond.data.untrusted_files import PlainName
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Record, explained_write
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256

_LOCATIONS = 2000  # most voxels of a class in a shard's `class_locations`, which every draw reads


Length = Annotated[int, Field(ge=1)]


class Shard(BaseModel):
    """One nnU-Net case of a bank.

    Attributes:
        name: of the case.
        numbers: of its samples in the bank's stream, ascending.
        next_sample: number of the first sample after those that were generated for this shard.
        shape: of the image, `[z, y, x]`.
        files: SHA-256 of each file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^synth_\d{5,}$")
    numbers: tuple[int, ...] = Field(min_length=1)
    next_sample: int
    shape: tuple[Length, Length, Length]
    files: dict[str, Checksum]

    @property
    def samples(self) -> int:
        """Number of samples in the shard."""
        return len(self.numbers)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.files.keys() != {self.name + ending for ending in SHARD_ENDINGS}:
            raise ValueError(f"must name exactly the files {', '.join(self.name + ending for ending in SHARD_ENDINGS)}")
        stream = (-1, *self.numbers, self.next_sample)
        if any(one >= next_one for one, next_one in pairwise(stream)):
            raise ValueError("numbers must be ascending and below next_sample")
        return self


class SnapshotReference(BaseModel):
    """A snapshot that generated samples, and its weight in the ensemble."""

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
        corrected: samples that entered after it had changed a few voxels.
        limits: learnt from the training cases.
        off: why it was not used; None if it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    refused: int = 0
    corrected: int = 0
    limits: dict[str, float] = Field(default_factory=dict)
    off: str | None = None


class ScanReference(BaseModel):
    """An unlabelled scan.

    Attributes:
        name: of the case.
        image_sha256: of its preprocessed image, as in `case_hashes`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: PlainName
    image_sha256: Checksum


class MaskScans(BaseModel):
    """The scans towards which masks were deformed.

    Attributes:
        bank: name of the bank of real scans that holds them.
        scans: those that masks came from.
        pairs: of a training case and a scan, that were registered.
        dropped: pairs that gave no mask, since their registration was poor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bank: PlainName
    scans: tuple[ScanReference, ...] = Field(min_length=1)
    pairs: int
    dropped: int


class Generators(BaseModel):
    """The origin of a bank of generated pairs.

    Attributes:
        snapshots: one, or several as an ensemble.
        masks: what images were generated for, if a snapshot is of the variant `image`: `deformed`, `blended`, `real`,
            `registered` or `generated` masks.
        mask_snapshot: the snapshot that generated those masks.
        mask_scans: the scans with which those masks were registered.
        balanced: each class was requested equally often, instead of as often as the training patches show it.
        margin: tolerance of each filter, as a fraction of the real range.
        backends: of the ops that computed the samples (`name_backend`), in the order of their use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["generators"] = "generators"
    snapshots: tuple[SnapshotReference, ...] = Field(min_length=1)
    masks: str | None = None
    mask_snapshot: SnapshotReference | None = None
    mask_scans: MaskScans | None = None
    balanced: bool = False
    patch_size: tuple[Length, ...] = Field(min_length=2, max_length=3)
    seed: int = Field(ge=0)
    margin: float = Field(default=0.0, ge=0)
    backends: tuple[str, ...] = Field(min_length=1)


class Teacher(BaseModel):
    """A trained nnU-Net that labelled scans.

    Attributes:
        path: of the model's folder.
        sha256: of the checkpoint.
        configuration: of nnU-Net, for example `2d`.
        banks: the extra pairs that it was trained with, by name.
        fold: on whose training cases it was trained, if only on a part of those of the bank's fold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    sha256: Checksum
    configuration: str
    banks: tuple[str, ...] = ()
    fold: str | None = None


class UnseenCase(BaseModel):
    """A labelled case as teachers that had not seen it labelled it.

    Attributes:
        name: of the case.
        confidence: of each class that they found, by its name.
        dice: of each of these classes with the true label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: PlainName
    confidence: dict[str, float]
    dice: dict[str, float]


class Scans(BaseModel):
    """The origin of a bank of real scans.

    Attributes:
        scans: in the order in which they were labelled; those that entered are the bank's shards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    scans: tuple[LabelledScan, ...] = ()

    @property
    def evaluation_scans(self) -> tuple[str, ...]:
        """Names of scans that entered though they are validation or test cases."""
        return tuple(scan.name for scan in self.scans if scan.evaluation_case and not scan.refused)


class PseudoLabels(Scans):
    """The origin of a bank of real scans that trained nnU-Nets labelled.

    Attributes:
        teachers: whose probabilities were averaged.
        round: 1 for teachers that were trained on labelled cases alone.
        transductive: validation and test cases could enter.
        unseen_cases: from which the filter `confidence` learnt its limits; none where they are the default or given.
    """

    kind: Literal["pseudo_labels"] = "pseudo_labels"
    teachers: tuple[Teacher, ...] = Field(min_length=1)
    round: int = Field(default=1, ge=1)
    transductive: bool = False
    unseen_cases: tuple[UnseenCase, ...] = ()


class TrueLabels(Scans):
    """The origin of a bank of real scans with the dataset's own labels: a benchmark's control for pseudo-labels."""

    kind: Literal["true_labels"] = "true_labels"


Origin = Generators | PseudoLabels | TrueLabels


class BankDescription(BaseModel):
    """Where a bank's samples come from.

    Attributes:
        source: the cases that its generators or teachers were trained on; those of its fold, if it has neither.
        origin: what made the samples.
        filters: by name, in the order of their use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: PlainName
    source: Source
    origin: Origin = Field(discriminator="kind")
    filters: dict[str, FilterRecord] = Field(default_factory=dict)
    created: str
    release: str


class BankRecord(BankDescription, Record):
    """`bank.json`: the description and the shards.

    Attributes:
        requested: number of samples that a complete bank of generators holds, or of scans that were to be labelled.
    """

    remedy: ClassVar[str] = "Delete the bank's folder and fill it again: nnunet-synth bank …"
    format_version: int = BANK_FORMAT
    requested: int = Field(ge=1)
    shards: tuple[Shard, ...] = ()

    @field_validator("shards")
    @classmethod
    def _in_order(cls, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        first = 0
        for place, shard in enumerate(shards):
            if shard.name != shard_name(place) or shard.numbers[0] < first:
                raise ValueError(f"shard {place} must be {shard_name(place)}, with samples after the previous ones")
            first = shard.next_sample
        return shards

    @model_validator(mode="after")
    def _fitting_shapes(self) -> Self:
        for shard in self.shards:
            if shard.shape != self._shape(shard):
                raise ValueError(f"shard {shard.name} has the shape {shard.shape}, not {self._shape(shard)}")
        return self

    def _shape(self, shard: Shard) -> tuple[int, ...]:
        """Shape that a shard must have: a volume, or slices."""
        if isinstance(self.origin, Scans):
            return shard.shape
        return (shard.samples, *self.origin.patch_size)[-3:]

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def generated(self) -> int:
        """Number of samples that were generated, whether they entered or not."""
        return self.shards[-1].next_sample if self.shards else 0

    @property
    def complete(self) -> bool:
        """Whether the bank holds as many samples as were requested, or all of its scans were labelled."""
        done = len(self.origin.scans) if isinstance(self.origin, Scans) else self.samples
        return self.samples > 0 and done >= self.requested


def folds_with_bank(preprocessed: Preprocessed, name: str) -> list[str]:
    """The folds that have a bank of this name, complete or not."""
    pattern = banks_folder(Path(), preprocessed.configuration.data_identifier, "*") / name / RECORD_FILE
    return sorted(path.parent.parent.name.removeprefix("fold_") for path in preprocessed.base.glob(str(pattern)))


def shard_name(number: int) -> str:
    """Name of a bank's shard, counted from 0."""
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
    """Write one shard through nnU-Net's own classes, read it back, and only then rename its files.

    Args:
        folder: of the bank.
        name: of the case.
        image: `[C, z, y, x]` float32 in nnU-Net's units; for 2-D configurations z counts samples.
        label: `[1, z, y, x]` int16.
        numbers: of the samples in their stream.
        next_sample: number of the sample after this shard.
        preprocessed: with the labels and the patch size for nnU-Net's class locations and chunks.

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
            sizes = {}
            for array, suffix in ((image, ""), (label, "_seg")):
                blocks, chunks = comp_blosc2_params(array.shape, preprocessed.patch_size, array.itemsize)
                sizes |= {f"blocks{suffix}": blocks, f"chunks{suffix}": chunks}
            nnUNetDatasetBlosc2.save_case(image, label, properties, str(scratch / name), **sizes)
            read_image, read_label, _, _ = nnUNetDatasetBlosc2(str(scratch), [name]).load_case(name)
            if not (np.array_equal(read_image[:], image, equal_nan=True) and np.array_equal(read_label[:], label)):
                raise UserError(f"{folder / name} could not be read back unchanged. Is the disk full or damaged?")
            for ending in SHARD_ENDINGS:
                os.replace(scratch / (name + ending), folder / (name + ending))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    files = {name + ending: sha256(folder / (name + ending)) for ending in SHARD_ENDINGS}
    return Shard(name=name, numbers=tuple(numbers), next_sample=next_sample, shape=image.shape[1:], files=files)


def class_locations(label: np.ndarray, preprocessed: Preprocessed) -> dict:
    """Voxels of each class or region, as nnU-Net's preprocessor samples them for its loader's oversampling.

    label: `[1, z, y, x]`. Keys as in `DefaultPreprocessor.run_case_npy`.
    """
    manager = preprocessed.label_manager
    wanted = list(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    if manager.has_ignore_label:
        wanted.append([OUTSIDE, *manager.all_labels])
    return DefaultPreprocessor._sample_foreground_locations(label, wanted, min_num_samples=_LOCATIONS)
