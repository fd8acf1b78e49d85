"""From a trained folder to a model that nnU-Net alone predicts with, continues and zips."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import nnunetv2
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_synth.export.atomic_folder import only_writer, scratch_folder
from nnunet_synth.export.model_card import CARD_FILE, ModelCard, describe_fold
from nnunet_synth.export.sanitize import CARD_KEY, without_block, without_files, without_paths
from nnunet_synth.training.usage_record import SYNTHETIC_DATA_FILE
from stylegan2_cond.data.nnunet_files import open_plans
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json
from stylegan2_cond.metrics.features_nnunet import read_checkpoint
from stylegan2_cond.progress_bar import ProgressBar

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
_SETTINGS = ("plans.json", "dataset.json", "dataset_fingerprint.json")
_PICTURES = ("progress.png", "network_architecture.pdf")
_POSTPROCESSING = ("summary.json", "postprocessing.json", "postprocessing.pkl")


@dataclass(frozen=True)
class Trained:
    """What a trained folder holds; `folds` are the checkpoints of each fold that has one."""

    folder: Path
    settings: dict[str, dict]
    plans_name: str
    configuration: str
    trained_by: str
    folds: dict[str, tuple[Path, ...]]

    @property
    def dataset_name(self) -> str:
        return self.settings["plans.json"]["dataset_name"]


@dataclass
class Exported:
    """Where a model went, its card, and what nnU-Net's own commands will miss in it."""

    folder: Path
    card: ModelCard
    missing: list[str] = field(default_factory=list)


def export_model(trained_folder: Path, target: Path, trainer: str | None = None) -> Exported:
    """Write `target/DatasetXXX_Name/<trainer>__<plans>__<configuration>`, whole or not at all.

    Checkpoints keep weights, optimizer and log; what names this machine, or only this project knows, stays behind.

    Args:
        trained_folder: `…/nnUNetTrainerSynth__<plans>__<configuration>`.
        target: stands for `$nnUNet_results` on the other machine.
        trainer: that nnU-Net shall know the model by; the one that the checkpoints name, when None.

    Raises:
        UserError: no trained folder, no or a damaged checkpoint, a trainer that nnU-Net lacks or whose network is
            another, something where the model would go, or a full disk.
    """
    trained = _read_trained(trained_folder)
    trainer = trainer or _trainer_of(trained)
    _require_vanilla(trainer)
    name = convert_trainer_plans_config_to_identifier(trainer, trained.plans_name, trained.configuration)
    folder = target / trained.dataset_name / name
    if folder.exists():
        raise UserError(f"{folder} exists. Choose another place with -o, or delete it.")
    with only_writer(folder), scratch_folder(folder.parent, name) as scratch:
        exported = Exported(folder, _write_model(trained, scratch, trainer))
        exported.missing = [f"{fold}/{file}" for fold in trained.folds for file in _missing(scratch / fold)]
        scratch.rename(folder)
    return exported


def _read_trained(folder: Path) -> Trained:
    remedy = "Name a folder <trainer>__<plans>__<configuration> below $nnUNet_results."
    parts = folder.resolve().name.split("__")
    if len(parts) != 3 or not (folder / "plans.json").is_file():
        if (inside := folder.resolve().parent).joinpath("plans.json").is_file():
            remedy = f"Did you mean {inside}?"
        elif below := sorted(path.parent for path in folder.glob("*__*__*/plans.json")):
            remedy = f"Did you mean {below[0]}?"
        raise UserError(f"{folder} is no trained folder of nnU-Net's. {remedy}")
    settings = {name: _read_json(folder / name) for name in _SETTINGS}
    open_plans(settings["plans.json"], folder / "plans.json", "nnUNetv2_train … --c writes it again.")
    found = {
        path.name: tuple(path / name for name in CHECKPOINTS if (path / name).is_file())
        for path in sorted(folder.glob("fold_*"))
    }
    folds = {name: checkpoints for name, checkpoints in found.items() if checkpoints}
    if not folds:
        raise UserError(f"{folder} has no fold with a checkpoint ({', '.join(CHECKPOINTS)}). Train one first.")
    return Trained(folder, settings, settings["plans.json"]["plans_name"], parts[2], parts[0], folds)


def _read_json(path: Path) -> dict:
    remedy = "nnUNetv2_train … --c writes it again."
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object. {remedy}")
    return content


def _read_checkpoint(path: Path) -> dict:
    remedy = "If it was cut off, move it away and continue without it."
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    arguments = checkpoint.get("init_args")
    whole = isinstance(arguments, dict) and all(
        isinstance(arguments.get(key), dict) for key in ("plans", "dataset_json")
    )
    types = {"network_weights": dict, "trainer_name": str, "current_epoch": int}
    if not whole or not all(isinstance(checkpoint.get(key), kind) for key, kind in types.items()):
        raise UserError(f"{path} does not hold what nnU-Net's checkpoints hold. {remedy}")
    open_plans(arguments["plans"], path, remedy)
    return checkpoint


