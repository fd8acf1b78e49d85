"""The nnU-Net that was trained on the real cases of a fold: what it sees in a patch, and what it says of it."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn import functional as F
from tqdm import tqdm

from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Preprocessed, require_folder
from stylegan2_cond.data.patch_sampler import IMAGE_PADDING
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json
from stylegan2_cond.metrics.features import BATCH_VOXELS, Features, Setting, project, register_features
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
SYNTHETIC_DATA_FILE = "synthetic_data.json"  # in a fold's folder: what synthetic data its training saw
_SUMMARY = "validation/summary.json"  # of a fold
_AGAIN = "Train the model again, or move its folder away."
_VALIDATE = "nnUNetv2_train … --val writes it again."
_scalar = np.core.multiarray.scalar
# Types beside tensors that nnU-Net's checkpoints hold; with no others allowed, reading one can't run code.
_SAFE = [
    np.dtype,
    np.ndarray,
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),  # written under numpy 1
    *(type(np.dtype(kind)) for kind in "fdilqb"),
]


@dataclass(frozen=True)
class Model:
    """A trained nnU-Net of one fold."""

    preprocessed: Preprocessed
    checkpoint: Path

    @property
    def folder(self) -> Path:
        """`…/<trainer>__<plans>__<configuration>`."""
        return self.checkpoint.parent.parent


@dataclass(frozen=True)
class Found:
    """The nnU-Nets of a fold.

    Attributes:
        models: trained on the same preprocessing and on real cases alone, newest first.
        damaged: why others could not be read.
        unfit: why others are not taken.
    """

    models: tuple[Model, ...]
    damaged: tuple[str, ...]
    unfit: tuple[str, ...]


def find_nnunets(source: Source) -> Found:
    """All nnU-Nets of a fold in `$nnUNet_results`; one that is damaged does not keep the others from being found."""
    base = require_folder("nnUNet_results") / source.dataset_name
    models, damaged, unfit = [], [], []
    for folder in sorted(base.glob(f"*__*__{source.configuration}")):
        try:
            model = _model(folder, source)
            reason = model and (_saw_synthetic(model) or _mismatch(model, source))
        except UserError as error:
            damaged.append(str(error))
            continue
        if reason:
            unfit.append(f"the one in {folder} {reason}")
        elif model:
            models.append(model)
    newest_first = sorted(models, key=lambda model: model.checkpoint.stat().st_mtime, reverse=True)
    return Found(tuple(newest_first), tuple(damaged), tuple(unfit))


def find_nnunet(source: Source) -> Model | None:
    """The newest nnU-Net of a fold that was trained on the same preprocessing, and on real cases alone."""
    return next(iter(find_nnunets(source).models), None)


def open_newest(source: Source, device: str | torch.device = "cpu") -> NnUNet:
    """The newest nnU-Net of a fold that can be opened; those that are damaged are left out with a warning.

    Raises:
        UserError: there is none, with the reason for each that was left out.
    """
    found = find_nnunets(source)
    damaged = list(found.damaged)
    for model in found.models:
        try:
            network = NnUNet(model, device)
        except UserError as error:
            damaged.append(str(error))
            continue
        for reason in damaged:
            tqdm.write(f"Warning: an nnU-Net is left out: {reason}", file=sys.stderr)
        return network
    others = "".join(f" Left out: {reason}." for reason in (*(one.rstrip(".") for one in damaged), *found.unfit))
    raise UserError(
        f"No nnU-Net was trained on the real cases of this fold alone.{others} Train one: "
        f"nnUNetv2_train {source.dataset_name} {source.configuration} {source.fold}"
    )


def open_nnunet(folder: Path, source: Source) -> Model:
    """The nnU-Net of a named folder.

    Raises:
        UserError: there is none for the fold, or it is of another dataset, configuration or preprocessing.
    """
    model = _model(folder, source)
    if model is None:
        raise UserError(
            f"{folder} has no trained nnU-Net of fold {source.fold} ({' or '.join(CHECKPOINTS)}, plans.json and "
            f"dataset.json). Name the folder <trainer>__<plans>__<configuration>, or train one: nnUNetv2_train "
            f"{source.dataset_name} {source.configuration} {source.fold}"
        )
    if reason := _mismatch(model, source):
        raise UserError(f"The nnU-Net in {folder} {reason}. Name another one, or leave out the option.")
    return model


@register_features("nnunet")
class NnUNet(Features):
    """A trained nnU-Net on a device; the vectors are the means of its encoder's channels, all stages together."""

    name = "nnunet"

    def __init__(self, model: Model, device: str | torch.device = "cpu"):
        self.model = model
        self.device = torch.device(device)
        network, self._strides = _load_network(model)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self._sha256 = sha256(model.checkpoint)

    @classmethod
    def build(cls, name: str, setting: Setting) -> Features:
        if setting.nnunet is None:
            raise UserError("There is no nnU-Net to take features from. Name one, or go without: --features random")
        return setting.nnunet

    def identity(self) -> str:
        return f"{self.name}-{self._sha256}"

    @torch.inference_mode()
    def __call__(self, samples: SampleSet) -> torch.Tensor:
        if not hasattr(self.network, "encoder"):
            raise UserError(f"The network in {self.model.folder} has no encoder. Go without it: --features random")
        parts = []
        for batch in self._batches(samples):
            stages = self.network.encoder(self._padded(batch))
            parts.append(torch.cat([stage.flatten(2).mean(dim=2) for stage in stages], dim=1).cpu())
        return project(torch.cat(parts))

    @torch.inference_mode()
    def segment(self, samples: SampleSet) -> np.ndarray:
        """`[N, *spatial]` int16: what nnU-Net's network says, without its test-time mirroring.

        With region-based training, regions become labels as nnU-Net makes them.
        """
        labels = self.model.preprocessed.label_manager
        parts = []
        for batch in self._batches(samples):
            logits = self.network(self._padded(batch))
            logits = logits[(..., *(slice(length) for length in samples.patch_size))].float().cpu()
            parts += [np.asarray(labels.convert_logits_to_segmentation(one)) for one in logits]
        return np.stack(parts).astype(np.int16)

    def _batches(self, samples: SampleSet) -> Sequence[torch.Tensor]:
        size = max(1, BATCH_VOXELS // math.prod(samples.patch_size))
        return [torch.from_numpy(part.image) for part in samples.batches(size)]

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        """Grown at the far ends until the network's strides divide it; by the value that nnU-Net's loader pads with."""
        missing = [-length % stride for length, stride in zip(image.shape[2:], self._strides, strict=True)]
        padding = [amount for length in reversed(missing) for amount in (0, int(length))]
        return F.pad(image.to(self.device), padding, value=IMAGE_PADDING)


def read_checkpoint(path: Path) -> dict:
    """All of a checkpoint that nnU-Net wrote, on the CPU, by a reader that can't run code.

    Raises:
        UserError: it is missing or cut off, or holds more than tensors and numbers.
    """
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}")
    except pickle.UnpicklingError:  # torch's own words recommend to run what is in the file
        raise UserError(
            f"{path} can't be read as a checkpoint of nnU-Net: it is damaged, or holds more than tensors and numbers."
        ) from None
    except Exception as error:  # torch has many for a damaged file
        raise UserError(f"{path} can't be read as a checkpoint of nnU-Net ({_first_line(error)}).") from None
    return content


