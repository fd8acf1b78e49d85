"""A bank that was begun before: gone on with, where the same is wanted, and refused otherwise."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_synth.bank.filters import NOT_WANTED, Filters
from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from stylegan2_cond.errors import UserError


def begun_bank(folder: Path, wanted: BankRecord, without: set[str]) -> BankRecord | None:
    """The record of the bank to go on with, which may be wanted larger now; None where there is none yet.

    Raises:
        UserError: what lies there is another bank, or none.
    """
    if not (folder / RECORD_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is no bank. Choose another name with --name.")
        return None
    record = BankRecord.load(folder / RECORD_FILE)
    if not record.shards:  # nothing ever entered, so there is nothing to keep
        for refused in folder.glob("refused_*.png"):
            refused.unlink()
        return None
    if differing := _difference(record, wanted, without):
        raise UserError(f"Bank {folder} exists, with {differing}. Choose another name with --name.")
    for scratch in folder.glob(".filling_*"):
        shutil.rmtree(scratch)
    requested = max(wanted.requested, record.samples)
    if requested > record.samples and record.backends[-1:] != wanted.backends:
        tqdm.write(
            f"Bank {folder} was filled by the ops backend '{record.backends[-1]}', from here on it is "
            f"'{wanted.backends[0]}': further samples differ in their last digits from those of one run. "
            f"stylegan2-cond doctor shows which backends there are.",
            file=sys.stderr,
        )
        record = record.model_copy(update={"backends": (*record.backends, *wanted.backends)})
    return record.model_copy(update={"requested": requested})


def _difference(record: BankRecord, wanted: BankRecord, without: set[str]) -> str | None:
    """What keeps a bank from being gone on with."""

    def drawn_by(one: BankRecord) -> list:
        masks = one.mask_snapshot and one.mask_snapshot.weights_sha256
        return [masks, *((snapshot.weights_sha256, snapshot.weight) for snapshot in one.snapshots)]

    if drawn_by(record) != drawn_by(wanted):
        return "other snapshots"
    for key in ("seed", "masks", "balanced", "margin"):
        if (then := getattr(record, key)) != getattr(wanted, key):
            return f"{key} {then}"
    if {name for name, filter_ in record.filters.items() if filter_.off == NOT_WANTED} != without:
        return "other filters"
    return None


def refuse_other_filters(folder: Path, record: BankRecord, filters: Filters) -> None:
    """What enters a bank has passed the same filters, from the first sample to the last.

    Raises:
        UserError: a filter has other limits than when the bank was begun.
    """
    for name, now in filters.records().items():
        then = record.filters[name]
        if then.limits.keys() == now.limits.keys() and np.allclose(
            list(then.limits.values()), list(now.limits.values()), rtol=1e-3, atol=1e-6
        ):
            continue
        states = [f"off ({filter_.off})" if filter_.off else "open" for filter_ in (then, now)]
        raise UserError(
            f"The filter '{name}' of bank {folder} was another when it was begun: {states[0]}, now {states[1]}, or "
            f"with other limits, perhaps of another nnU-Net. Choose another name with --name."
        )
