"""Letting a bank grow by what it was filled from: `python -m nnunet_synth.bank.grow BANK SAMPLES DEVICE`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nnunet_synth.bank.ensemble import DRAWN, Order
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.filters import NOT_WANTED
from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.errors import UserError

NICENESS = 10  # training comes first


def grow_bank(folder: Path, samples: int, device: str = "cpu", **options: object) -> None:
    """Fill a bank on, with everything as it was when it was begun; it stays complete all the while.

    Raises:
        UserError: a snapshot that is gone or was changed, and whatever filling raises.
    """
    record = BankRecord.load(folder / RECORD_FILE)
    source = record.source
    masks = record.mask_snapshot.path if record.masks == DRAWN and record.mask_snapshot else record.masks
    fill_bank(
        open_preprocessed(source.dataset_name, source.configuration, source.plans_name),
        source.fold,
        samples=samples,
        order=Order(
            snapshots=tuple(f"{snapshot.path}={snapshot.weight}" for snapshot in record.snapshots),
            masks=masks,
            balanced=record.balanced,
        ),
        seed=record.seed,
        without=[name for name, filter_ in record.filters.items() if filter_.off == NOT_WANTED],
        margin=record.margin,
        device=device,
        growing=folder,
        **options,
    )


def main() -> None:
    """Grow until done, or until the process that began this one is gone."""
    folder, samples, device = sys.argv[1:]
    parent = os.getppid()
    os.nice(NICENESS)
    try:
        grow_bank(Path(folder), int(samples), device, wanted_still=lambda: os.getppid() == parent)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
