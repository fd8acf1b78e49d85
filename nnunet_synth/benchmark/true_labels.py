"""Fills a bank whose worth is known: with the unlabelled cases of a training set and their true labels, or worse ones.

Run as `python -m nnunet_synth.benchmark.true_labels FOLDER FOLD NAME CONTENT`, within the benchmark's nnU-Net folders.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord, TrueLabels, shard_name, write_shard
from nnunet_synth.bank.resume import lock_bank
from nnunet_synth.benchmark.arms import COPIES, SHUFFLED, TRUE_LABELS
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.scans import LabelledScan
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar


def fill_true_labels(folder: Path, fold: int, name: str, content: str = TRUE_LABELS) -> Path:
    """Fill the bank of a fold. After a stop, it is filled from the start.

    Args:
        folder: of the benchmark.
        fold: of the training set.
        name: of the bank.
        content: `true-labels`; `shuffled-labels`, each case with those of the next one, stretched to its shape; or
            `copies` of the training cases.

    Returns:
        The bank's folder.
    """
    design = Design.load(folder / DESIGN_FILE)
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    cases, shards = design.training_cases(fold) if content == COPIES else design.unlabelled(fold), []
    bank = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, fold) / name
    with lock_bank(bank):
        bank.mkdir(parents=True, exist_ok=True)
        hashes = case_hashes(preprocessed, cases)
        for place, case in enumerate(ProgressBar(cases, desc=f"Filling {name}", unit="case")):
            found = preprocessed.load(case)
            image, label = np.asarray(found.image[:], np.float32), np.asarray(found.label[:], np.int16)
            if content == SHUFFLED:
                label = _stretch(np.asarray(preprocessed.load(cases[place - 1]).label[:], np.int16), label.shape)
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


def _stretch(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Nearest neighbours on another grid."""
    return label[np.ix_(*(np.arange(new) * old // new for new, old in zip(shape, label.shape, strict=True)))]


if __name__ == "__main__":
    fill_true_labels(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
