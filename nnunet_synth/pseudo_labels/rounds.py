"""Self-training: nnU-Net is trained with a bank of pseudo-labelled scans, and labels the scans again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from nnunetv2 import paths as nnunet_paths

from nnunet_synth.launcher import run_training
from nnunet_synth.pseudo_labels.confidence import TargetClass, dice, target_classes
from nnunet_synth.pseudo_labels.label import PseudoLabelResult, pseudo_label
from nnunet_synth.pseudo_labels.request import PseudoLabelRequest
from nnunet_synth.training.settings import RATIO_OF_SCANS, make_settings, write_plans
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.nnunet_folders import CHECKPOINTS
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import keep_log
from stylegan2_cond.progress_bar import write_line

SETTLED = 0.98  # mean Dice between the labels of two rounds, from which on another round would change little


def run_rounds(
    preprocessed: Preprocessed, fold_name: str, request: PseudoLabelRequest, device: str, rounds: int, trainer: str
) -> PseudoLabelResult:
    """Label scans, train nnU-Net with them by its own command, and let it label them again, until labels settle.

    Finished rounds and trainings are found again, and stopped ones continue. The bank of the first round has the name
    of the request, that of round r `<name>_round_<r>`.

    Args:
        preprocessed, fold_name, request, device: as for `pseudo_label`.
        rounds: most rounds of labelling.
        trainer: class that trains between two rounds.

    Returns:
        The bank of the last round.

    Raises:
        UserError: as for `pseudo_label`, or a training failed.
    """
    result = pseudo_label(preprocessed, fold_name, request, device)
    for round_ in range(2, rounds + 1):
        with keep_log(result.folder):
            model = _train(preprocessed, fold_name, result.folder.name, device, trainer)
        again = replace(request, name=f"{request.name}_round_{round_}", teachers=(model,))
        before, result = result, pseudo_label(preprocessed, fold_name, again, device, result.record)
        same = agreement(before, result, target_classes(preprocessed.label_manager))
        with keep_log(result.folder):
            write_line(f"Round {round_}: mean Dice {same:.3f} between these labels and those of round {round_ - 1}.")
            if same >= SETTLED:
                write_line(f"Labels have settled ({SETTLED:g}).")
                break
    return result


def _train(preprocessed: Preprocessed, fold_name: str, bank: str, device: str, trainer: str) -> Path:
    """Train nnU-Net with a bank, unless that is done; returns the model's folder."""
    plans = f"{preprocessed.plans_name}_{bank}"
    path = preprocessed.base / f"{plans}.json"
    if not path.exists():
        write_plans(preprocessed, make_settings(banks=[bank], ratio=RATIO_OF_SCANS), plans)
    name = f"{trainer}__{plans}__{preprocessed.configuration_name}"
    model = Path(nnunet_paths.nnUNet_results) / preprocessed.dataset_name / name
    fold = model / f"fold_{fold_name}"
    if not (fold / CHECKPOINTS[0]).exists():
        started = ["--c"] if (fold / "checkpoint_latest.pth").exists() else []
        arguments = [preprocessed.dataset_name, preprocessed.configuration_name, fold_name, "-p", plans, "-tr", trainer]
        write_line(f"Training nnU-Net with bank {bank}; its log is in {fold}.")
        try:
            code = run_training([*arguments, *started], device)
        except KeyboardInterrupt:
            raise Stopped(f"Stopped; nnU-Net's checkpoints in {fold} are kept. The same command continues.") from None
        if code:
            raise UserError(f"Training in {fold} ended with exit code {code}; see its log. The same command continues.")
    return model


def agreement(first: PseudoLabelResult, second: PseudoLabelResult, classes: tuple[TargetClass, ...]) -> float:
    """Mean Dice of the classes of all scans that entered both banks; NaN if none did."""
    labels = [_labels(result) for result in (first, second)]
    found = []
    for name in labels[0].keys() & labels[1].keys():
        before, now = (BankDataset(folder).load_case(shard)[1][0] for folder, shard in (one[name] for one in labels))
        masks = [(one.mask(before), one.mask(now)) for one in classes]
        found += [dice(*pair) for pair in masks if pair[0].any() or pair[1].any()]
    return float(np.mean(found)) if found else float("nan")


def _labels(result: PseudoLabelResult) -> dict[str, tuple[str, str]]:
    """Folder and shard of each scan that entered, by its name."""
    entered = [scan.name for scan in result.record.origin.scans if not scan.refused]
    shards = [shard.name for shard in result.record.shards]
    return {name: (str(result.folder), shard) for name, shard in zip(entered, shards, strict=True)}
