"""Exports a trained folder as a model that nnU-Net predicts with, continues and zips, without the plugin."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nnunetv2
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_synth.export.model_card import CARD_FILE, FoldCard, ModelCard, describe_fold
from nnunet_synth.export.sanitize import CARD_KEY, without_block, without_files, without_paths
from stylegan2_cond.data.nnunet_files import open_plans
from stylegan2_cond.data.nnunet_folders import SYNTHETIC_DATA_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder, scratch_folder
from stylegan2_cond.io import explained_write, read_json
from stylegan2_cond.metrics.trained_nnunets import read_checkpoint
from stylegan2_cond.progress_bar import ProgressBar

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
_SETTINGS = ("plans.json", "dataset.json", "dataset_fingerprint.json")
_PICTURES = ("progress.png", "network_architecture.pdf")
_POSTPROCESSING = ("summary.json", "postprocessing.json", "postprocessing.pkl")
_NEEDED_TO_ZIP = ("checkpoint_final.pth", "progress.png", "validation/summary.json")
_CONTINUE = "nnUNetv2_train … --c writes it again."


@dataclass(frozen=True)
class TrainedModel:
    """A trained folder: its JSON files by name, and the checkpoints of each fold that has any."""

    folder: Path
    settings: dict[str, dict]
    plans_name: str
    configuration: str
    trained_by: str
    folds: dict[str, tuple[Path, ...]]

    @property
    def dataset_name(self) -> str:
        """Such as Dataset004_Hippocampus."""
        return self.settings["plans.json"]["dataset_name"]


@dataclass(frozen=True)
class ExportedModel:
    """Where a model was written, its card, and files that nnU-Net's zip needs and training has not written."""

    folder: Path
    card: ModelCard
    missing: list[str]


def export_model(trained_folder: Path, target: Path, trainer: str | None = None) -> ExportedModel:
    """Write `target/DatasetXXX_Name/<trainer>__<plans>__<configuration>`, completely or not at all.

    Checkpoints keep weights, optimizer and log. Paths of this machine and settings of the plugin are removed.

    Args:
        trained_folder: `…/nnUNetTrainerSynth__<plans>__<configuration>`.
        target: takes the place of `$nnUNet_results` on the other machine.
        trainer: nnU-Net's trainer for the exported model; the one named in the checkpoints if None.

    Raises:
        UserError: not a trained folder, no checkpoint or a damaged one, a trainer that nnU-Net lacks or that has
            another network, an existing target, or a full disk.
    """
    trained = read_trained(trained_folder)
    trainer = trainer or read_whole_checkpoint(next(iter(trained.folds.values()))[0])["trainer_name"]
    require_nnunets_trainer(trainer, "Name one with the same network, for example --trainer nnUNetTrainer")
    name = convert_trainer_plans_config_to_identifier(trainer, trained.plans_name, trained.configuration)
    folder = target / trained.dataset_name / name
    if folder.exists():
        raise UserError(f"{folder} exists. Choose another place with -o, or delete it.")
    lock = lock_folder(folder, inside=False)
    with lock, explained_write(folder), scratch_folder(folder.parent, f".{name}_") as scratch:
        card = _write_model(trained, scratch, trainer)
        needed = [f"{fold}/{file}" for fold in trained.folds for file in _NEEDED_TO_ZIP]
        missing = [file for file in needed if not (scratch / file).is_file()]
        scratch.rename(folder)
    return ExportedModel(folder, card, missing)


def require_nnunets_trainer(name: str, remedy: str) -> None:
    """Check that a trainer is one of nnU-Net's own, as machines without the plugin have no others.

    Raises:
        UserError: it is not; `remedy` ends the message.
    """
    trainers = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    if recursive_find_python_class(str(trainers), name, "nnunetv2.training.nnUNetTrainer") is None:
        raise UserError(f"nnU-Net itself has no trainer {name}, so it could not use the export. {remedy}")


def read_trained(folder: Path) -> TrainedModel:
    """The JSON files of a trained folder, and the paths of its checkpoints.

    Raises:
        UserError: it is not a trained folder, a file is missing or damaged, or no fold has a checkpoint.
    """
    parts = folder.resolve().name.split("__")
    if len(parts) != 3 or not (folder / "plans.json").is_file():
        remedy = "Name a folder <trainer>__<plans>__<configuration> below $nnUNet_results."
        if (parent := folder.resolve().parent).joinpath("plans.json").is_file():
            remedy = f"Did you mean {parent}?"
        elif below := sorted(path.parent for path in folder.glob("*__*__*/plans.json")):
            remedy = f"Did you mean {below[0]}?"
        raise UserError(f"{folder} is not an nnU-Net model folder. {remedy}")
    settings = {name: _read_object(folder / name) for name in _SETTINGS}
    open_plans(settings["plans.json"], folder / "plans.json", _CONTINUE)
    found = {
        path.name: tuple(path / name for name in CHECKPOINTS if (path / name).is_file())
        for path in sorted(folder.glob("fold_*"))
    }
    folds = {name: checkpoints for name, checkpoints in found.items() if checkpoints}
    if not folds:
        raise UserError(f"{folder} has no fold with a checkpoint ({', '.join(CHECKPOINTS)}). Train one first.")
    return TrainedModel(folder, settings, settings["plans.json"]["plans_name"], parts[2], parts[0], folds)