def _saw_synthetic(model: Model) -> str | None:
    """That its training saw synthetic pairs: by the record in its fold, or else by what names the model.

    `nnunet-synth export-model` leaves a card in dataset.json; without a record, the trainer's name decides.
    """
    path = model.checkpoint.parent / SYNTHETIC_DATA_FILE
    if path.exists():
        uses = _read(path, "uses")
        real = isinstance(uses, list) and all(isinstance(use, dict) and use.get("bank", "") is None for use in uses)
    else:
        real = "synthetic_data" not in model.preprocessed.dataset_json and "Synth" not in model.folder.name
    return None if real else "was trained with synthetic pairs"


def _model(folder: Path, source: Source) -> Model | None:
    """The model in a folder; None where the fold has none.

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
            theirs.fingerprint, theirs.label_manager.num_segmentation_heads, theirs.case_of("")
        return Model(theirs, checkpoint)
    except Exception as error:  # nnU-Net's classes check nothing
        raise UserError(f"{files[0]} or {files[1].name} is damaged ({_first_line(error)}).") from None


def _read(path: Path, key: str | None = None, remedy: str = _AGAIN) -> object:
    """A JSON file that holds an object, or the value of a key in it."""
    content = read_json(path, remedy)
    if not isinstance(content, dict) or (key is not None and key not in content):
        raise UserError(f"{path} does not hold {'an object' if key is None else repr(key)}. {remedy}")
    return content if key is None else content[key]


def _mismatch(model: Model, source: Source) -> str | None:
    """What keeps a model from judging patches of `source`.

    Raises:
        UserError: files of the model are damaged.
    """
    theirs = model.preprocessed
    if theirs.dataset_name != source.dataset_name:
        return f"is of {theirs.dataset_name}, the generator of {source.dataset_name}"
    if source.configuration not in theirs.plans_manager.available_configurations:
        return f"has no configuration {source.configuration}"
    if theirs.fingerprint != source.preprocessing:
        return "was trained on cases that were preprocessed differently than the generator's"
    if source.fold == FOLD_ALL:
        return None
    summary, splits = model.checkpoint.parent / _SUMMARY, theirs.base / "splits_final.json"
    if summary.exists():
        if moved := sorted(_validated(summary, theirs) & set(source.training_cases)):
            return f"was trained under other splits: it was validated on {moved[0]}, which the generator learnt from"
    elif splits.exists() and splits.stat().st_mtime > model.checkpoint.stat().st_mtime:
        return f"is older than {splits}, and has no {_SUMMARY} that tells its split. {_VALIDATE[:-1]}"
    return None


def _validated(summary: Path, theirs: Preprocessed) -> set[str]:
    """The cases that nnU-Net's validation of the fold was on; its checkpoints name no cases."""
    cases = _read(summary, "metric_per_case", _VALIDATE)
    try:
        return {theirs.case_of(case["prediction_file"]) for case in cases}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{summary} does not name its cases. {_VALIDATE}") from None


def _load_network(model: Model) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The network, and what its strides make along each axis."""
    theirs = model.preprocessed
    plans, configuration = theirs.plans_manager, theirs.configuration
    weights = read_checkpoint(model.checkpoint)
    try:
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            determine_num_input_channels(plans, configuration, theirs.dataset_json),
            theirs.label_manager.num_segmentation_heads,
            deep_supervision=False,
        )
        network.load_state_dict(weights["network_weights"])
        return network, tuple(np.prod(configuration.pool_op_kernel_sizes, axis=0).astype(int))
    except Exception as error:  # whatever plans and weights hold
        raise UserError(
            f"{model.checkpoint} can't be read as the network of its plans ({_first_line(error)})."
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
