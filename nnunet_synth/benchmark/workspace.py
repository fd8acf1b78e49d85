"""A benchmark's own nnU-Net folders: links to the real cases, and folds and plans of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

from nnunet_synth.benchmark.arms import PSEUDO_LABELS, TRAINING_CASES, WITH_SCANS, Arm
from nnunet_synth.benchmark.budget import SUFFIX, apply_budget
from nnunet_synth.benchmark.design import FIRST_ORACLE_FOLD, Design
from nnunet_synth.launcher import VARIABLE, ext_trainer_path, nnunet_folders
from nnunet_synth.training.settings import BLOCK, make_settings
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.nnunet_folders import banks_folder, run_folder_in
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write, write_atomically

BENCHMARK_TRAINERS = Path(__file__).parent / "ext_trainer"
_COPIED = ("dataset.json", "dataset_fingerprint.json")


def variables(folder: Path, threads: int) -> dict[str, str]:
    """Environment variables for nnU-Net's and our commands.

    With one thread there are no workers, and augmentation runs in the training's own process.
    """
    return nnunet_folders(folder) | {
        VARIABLE: os.pathsep.join([ext_trainer_path(os.environ.get(VARIABLE)), str(BENCHMARK_TRAINERS)]),
        "PYTHONUNBUFFERED": "1",  # so that log lines keep their order
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "agg",
        "nnUNet_n_proc_DA": str(threads - 1),
        "nnUNet_def_n_proc": str(threads),
    }


def plans_name(design: Design, arm: Arm, run: int = 0) -> str:
    """Name of the plans that a run of an arm is trained by; it keeps runs with one training set apart."""
    return f"{design.plans}_{arm.name}" + f"_{run}" * (run > 0)


def model_folder(folder: Path, design: Design, arm: Arm, run: int = 0) -> Path:
    """Folder of the nnU-Net models of an arm's runs of one number, with one subfolder per fold."""
    trainer = arm.trainer_name + SUFFIX
    name = convert_trainer_plans_config_to_identifier(trainer, plans_name(design, arm, run), design.configuration)
    return folder / "nnUNet_results" / design.dataset / name


def predictions_folder(folder: Path, design: Design, arm: Arm, fold: int, run: int = 0) -> Path:
    """Folder of a run's predictions of the test cases, with nnU-Net's `summary.json`."""
    return model_folder(folder, design, arm, run) / f"fold_{fold}" / "validation"


def generator_folder(folder: Path, design: Design, name: str, fold: int) -> Path:
    """Run folder of one of an arm's `generators`."""
    variant, scans, _ = name.partition(WITH_SCANS)
    results = folder / "nnUNet_results"
    return run_folder_in(
        results, design.dataset, design.plans, design.configuration, fold, variant, PSEUDO_LABELS if scans else None
    )


def bank_folder(folder: Path, design: Design, preprocessed: Preprocessed, arm: Arm, fold: int) -> Path:
    """Folder of an arm's bank."""
    base = folder / "nnUNet_preprocessed" / design.dataset
    return banks_folder(base, preprocessed.configuration.data_identifier, fold) / arm.bank


def prepare_workspace(folder: Path, design: Design, preprocessed: Preprocessed) -> None:
    """Write what is missing or damaged: links to the cases, `splits_final.json`, the plans, and those of each arm.

    Raises:
        UserError: the dataset lacks a file that nnU-Net's preprocessing leaves, or the folder can't be written to.
    """
    base = folder / "nnUNet_preprocessed" / design.dataset
    for path in (base, folder / "nnUNet_results" / design.dataset, folder / "nnUNet_raw"):
        with explained_write(path):
            path.mkdir(parents=True, exist_ok=True)
    for name in ("gt_segmentations", preprocessed.configuration.data_identifier):
        real, link = preprocessed.base / name, base / name
        if not real.is_dir():
            raise UserError(f"{real} does not exist. Preprocess the dataset: {preprocessed.preprocess_command}")
        if not (link.is_symlink() and link.resolve() == real.resolve()):
            with explained_write(link):
                if link.is_symlink():  # the dataset was moved
                    link.unlink()
                link.symlink_to(real.resolve(), target_is_directory=True)
    for name in _COPIED:
        if not (preprocessed.base / name).is_file():
            raise UserError(f"{preprocessed.base / name} does not exist. Type: {preprocessed.preprocess_command}")
        if not _contains(base / name, (preprocessed.base / name).read_bytes()):
            with write_atomically(base / name) as temporary:
                shutil.copyfile(preprocessed.base / name, temporary)
    _write_json(base / "splits_final.json", splits_of(design))
    plans = preprocessed.plans_manager.plans
    _write_json(base / f"{design.plans}.json", plans)
    for arm in design.arms:
        for run in range(design.runs_of(arm)):
            _write_json(base / f"{plans_name(design, arm, run)}.json", plans_of(design, arm, plans, run))


def splits_of(design: Design) -> list[dict[str, list[str]]]:
    """nnU-Net's folds: of the training sets, and if an arm needs them, those with the unlabelled cases, far behind."""
    folds = [design.fold(one.size, one.number) for one in design.training_sets]
    if any(arm.unlabelled == TRAINING_CASES for arm in design.arms):
        folds += [FIRST_ORACLE_FOLD + fold for fold in folds]
    splits = [{"train": [], "val": []} for _ in range(max(folds) + 1)]
    for fold in folds:
        splits[fold] = {"train": [*design.training_cases(fold)], "val": [*design.test_cases]}
    return splits


def plans_of(design: Design, arm: Arm, plans: dict, run: int = 0) -> dict:
    """nnU-Net's plans with the benchmark's budget, and for an arm with a bank or CutMix the `synth` block."""
    changed = apply_budget(plans, design.configuration, design.budget) | {"plans_name": plans_name(design, arm, run)}
    configuration = changed["configurations"][design.configuration]
    configuration.pop(BLOCK, None)
    if arm.uses_plugin:
        banks = [source.bank for source in arm.sources]
        if len(banks) > 1:
            draws = {"banks": _equal_shares(banks, arm.ratio)}
        else:
            draws = {"banks": banks, "ratio": arm.ratio if banks else 0}
        settings = make_settings(**draws, schedule=arm.schedule, cutmix=arm.cutmix)
        configuration[BLOCK] = settings.model_dump(exclude_none=True)
    return changed


def _equal_shares(banks: Sequence[str], ratio: float) -> list[str]:
    return [f"{bank}={ratio / len(banks):.6g}" for bank in banks]


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=4)
    if not _contains(path, text.encode()):
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _contains(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