def _read_object(path: Path) -> dict:
    content = read_json(path, _CONTINUE)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object. {_CONTINUE}")
    return content


def read_whole_checkpoint(path: Path) -> dict:
    """The content of a checkpoint, with the plans and dataset.json of its training.

    Raises:
        UserError: it is damaged, or lacks keys.
    """
    remedy = "If it was cut off, move it away and continue without it."
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    arguments = checkpoint.get("init_args")
    complete = isinstance(arguments, dict) and all(
        isinstance(arguments.get(key), dict) for key in ("plans", "dataset_json")
    )
    types = {"network_weights": dict, "trainer_name": str, "current_epoch": int}
    if not complete or not all(isinstance(checkpoint.get(key), kind) for key, kind in types.items()):
        raise UserError(f"{path} lacks keys of nnU-Net's checkpoints. {remedy}")
    open_plans(arguments["plans"], path, remedy)
    return checkpoint


def _write_model(trained: TrainedModel, folder: Path, trainer: str) -> ModelCard:
    cards = {}
    with ProgressBar(total=sum(map(len, trained.folds.values())), unit="checkpoint", desc="Exporting") as bar:
        for fold, checkpoints in trained.folds.items():
            source, epochs = trained.folder / fold, {}
            (folder / fold).mkdir()
            for path in checkpoints:
                epochs[path.name] = _write_checkpoint(path, folder / fold / path.name, trainer)
                bar.update()
            for name in (*_PICTURES, SYNTHETIC_DATA_FILE):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / fold / name)
            _copy_results(source / "validation", folder / fold / "validation")
            cards[fold.removeprefix("fold_")] = describe_fold(source, epochs)
    for path in trained.folder.glob("crossval_results_folds_*"):
        _copy_results(path, folder / path.name)
    card = write_settings(trained, folder, trainer, cards)
    _require_loads(folder, trained)
    return card


def write_settings(trained: TrainedModel, folder: Path, trainer: str, folds: dict[str, FoldCard]) -> ModelCard:
    """Write the card and the JSON files of a model, which name `trainer`, into a folder; returns the card."""
    card = ModelCard(
        dataset_name=trained.dataset_name,
        plans_name=trained.plans_name,
        configuration=trained.configuration,
        trainer=trainer,
        trained_by=trained.trained_by,
        folds=folds,
        release=version("nnunet-synth"),
    )
    card.save(folder / CARD_FILE)
    settings = dict(trained.settings)
    settings["plans.json"] = without_block(settings["plans.json"])
    settings["dataset.json"] = without_files(settings["dataset.json"]) | {CARD_KEY: card.model_dump(mode="json")}
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(without_paths(content), indent=4))
    return card


def _write_checkpoint(source: Path, path: Path, trainer: str) -> int:
    """Copy a checkpoint without paths, settings of the plugin and file lists; returns its number of epochs."""
    checkpoint = read_whole_checkpoint(source)
    arguments = checkpoint["init_args"]
    checkpoint["trainer_name"] = trainer
    checkpoint["init_args"] = {
        **arguments,
        "plans": without_paths(without_block(arguments["plans"])),
        "dataset_json": without_paths(without_files(arguments["dataset_json"])),
    }
    torch.save(checkpoint, path)
    return int(checkpoint["current_epoch"])


def _copy_results(source: Path, folder: Path) -> None:
    """Scores and postprocessing, without segmentations."""
    for path in (source / name for name in _POSTPROCESSING if (source / name).is_file()):
        folder.mkdir(exist_ok=True)
        if path.suffix == ".json":
            (folder / path.name).write_text(json.dumps(without_paths(_read_object(path)), indent=4))
        else:
            shutil.copyfile(path, folder / path.name)


def _require_loads(folder: Path, trained: TrainedModel) -> None:
    """Open every checkpoint with nnU-Net's own predictor.

    Raises:
        UserError: the weights do not fit the network of the trainer.
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
                    f"{str(error).splitlines()[0]}). Does the trainer named by --trainer have another network?"
                ) from error
