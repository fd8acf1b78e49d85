"""Checks every file of a bank: checksums first, then contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunet_synth.bank.format import BankRecord, Generators, Scans, Shard
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import SHARD_ENDINGS
from stylegan2_cond.data.untrusted_files import (
    check_array,
    check_finite,
    check_labels,
    check_properties,
    load_properties,
    open_plain,
)
from stylegan2_cond.errors import UserError
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import sha256

MOST_NAMED = 5  # damaged files in an error


class DamagedBank(UserError):
    """Files of a bank are not what its record says."""


def verify_bank(folder: Path, preprocessed: Preprocessed | None = None) -> BankRecord:
    """Read `bank.json` and check every file of the bank.

    Args:
        folder: of the bank.
        preprocessed: with the channels and labels that samples must have; None to skip that check.

    Raises:
        UserError: the bank is not complete.
        DamagedBank: files are missing, truncated or changed, or have invalid contents.
    """
    record = BankRecord.load(folder / RECORD_FILE)
    if not record.complete:
        raise UserError(
            f"Bank {folder} has {record.samples} of {record.requested} samples. Run the command that started it again; "
            f"it continues."
        )
    if preprocessed is not None and isinstance(record.origin, Generators):
        axes, expected = len(record.origin.patch_size), len(preprocessed.patch_size)
        if axes != expected:
            raise DamagedBank(f"Bank {folder} holds samples of {axes} axes, not {expected}. {BankRecord.remedy}")
    verify_files(folder, record, preprocessed)
    return record


def verify_files(folder: Path, record: BankRecord, preprocessed: Preprocessed | None = None) -> int:
    """Check every file of a bank, complete or not: first all checksums, then the contents.

    Returns:
        The total size of the files in bytes.

    Raises:
        DamagedBank: files are missing, truncated or changed, or have invalid contents.
    """
    files = [(folder / name, checksum) for shard in record.shards for name, checksum in shard.files.items()]
    problems, size = [], 0
    for path, checksum in ProgressBar(files, desc="Checking the files", unit="file", leave=False, delay=2):
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif sha256(path) != checksum:
            problems.append(f"{path} was changed or truncated")
        else:
            size += path.stat().st_size
    if problems:
        more = [f"{len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
        raise DamagedBank(f"{'; '.join([*problems[:MOST_NAMED], *more])}. {BankRecord.remedy}")
    for shard in ProgressBar(record.shards, desc="Checking their contents", unit="shard", leave=False, delay=2):
        try:
            _check_shard(folder, record, shard, preprocessed)
        except UserError as error:
            raise DamagedBank(f"{error} {BankRecord.remedy}") from None
    return size


def _check_shard(folder: Path, record: BankRecord, shard: Shard, preprocessed: Preprocessed | None) -> None:
    image_file, label_file, properties_file = (f"{folder / shard.name}{ending}" for ending in SHARD_ENDINGS)
    image, label, channels, labels = open_plain(image_file), open_plain(label_file), 0, None
    if preprocessed is not None:
        channels = determine_num_input_channels(
            preprocessed.plans_manager, preprocessed.configuration, preprocessed.dataset_json
        )
        manager = preprocessed.label_manager
        labels = {OUTSIDE, *manager.all_labels}
        if isinstance(record.origin, Scans) and manager.has_ignore_label:
            labels.add(manager.ignore_label)
    check_array(image, image_file, np.float32, (channels, *shard.shape))
    check_array(label, label_file, np.int16, (1, *shard.shape))
    finite = record.filters.get("finite")
    check_finite(image, image_file, may_be_nan=bool(finite and finite.off))
    check_labels(label, label_file, labels)
    check_properties(load_properties(Path(properties_file).read_bytes()), properties_file, label.shape)
