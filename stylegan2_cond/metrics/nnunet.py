"""The nnU-Net that was trained on the real cases of a fold: what it sees in a canvas, and what it says of it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn import functional as F

from stylegan2_cond.data.canvases import IMAGE_PADDING
from stylegan2_cond.data.preprocessed import Preprocessed, require_folder
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import BATCH_VOXELS, Features, Setting, project, register_features
from stylegan2_cond.metrics.samples import Samples
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_SUMMARY = "validation/summary.json"  # of a fold
# Types beside tensors that nnU-Net's checkpoints hold; with no others allowed, reading one can't run code.
_SAFE = [np.dtype, np.ndarray, np.core.multiarray.scalar, *(type(np.dtype(kind)) for kind in "fdilqb")]


@dataclass(frozen=True)
class Model:
    """A trained nnU-Net of one fold."""

    preprocessed: Preprocessed
    checkpoint: Path

    @property
    def folder(self) -> Path:
        """`…/<trainer>__<plans>__<configuration>`."""
        return self.checkpoint.parent.parent


def find_nnunet(source: Source) -> Model | None:
    """The newest nnU-Net of a fold that was trained on the same preprocessing, and on real cases alone.

    Trainers whose name holds "Synth" are left out, since they saw drawn pairs, and so are models exported of theirs.
    """
    base = require_folder("nnUNet_results") / source.dataset_name
    folders = [path for path in base.glob(f"*__*__{source.configuration}") if not _saw_drawn_pairs(path)]
    models = [model for path in folders if (model := _model(path, source)) and not _mismatch(model, source)]
    return max(models, key=lambda model: model.checkpoint.stat().st_mtime, default=None)


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
        self._sha256 = sha256(model.checkpoint)
        self.network = _load_network(model).to(self.device).eval().requires_grad_(False)
        self._strides = np.prod(model.preprocessed.configuration.pool_op_kernel_sizes, axis=0).astype(int)

    @classmethod
    def build(cls, name: str, setting: Setting) -> Features:
        if setting.nnunet is None:
            raise UserError("There is no nnU-Net to take features from. Name one, or go without: --features random")
        return setting.nnunet

    def identity(self) -> str:
        return f"{self.name}-{self._sha256}"

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> torch.Tensor:
        if not hasattr(self.network, "encoder"):
            raise UserError(f"The network in {self.model.folder} has no encoder. Go without it: --features random")
        parts = []
        for batch in self._batches(samples):
            stages = self.network.encoder(self._padded(batch))
            parts.append(torch.cat([stage.flatten(2).mean(dim=2) for stage in stages], dim=1).cpu())
        return project(torch.cat(parts))

    @torch.inference_mode()
    def segment(self, samples: Samples) -> np.ndarray:
        """`[N, *canvas]` int16: what nnU-Net's network says, without its test-time mirroring.

        With region-based training, regions become labels as nnU-Net makes them.
        """
        labels = self.model.preprocessed.label_manager
        parts = []
        for batch in self._batches(samples):
            logits = self.network(self._padded(batch))
            logits = logits[(..., *(slice(length) for length in samples.canvas))].float().cpu()
            parts += [np.asarray(labels.convert_logits_to_segmentation(one)) for one in logits]
        return np.stack(parts).astype(np.int16)

    def _batches(self, samples: Samples) -> Sequence[torch.Tensor]:
        size = max(1, BATCH_VOXELS // math.prod(samples.canvas))
        return [torch.from_numpy(part.image) for part in samples.batches(size)]

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        """Grown at the far ends until the network's strides divide it; by the value that nnU-Net's loader pads with."""
        missing = [-length % stride for length, stride in zip(image.shape[2:], self._strides, strict=True)]
        padding = [amount for length in reversed(missing) for amount in (0, int(length))]
        return F.pad(image.to(self.device), padding, value=IMAGE_PADDING)


def read_checkpoint(path: Path) -> dict:
    """All of a checkpoint that nnU-Net wrote, on the CPU, by a reader that can't run code.

    Raises:
        pickle.UnpicklingError, RuntimeError, EOFError: it is cut off, or holds more than tensors and numbers.
    """
    with torch.serialization.safe_globals(_SAFE):
        return torch.load(path, map_location="cpu", weights_only=True)


def _saw_drawn_pairs(folder: Path) -> bool:
    """By the name of its trainer, or by the card that `nnunet-synth export-model` leaves in dataset.json."""
    path = folder / "dataset.json"
    return "Synth" in folder.name or (path.exists() and "synthetic_data" in load_json(str(path)))


def _model(folder: Path, source: Source) -> Model | None:
    checkpoints = [folder / f"fold_{source.fold}" / name for name in CHECKPOINTS]
    checkpoint = next((path for path in checkpoints if path.exists()), None)
    files = folder / "plans.json", folder / "dataset.json"
    if checkpoint is None or not all(path.exists() for path in files):
        return None
    plans, dataset_json = PlansManager(load_json(str(files[0]))), load_json(str(files[1]))
    return Model(Preprocessed(plans.dataset_name, plans, source.configuration, dataset_json), checkpoint)


def _mismatch(model: Model, source: Source) -> str | None:
    """What keeps a model from judging canvases of `source`."""
    theirs = model.preprocessed
    if theirs.dataset_name != source.dataset_name:
        return f"is of {theirs.dataset_name}, the generator of {source.dataset_name}"
    if source.configuration not in theirs.plans_manager.available_configurations:
        return f"has no configuration {source.configuration}"
    if theirs.fingerprint != source.preprocessing:
        return "was trained on cases that were preprocessed differently than the generator's"
    try:
        moved = sorted(_validated(model) & set(source.training_cases)) if source.fold != "all" else ()
    except (ValueError, KeyError, TypeError):
        return f"has no readable {_SUMMARY} (nnUNetv2_train … --val writes it again)"
    if moved:
        return f"was trained under other splits: it was validated on {moved[0]}, which the generator learnt from"
    return None


def _validated(model: Model) -> set[str]:
    """The cases that nnU-Net's validation of the fold was on, once it has run; its checkpoints name no cases."""
    path = model.checkpoint.parent / _SUMMARY
    if not path.exists():
        return set()
    cases = load_json(str(path))["metric_per_case"]
    return {model.preprocessed.case_of(case["prediction_file"]) for case in cases}


def _load_network(model: Model) -> torch.nn.Module:
    theirs = model.preprocessed
    plans, configuration = theirs.plans_manager, theirs.configuration
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, configuration, theirs.dataset_json),
        theirs.label_manager.num_segmentation_heads,
        deep_supervision=False,
    )
    try:
        network.load_state_dict(read_checkpoint(model.checkpoint)["network_weights"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError) as error:
        raise UserError(
            f"{model.checkpoint} can't be read as the network of its plans ({str(error).splitlines()[0]}). Name the "
            f"folder of another nnU-Net: --nnunet FOLDER"
        ) from None
    return network
