"""The nnU-Nets that were trained on the real cases of a fold: found, checked, and read without running code."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Preprocessed
from stylegan2_cond.data.nnunet_folders import CHECKPOINTS, SUMMARY, SYNTHETIC_DATA_FILE, require_folder
from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.io import read_json
from stylegan2_cond.planning import Source

_AGAIN = "Train the model again, or move its folder away."
_VALIDATE = "Write it again: nnUNetv2_train … --val"
_scalar = np.core.multiarray.scalar
# Types in nnU-Net's checkpoints besides tensors; since no others are allowed, reading one can't run code.
_SAFE = [
    np.dtype,
    np.ndarray,
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),  # written under numpy 1
    *(type(np.dtype(kind)) for kind in "fdilqb"),
]


@dataclass(frozen=True)
class TrainedModel:
    """A trained nnU-Net of one fold."""

    preprocessed: Preprocessed
    checkpoint: Path

    @property
    def folder(self) -> Path:
        """`…/<trainer>__<plans>__<configuration>`."""
        return self.checkpoint.parent.parent


@dataclass(frozen=True)
class FoundModels:
    """The nnU-Nets of a fold.

    Attributes:
        models: trained on the same preprocessed data and on real cases only, newest first.
        damaged: why others can't be read.
        unsuitable: why others can't be used.
    """

    models: tuple[TrainedModel, ...]
    damaged: tuple[str, ...]
    unsuitable: tuple[str, ...]


def find_nnunets(source: Source) -> FoundModels:
    """All nnU-Nets of a fold and configuration in `$nnUNet_results`; damaged ones are listed."""
    base = require_folder("nnUNet_results") / source.dataset_name
    models, damaged, unsuitable = [], [], []
    for folder in sorted(base.glob(f"*__*__{source.configuration}")):
        try:
            model = read_model(folder, source)
            reason = model and (_saw_synthetic(model) or find_mismatch(model, source))
        except UserError as error:
            damaged.append(str(error))
            continue
        if reason:
            unsuitable.append(f"the one in {folder} {reason}")
        elif model:
            models.append(model)
    newest_first = sorted(models, key=lambda model: model.checkpoint.stat().st_mtime, reverse=True)
    return FoundModels(tuple(newest_first), tuple(damaged), tuple(unsuitable))


def read_suitable_model(folder: Path, source: Source) -> TrainedModel:
    """The model in a folder, not opened yet.

    Raises:
        UserError: there is none for the fold, it is damaged, or of another dataset, configuration or preprocessing.
    """
    model = read_model(folder, source)
    if model is None:
        raise UserError(
            f"{folder} has no trained nnU-Net of fold {source.fold} ({' or '.join(CHECKPOINTS)}, plans.json and "
            f"dataset.json). Name the folder <trainer>__<plans>__<configuration>, or train one: nnUNetv2_train "
            f"{source.dataset_name} {source.configuration} {source.fold}"
        )
    if reason := find_mismatch(model, source):
        raise UserError(f"The nnU-Net in {folder} {reason}. Name another one, or remove the option.")
    return model


def read_checkpoint(path: Path) -> dict:
    """The content of an nnU-Net checkpoint, on the CPU, read without running code.

    Raises:
        UserError: it is missing or damaged, or holds more than tensors and numbers.
    """
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}")
    except pickle.UnpicklingError:  # torch's message recommends running what is in the file
        raise UserError(
            f"{path} can't be read as an nnU-Net checkpoint: it is damaged, or holds more than tensors and numbers."
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} can't be read as an nnU-Net checkpoint ({first_line(error)}).") from None
    return content


def _saw_synthetic(model: TrainedModel) -> str | None:
    """A reason if it was trained with synthetic pairs, according to the record in its fold.

    Without a record, the card in dataset.json that `nnunet-synth export-model` writes and the trainer's name decide.
    """
    path = model.checkpoint.parent / SYNTHETIC_DATA_FILE
    if path.exists():
        uses = _read(path, "uses")
        real = isinstance(uses, list) and all(isinstance(use, dict) and use.get("banks") == [] for use in uses)
    else:
        real = "synthetic_data" not in model.preprocessed.dataset_json and "Synth" not in model.folder.name
    return None if real else "was trained with synthetic pairs"


def read_model(folder: Path, source: Source) -> TrainedModel | None:
    """The model in a folder; None if the fold has none.

    Raises:
        UserError: its files are damaged.
    """
    checkpoints = [folder / f"fold_{source.fold}" / name for name in CHECKPOINTS]
    checkpoint = next((path for path in checkpoints if path.exists()), None)
    files = folder / "plans.json", folder / "dataset.json"
    if checkpoint is None or not all(path.exists() for path in files):
        return None
    plans, dataset_json = (_read(path) for path in files)
    try:
        manager = PlansManager(plans)
        theirs = Preprocessed(manager.dataset_name, manager, source.configuration, dataset_json)
        if source.configuration in manager.available_configurations:
            theirs.preprocessing_hash, theirs.label_manager.num_segmentation_heads, theirs.case_of("")
        return TrainedModel(theirs, checkpoint)
    except Exception as error:  # nnU-Net's classes do not check their input
        raise UserError(f"{files[0]} or {files[1].name} is damaged ({first_line(error)}).") from None


def _read(path: Path, key: str | None = None, remedy: str = _AGAIN) -> object:
    """The object in a JSON file, or the value of one of its keys."""
    content = read_json(path, remedy)
    if not isinstance(content, dict) or (key is not None and key not in content):
        raise UserError(f"{path} does not hold {'an object' if key is None else repr(key)}. {remedy}")
    return content if key is None else content[key]


def find_mismatch(model: TrainedModel, source: Source) -> str | None:
    """Why a model can't be used beside what was trained on `source`; None if it can.

    Raises:
        UserError: files of the model are damaged.
    """
    theirs = model.preprocessed
    if theirs.dataset_name != source.dataset_name:
        return f"was trained on {theirs.dataset_name}, not on {source.dataset_name}"
    if source.configuration not in theirs.plans_manager.available_configurations:
        return f"has no configuration {source.configuration}"
    if theirs.preprocessing_hash != source.preprocessing:
        return "was trained on cases that were preprocessed differently than the fold's"
    if source.fold == FOLD_ALL:
        return None
    summary, splits = model.checkpoint.parent / SUMMARY, theirs.base / "splits_final.json"
    if summary.exists():
        cases = _read(summary, "metric_per_case", _VALIDATE)
        try:  # nnU-Net's checkpoints do not name any cases
            validated = {theirs.case_of(case["prediction_file"]) for case in cases}
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{summary} does not name its cases. {_VALIDATE}") from None
        if moved := sorted(validated & set(source.training_cases)):
            return (
                f"was trained with other splits: it was validated on {moved[0]}, a training case of fold {source.fold}"
            )
    elif splits.exists() and splits.stat().st_mtime > model.checkpoint.stat().st_mtime:
        return f"is older than {splits}, and has no {SUMMARY} that lists its validation cases. {_VALIDATE}"
    return None


def load_network(model: TrainedModel) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The network, tried once, and the product of its strides along each axis."""
    theirs = model.preprocessed
    plans, configuration = theirs.plans_manager, theirs.configuration
    weights = read_checkpoint(model.checkpoint)
    try:
        channels = determine_num_input_channels(plans, configuration, theirs.dataset_json)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            theirs.label_manager.num_segmentation_heads,
            deep_supervision=False,
        )
        network.load_state_dict(weights["network_weights"])
        strides = tuple(int(stride) for stride in np.prod(configuration.pool_op_kernel_sizes, axis=0))
        with torch.inference_mode():  # some plans make a network that fails only when it runs
            network.eval()(torch.zeros(1, channels, *(2 * stride for stride in strides)))
        return network, strides
    except Exception as error:  # depends on what plans and weights hold
        raise UserError(
            f"{model.checkpoint} can't be read as the network of its plans ({first_line(error)})."
        ) from None
