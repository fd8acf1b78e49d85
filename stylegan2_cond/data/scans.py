"""Unlabelled scans with pseudo-labels: a bank of `nnunet-synth pseudo-label`, read without trusting its files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import blosc2
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.data.untrusted_files import PlainName, load_properties, open_plain

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


def banks_folder(base: Path, data_identifier: str, fold: str | int) -> Path:
    """Folder of the banks of a fold, next to nnU-Net's own folder of cases.

    Args:
        base: `nnUNet_preprocessed/DatasetXXX_Name`.
        data_identifier: of the configuration; `*` in a pattern for all.
        fold: `0` to `4`, or `all`; `*` in a pattern for all.
    """
    return base / f"{data_identifier}_synth" / f"fold_{fold}"


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
