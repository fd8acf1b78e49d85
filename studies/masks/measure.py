"""Masks that images are generated for: how they look, what `anatomy` refuses, and the Dice of registered ones.

    python studies/masks/measure.py DATASET CONFIGURATION FOLD BANK -o FOLDER

The bank holds cases of the dataset itself as scans, so that their true labels are known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from nnunet_synth.bank import MARGIN
from nnunet_synth.bank.calibration import REAL_PATCHES, FilterCalibration
from nnunet_synth.bank.filters import Anatomy
from nnunet_synth.bank.registered_masks import open_registered_masks
from nnunet_synth.pseudo_labels.confidence import dice
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.metrics.reference_sets import ReferenceSet
from stylegan2_cond.planning import RunOptions, make_plan
from stylegan2_cond.snapshot.mask_sources import RealMasks
from stylegan2_cond.visualization import overlay_grid, save_picture

COUNT, SHOWN, COLUMNS = 1000, 24, 12


def mean_dice(label: np.ndarray, truth: np.ndarray) -> float:
    """Over the foreground classes of the true label."""
    return float(np.mean([dice(label == value, truth == value) for value in np.unique(truth[truth > 0])]))


def agreement(registered: RealMasks, preprocessed: Preprocessed, scans: ScanBank) -> str:
    """Dice of registered masks and of pseudo-labels with the true labels of the same scans."""
    rows = []
    for pair, label in registered.patches.cases.labels.items():
        name = pair.split("/")[1]
        truth = np.asarray(preprocessed.load(name).label[0])
        rows.append((mean_dice(label, truth), mean_dice(np.asarray(scans.load(name).label[0]), truth)))
    ours, theirs = np.array(rows).T
    return (
        f"Dice with true labels, {len(rows)} pairs: registered {100 * ours.mean():.1f}, pseudo-labels "
        f"{100 * theirs.mean():.1f}; registered better in {(ours > theirs).sum()}; worst "
        f"{100 * ours.min():.0f} and {100 * theirs.min():.0f}"
    )


def main() -> None:
    """Write `masks.png` and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("dataset", "configuration", "fold", "bank"):
        parser.add_argument(name)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args()
    preprocessed = open_preprocessed(arguments.dataset, arguments.configuration)
    fold = preprocessed.fold(arguments.fold)
    options = RunOptions(arguments.dataset, arguments.configuration, arguments.fold, variant="image")
    plan = make_plan(options, preprocessed, fold)
    registered, record = open_registered_masks(preprocessed, plan, arguments.bank)
    print(f"{record.dropped} of {record.pairs} registrations were dropped")
    print(agreement(registered, preprocessed, ScanBank.open(preprocessed, fold, arguments.bank)))
    reference = ReferenceSet(preprocessed, plan, REAL_PATCHES[len(plan.patch_size)])
    anatomy, shown = Anatomy(FilterCalibration(reference, plan.codec.labels, None, MARGIN)), []
    for kind in ("deformed", "blended", "registered"):
        source = registered if kind == "registered" else RealMasks.of_cases(preprocessed, plan, kind)
        label, _ = source.sample(0, range(COUNT))
        label = plan.codec.decode_label(plan.codec.encode_label(torch.from_numpy(label))).numpy()
        refused = ~anatomy.allows(SampleSet(np.empty((COUNT, 0, *plan.patch_size)), label))
        print(f"anatomy refuses {refused.sum()} of {COUNT} {kind} masks")
        shown.append(label[:SHOWN])
    labels = np.concatenate(shown)
    arguments.output.mkdir(parents=True, exist_ok=True)
    empty = np.empty((len(labels), 0, *plan.patch_size))
    picture = overlay_grid(empty, labels, low=(), high=(), labels=plan.codec.labels, columns=COLUMNS)
    save_picture(arguments.output / "masks.png", picture)


if __name__ == "__main__":
    main()
