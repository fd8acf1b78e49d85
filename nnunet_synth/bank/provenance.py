"""Where a bank's samples come from, in a form that can be shared: checksums and relative paths."""

from __future__ import annotations

from pathlib import Path

from nnunetv2 import paths as nnunet_paths

from nnunet_synth.bank.format import (
    BankDescription,
    BankRecord,
    Origin,
    PseudoLabels,
    SnapshotReference,
    Teacher,
    TrueLabels,
)
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.snapshot import sha256


class BankProvenance(BankDescription):
    """A bank's description without its shards, in a form that can be shared.

    Attributes:
        record_sha256: checksum of `bank.json`, which has the checksums of all shards.
        origin: with paths of snapshots and teachers relative to `$nnUNet_results`; elsewhere only the folder's name.
        samples, generated: number of samples in the bank, and of all that were generated for it.
    """

    record_sha256: str
    samples: int
    generated: int


def provenance(folder: Path) -> BankProvenance:
    """Provenance of the bank in `folder`.

    Raises:
        UserError: `bank.json` is missing or cannot be read.
    """
    record = BankRecord.load(folder / RECORD_FILE)
    found = {key: getattr(record, key) for key in (*BankDescription.model_fields, "samples", "generated")} | {
        "record_sha256": sha256(folder / RECORD_FILE),
        "origin": _portable_origin(record.origin),
    }
    return BankProvenance(**found)


def _portable_origin(origin: Origin) -> Origin:
    if isinstance(origin, TrueLabels):
        return origin
    if isinstance(origin, PseudoLabels):
        return origin.model_copy(update={"teachers": tuple(_portable(teacher) for teacher in origin.teachers)})
    masks = origin.mask_snapshot and _portable(origin.mask_snapshot)
    return origin.model_copy(update={"snapshots": tuple(map(_portable, origin.snapshots)), "mask_snapshot": masks})


def _portable(made_by: SnapshotReference | Teacher) -> SnapshotReference | Teacher:
    path, results = Path(made_by.path), nnunet_paths.nnUNet_results.get()
    below = results and path.is_relative_to(Path(results).resolve())
    return made_by.model_copy(update={"path": str(path.relative_to(Path(results).resolve())) if below else path.name})
