"""Where a bank's samples come from, in a form that can be shared: checksums and relative paths."""

from __future__ import annotations

from pathlib import Path

from nnunetv2 import paths as nnunet_paths

from nnunet_synth.bank.format import RECORD_FILE, BankDescription, BankRecord, SnapshotReference
from stylegan2_cond.snapshot import sha256


class BankProvenance(BankDescription):
    """A bank's description without its shards, in a form that can be shared.

    Attributes:
        record_sha256: checksum of `bank.json`, which has the checksums of all shards.
        snapshots, mask_snapshot: with paths relative to `$nnUNet_results`; elsewhere only the folder's name.
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
        "snapshots": tuple(_portable(snapshot) for snapshot in record.snapshots),
        "mask_snapshot": record.mask_snapshot and _portable(record.mask_snapshot),
    }
    return BankProvenance(**found)


def _portable(snapshot: SnapshotReference) -> SnapshotReference:
    path, results = Path(snapshot.path), nnunet_paths.nnUNet_results.get()
    below = results and path.is_relative_to(Path(results).resolve())
    return snapshot.model_copy(update={"path": str(path.relative_to(Path(results).resolve())) if below else path.name})
