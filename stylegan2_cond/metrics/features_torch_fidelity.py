"""Inception as published for FID and KID, through the optional library torch-fidelity; nothing is downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.metrics.features import ExtractorSettings, FeatureExtractor, register_features
from stylegan2_cond.snapshot import sha256

BATCH = 16  # RGB images per pass, which bounds the memory: the network resizes all to 299 pixels
LAYER = "2048"  # from which FID is computed
# What torch-fidelity and torch raise for a damaged or unsuitable file.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError)


@register_features
class TorchFidelity(FeatureExtractor):
    """Inception of torch-fidelity, at the layer from which the library computes FID; 2-D patches only.

    Three channels are treated as red, green and blue. Otherwise each channel is treated as a grey image, and the
    features are concatenated. They are not projected, so that distances are those of the papers; the covariance of
    2048 features per channel needs many patches.

    Args:
        low, high: per image channel, the intensities in nnU-Net's units that become 0 and 255; those beyond are
            clipped. A plan's codec holds both.
        weights: file with the network's weights; the one in torch hub's folder, when None.
        device: to compute on.

    Raises:
        UserError: torch-fidelity is missing, the weights are missing or can't be read, or the intensities are not
            ranges.
    """

    name = "inception-v3-compat"
    standardised = False

    def __init__(
        self,
        *,
        low: Sequence[float],
        high: Sequence[float],
        weights: Path | None = None,
        device: str | torch.device = "cpu",
    ):
        self.low, self.high = tuple(map(float, low)), tuple(map(float, high))
        if len(self.low) != len(self.high) or not all(np.less(self.low, self.high)):
            raise UserError(f"low={self.low} and high={self.high} are not ranges: each channel needs low < high.")
        self.device = torch.device(device)
        try:
            from torch_fidelity import __version__
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL
            from torch_fidelity.utils import create_feature_extractor
        except ImportError as error:
            raise UserError(
                f"These features need torch-fidelity, which can't be imported ({error}). Type: pip install "
                f'"nnunet-synth[fidelity]"'
            ) from None
        file = Path(weights or Path(torch.hub.get_dir(), "checkpoints", URL.rpartition("/")[2]))
        if not file.is_file():
            raise UserError(
                f"There is no file {file} with the weights of {self.name}, and they are not downloaded automatically. "
                f'Type: curl -L --create-dirs -o "{file}" {URL}'
            )
        self._source = f"{sha256(file)}-{__version__}"
        try:
            torch.load(file, map_location="cpu", weights_only=True)  # torch-fidelity unpickles anything; this is safe
            with torch.random.fork_rng(devices=[]):  # the network starts with random weights
                network = create_feature_extractor(  # in eval mode, and without gradients
                    self.name, [LAYER], cuda=False, verbose=False, feature_extractor_weights_path=str(file)
                )
        except _UNREADABLE as error:
            raise UserError(
                f"{file} can't be read as the weights of {self.name} ({first_line(error)}). Download them from {URL}"
            ) from None
        self.network = network.to(self.device)

    @classmethod
    def build(cls, settings: ExtractorSettings) -> FeatureExtractor:
        """The network, with the intensity ranges of the settings."""
        return cls(low=settings.low, high=settings.high, device=settings.device)

    def identity(self) -> str:
        """Depends on the weights, the library's version and the intensity ranges."""
        return f"{self.name}-{self._source}-{self.low}-{self.high}"

    @torch.inference_mode()
    def __call__(self, samples: SampleSet) -> torch.Tensor:
        if len(samples.patch_size) != 2:
            raise UserError(
                f"{self.name} needs 2-D images; these patches are {'×'.join(map(str, samples.patch_size))}. For 3-D "
                f"patches, use --features nnunet or --features random"
            )
        if samples.channels != len(self.low):
            raise UserError(
                f"The patches have {samples.channels} channels, low and high have {len(self.low)}. Give "
                f"{self.name} one range for each channel."
            )
        found = []
        for part in samples.batches(BATCH):
            image = torch.from_numpy(part.image).to(self.device)
            low, high = (image.new_tensor(bound).reshape(1, -1, 1, 1) for bound in (self.low, self.high))
            pixels = ((image - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8)
            shown = [pixels] if samples.channels == 3 else [one.expand(-1, 3, -1, -1) for one in pixels.split(1, dim=1)]
            found.append(torch.cat([self.network(rgb)[0].cpu() for rgb in shown], dim=1))
        return torch.cat(found)
