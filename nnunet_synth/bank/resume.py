"""Continues a bank that was started before, if the request is the same, and refuses to otherwise."""

from __future__ import annotations

import errno
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from nnunet_synth.bank.filters import NOT_WANTED, Filters
from nnunet_synth.bank.format import BankRecord, Generators
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import TEXT_LOG, lock_folder
from stylegan2_cond.progress_bar import write_line


@contextmanager
def lock_bank(folder: Path) -> Iterator[None]:
    """Keep other processes from filling the same bank.

    Raises:
        UserError: another process fills it, or the folder cannot be written to.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock_folder(folder, inside=False, remedy="Wait until it is filled, or choose a --name."))
        except UserError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            raise UserError(
                f"No permission to write {folder.parent}, where banks are kept, next to nnU-Net's cases. Work in a "
                f"folder of links to them: mkdir linked && cp -rs --no-preserve=mode "
                f"{shlex.quote(str(folder.parents[2]))} linked && export nnUNet_preprocessed=$PWD/linked"
            ) from None
        yield


def open_record(folder: Path) -> BankRecord | None:
    """The record of the bank in `folder`, or None; removes what a killed process has left half-written there.

    Raises:
        UserError: the folder holds something else, or the record cannot be read.
    """
    if not (folder / RECORD_FILE).exists():
        if folder.exists() and any(path.name != TEXT_LOG for path in folder.iterdir()):
            raise UserError(f"{folder} exists and is not a bank. Choose another name with --name.")
        return None
    record = BankRecord.load(folder / RECORD_FILE)
    for scratch in folder.glob(".filling_*"):
        shutil.rmtree(scratch)
    return record


def resume_bank(folder: Path, requested: BankRecord, without: set[str]) -> BankRecord | None:
    """The record of the bank in `folder`, perhaps with more samples requested; None if there is no bank yet.

    Raises:
        UserError: the folder holds another bank, or something else.
    """
    if (record := open_record(folder)) is None:
        return None
    if not isinstance(record.origin, Generators):
        raise UserError(f"Bank {folder} exists and holds real scans. Choose another name with --name.")
    if not record.shards:  # no sample has entered, so there is nothing to keep
        for refused in folder.glob("refused_*.png"):
            refused.unlink()
        return None
    if differing := _difference(record, requested, without):
        raise UserError(f"Bank {folder} exists with {differing}. Choose another name with --name.")
    samples = max(requested.requested, record.samples)
    before, now = record.origin.backends, requested.origin.backends
    if samples > record.samples and before[-1:] != now:
        write_line(
            f"Bank {folder} was filled with the ops backend '{before[-1]}' and continues with "
            f"'{now[0]}', so further samples differ in their last digits from those of a single run. "
            f"stylegan2-cond doctor shows the available backends.",
            sys.stderr,
        )
        origin = record.origin.model_copy(update={"backends": (*before, *now)})
        record = record.model_copy(update={"origin": origin})
    return record.model_copy(update={"requested": samples})


def _difference(record: BankRecord, requested: BankRecord, without: set[str]) -> str | None:
    """What differs between a bank and a request, in words; None if the bank can be continued."""

    def snapshots_of(one: Generators) -> list:
        masks = one.mask_snapshot and one.mask_snapshot.weights_sha256
        return [masks, *((snapshot.weights_sha256, snapshot.weight) for snapshot in one.snapshots)]

    then_made, now_made = record.origin, requested.origin
    if snapshots_of(then_made) != snapshots_of(now_made):
        return "other snapshots"
    if then_made.masks == now_made.masks and then_made.mask_scans != now_made.mask_scans:
        return "masks registered with other scans"
    for key in ("seed", "masks", "balanced", "margin"):
        if (then := getattr(then_made, key)) != getattr(now_made, key):
            return f"{key} {then}"
    if {name for name, filter_ in record.filters.items() if filter_.off == NOT_WANTED} != without:
        return "other filters"
    return None


def refuse_other_limits(folder: Path, record: BankRecord, filters: Filters) -> None:
    """Check that the filters have the limits that they had when the bank was started.

    Raises:
        UserError: a filter has other limits.
    """
    for name, now in filters.records().items():
        then = record.filters[name]
        if then.limits.keys() == now.limits.keys() and np.allclose(
            list(then.limits.values()), list(now.limits.values()), rtol=1e-3, atol=1e-6
        ):
            continue
        states = [f"off ({filter_.off})" if filter_.off else "on" for filter_ in (then, now)]
        raise UserError(
            f"Filter '{name}' of bank {folder} was {states[0]} when the bank was started and is {states[1]} now, or "
            f"has other limits, perhaps from another nnU-Net. Choose another name with --name."
        )


def fill_command(record: BankRecord) -> str:
    """The command that fills this bank, or continues to fill it."""
    source = record.source
    words = ["nnunet-synth", "bank", source.dataset_name, source.configuration, source.fold]
    words += ["-n", str(record.requested)]
    for one in record.origin.snapshots:
        words += ["--snapshot", one.path + (f"={one.weight:g}" if len(record.origin.snapshots) > 1 else "")]
    if record.origin.masks:
        given, scans = record.origin.mask_snapshot, record.origin.mask_scans
        words += ["--masks", given.path if given else record.origin.masks + (f":{scans.bank}" if scans else "")]
    words += ["--balanced"] * record.origin.balanced
    for name, filter_ in record.filters.items():
        words += ["--without", name] if filter_.off == NOT_WANTED else []
    words += ["--margin", f"{record.origin.margin:g}", "--name", record.name, "--seed", str(record.origin.seed)]
    words += ["-p", source.plans_name] if source.plans_name != "nnUNetPlans" else []
    return shlex.join(words)
