"""The nnU-Net that was trained on the real cases of a fold: its features and its segmentation of patches."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from stylegan2_cond.data.patch_sampler import IMAGE_PADDING
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import (
    BATCH_VOXELS,
    ExtractorSettings,
    FeatureExtractor,
    project,
    register_features,
)
from stylegan2_cond.metrics.trained_nnunets import TrainedModel, find_nnunets, load_network, read_suitable_model
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import write_line
from stylegan2_cond.snapshot import sha256


@register_features
class NnUNet(FeatureExtractor):
    """A trained nnU-Net on a device; its features are the mean of each channel of all stages of the encoder."""

    name = "nnunet"

    def __init__(self, model: TrainedModel, device: str | torch.device = "cpu"):
        self.model = model
        self.device = torch.device(device)
        network, self._strides = load_network(model)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self._sha256 = sha256(model.checkpoint)

    @classmethod
    def build(cls, settings: ExtractorSettings) -> FeatureExtractor:
        """The nnU-Net of the settings."""
        if settings.nnunet is None:
            raise UserError("There is no nnU-Net to take features from. Name one, or use --features random")
        return settings.nnunet

    def identity(self) -> str:
        """The checksum of the checkpoint."""
        return f"{self.name}-{self._sha256}"

    @torch.inference_mode()
    def __call__(self, samples: SampleSet) -> torch.Tensor:
        if not hasattr(self.network, "encoder"):
            raise UserError(f"The network in {self.model.folder} has no encoder. Use --features random")
        parts = []
        for batch in self._batches(samples):
            stages = self.network.encoder(self._padded(batch))
            parts.append(torch.cat([stage.flatten(2).mean(dim=2) for stage in stages], dim=1).cpu())
        return project(torch.cat(parts))

    @torch.inference_mode()
    def segment(self, samples: SampleSet) -> np.ndarray:
        """`[N, *spatial]` int16: the network's segmentation, without test-time mirroring.

        With region-based training, regions are converted to labels as nnU-Net does.
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
        """Padded at the far ends, as nnU-Net's loader pads, until the network's strides divide it."""
        missing = [-length % stride for length, stride in zip(image.shape[2:], self._strides, strict=True)]
        padding = [amount for length in reversed(missing) for amount in (0, int(length))]
        return F.pad(image.to(self.device), padding, value=IMAGE_PADDING)


def open_newest(source: Source, device: str | torch.device = "cpu") -> NnUNet:
    """The newest nnU-Net of a fold that can be opened; damaged ones are skipped with a warning.

    Raises:
        UserError: there is none; names the reason for each that was skipped.
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
            write_line(f"Warning: skipped an nnU-Net: {reason}", sys.stderr)
        return network
    others = "".join(f" Skipped: {reason}." for reason in (*(one.rstrip(".") for one in damaged), *found.unsuitable))
    raise UserError(
        f"No nnU-Net was trained on the real cases of this fold only.{others} Train one: "
        f"nnUNetv2_train {source.dataset_name} {source.configuration} {source.fold}"
    )


def open_nnunet(folder: Path, source: Source, device: str | torch.device = "cpu") -> NnUNet:
    """The nnU-Net in a folder.

    Raises:
        UserError: there is none for the fold, it is damaged, or of another dataset, configuration or preprocessing.
    """
    return NnUNet(read_suitable_model(folder, source), device)
