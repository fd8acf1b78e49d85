"""Fills a bank with the unlabelled cases of a training set and their true labels, as a control for pseudo-labels.

Run as `python -m nnunet_synth.benchmark.true_labels FOLDER FOLD NAME`, within the benchmark's nnU-Net folders.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import RECORD_FILE, BankRecord, TrueLabels, shard_name, write_shard
from nnunet_synth.bank.resume import lock_bank
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.scans import LabelledScan, banks_folder
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar


def fill_true_labels(folder: Path, fold: int, name: str) -> Path:
    """Fill the bank of a fold. After a stop, it is filled from the start.

    Args:
        folder: of the benchmark.
        fold: of the training set.
        name: of the bank.

    Returns:
        The bank's folder.
    """
    design = Design.load(folder / DESIGN_FILE)
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    cases, shards = design.unlabelled(fold), []
    bank = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, fold) / name
    with lock_bank(bank):
        bank.mkdir(parents=True, exist_ok=True)
        hashes = case_hashes(preprocessed, cases)
        for place, case in enumerate(ProgressBar(cases, desc=f"Filling {name}", unit="case")):
            found = preprocessed.load(case)
            image, label = np.asarray(found.image[:], np.float32), np.asarray(found.label[:], np.int16)
            shards.append(write_shard(bank, shard_name(place), image, label, [place], place + 1, preprocessed))
        BankRecord(
            name=name,
            source=Source.of(preprocessed, preprocessed.fold(fold)),
            origin=TrueLabels(scans=tuple(LabelledScan(name=case, image_sha256=hashes[case]) for case in cases)),
            requested=len(cases),
            shards=tuple(shards),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            release=version("nnunet-synth"),
        ).save(bank / RECORD_FILE)
    return bank


if __name__ == "__main__":
    fill_true_labels(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