def _trainer_of(trained: Trained) -> str:
    """The class that the checkpoints name."""
    return _read_checkpoint(next(iter(trained.folds.values()))[0])["trainer_name"]


def _require_vanilla(trainer: str) -> None:
    folder = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    if recursive_find_python_class(str(folder), trainer, "nnunetv2.training.nnUNetTrainer") is None:
        raise UserError(
            f"nnU-Net itself has no trainer {trainer}, so it could not use the export. Name one whose network is the "
            f"same, for example --trainer nnUNetTrainer"
        )


def _write_model(trained: Trained, folder: Path, trainer: str) -> ModelCard:
    cards = {}
    with ProgressBar(total=sum(map(len, trained.folds.values())), unit="checkpoint", desc="Exporting") as bar:
        for fold, checkpoints in trained.folds.items():
            (folder / fold).mkdir()
            epochs = {}
            for path in checkpoints:
                epochs[path.name] = _write_checkpoint(path, folder / fold / path.name, trainer)
                bar.update()
            _copy_beside(trained.folder / fold, folder / fold)
            cards[fold.removeprefix("fold_")] = describe_fold(trained.folder / fold, epochs)
    for path in trained.folder.glob("crossval_results_folds_*"):
        _copy_results(path, folder / path.name)
    card = ModelCard(
        dataset_name=trained.dataset_name,
        plans_name=trained.plans_name,
        configuration=trained.configuration,
        trainer=trainer,
        trained_by=trained.trained_by,
        folds=cards,
        release=version("nnunet-synth"),
    )
    card.save(folder / CARD_FILE)
    _write_settings(trained, folder, card)
    _require_loads(folder, trained)
    return card


def _write_checkpoint(source: Path, path: Path, trainer: str) -> int:
    """Copy a checkpoint without what is not to travel; the epochs that it was trained for."""
    checkpoint = _read_checkpoint(source)
    arguments = checkpoint["init_args"]
    checkpoint["trainer_name"] = trainer
    checkpoint["init_args"] = {
        **arguments,
        "plans": without_paths(without_block(arguments["plans"])),
        "dataset_json": without_paths(without_files(arguments["dataset_json"])),
    }
    torch.save(checkpoint, path)
    return int(checkpoint["current_epoch"])


def _write_settings(trained: Trained, folder: Path, card: ModelCard) -> None:
    changes: dict[str, Callable[[dict], dict]] = {
        "plans.json": without_block,
        "dataset.json": lambda content: without_files(content) | {CARD_KEY: card.model_dump(mode="json")},
    }
    for name, content in trained.settings.items():
        content = changes.get(name, dict)(content)
        (folder / name).write_text(json.dumps(without_paths(content), indent=4))


def _copy_beside(source: Path, folder: Path) -> None:
    """What nnU-Net's zip wants of a fold beside its checkpoints, and the record of synthetic data."""
    for name in (*_PICTURES, SYNTHETIC_DATA_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    _copy_results(source / "validation", folder / "validation")


def _copy_results(source: Path, folder: Path) -> None:
    """Scores and postprocessing, without the segmentations that they are of."""
    for path in (source / name for name in _POSTPROCESSING if (source / name).is_file()):
        folder.mkdir(exist_ok=True)
        if path.suffix == ".json":
            (folder / path.name).write_text(json.dumps(without_paths(_read_json(path)), indent=4))
        else:
            shutil.copyfile(path, folder / path.name)


def _missing(fold: Path) -> list[str]:
    """What nnU-Net's zip wants, by default, and training has not written."""
    wanted = ("checkpoint_final.pth", "progress.png", "validation/summary.json")
    return [name for name in wanted if not (fold / name).is_file()]


def _require_loads(folder: Path, trained: Trained) -> None:
    """Let nnU-Net's own predictor open every checkpoint.

    Raises:
        UserError: the network of the named trainer does not take the weights.
    """
    for fold, checkpoints in trained.folds.items():
        for path in checkpoints:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    nnUNetPredictor(device=torch.device("cpu")).initialize_from_trained_model_folder(
                        str(folder), (fold.removeprefix("fold_"),), path.name
                    )
            except Exception as error:
                raise UserError(
                    f"nnU-Net can't open {path} after the export ({type(error).__name__}: "
                    f"{str(error).splitlines()[0]}). Is the network of the trainer named by --trainer another one?"
                ) from error
