"""Inception, VGG and CLIP as published, through the optional library torch-fidelity; nothing is downloaded."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import ExtractorSettings, FeatureExtractor, register_features
from stylegan2_cond.snapshot import sha256

BATCH = 16  # RGB images per pass, which bounds the memory: networks resize all to 224 to 448 pixels
# What torch-fidelity and torch raise for a damaged or unsuitable file.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError)

NAMES = (
    "inception-v3-compat",
    "vgg16",
    "clip-rn50",
    "clip-rn101",
    "clip-rn50x4",
    "clip-rn50x16",
    "clip-rn50x64",
    "clip-vit-b-32",
    "clip-vit-b-16",
    "clip-vit-l-14",
    "clip-vit-l-14-336px",
)


@register_features(*NAMES)
class TorchFidelity(FeatureExtractor):
    """A network of torch-fidelity, at the layer from which the library computes FID; 2-D patches only.

    Available are `inception-v3-compat`, `vgg16`, and `clip-*`. DINOv2 is not: torch-fidelity cannot load it from a
    file, and fetches its code from GitHub even if it is on the machine.

    Three channels are treated as red, green and blue. Otherwise each channel is treated as a grey image, and the
    features are concatenated. They are not projected, so that distances are those of the papers; the covariance of
    2048 features per channel needs many patches.

    Args:
        name: as torch-fidelity calls the network.
        low, high: per image channel, the intensities in nnU-Net's units that become 0 and 255; those beyond are
            clipped. A plan's codec holds both.
        weights: file with the network's weights; the one in torch hub's folder, when None.
        device: to compute on.

    Raises:
        UserError: torch-fidelity is missing, the network is unknown, its weights are missing or can't be read, or the
            intensities are not ranges.
    """

    standardised = False

    def __init__(
        self,
        name: str = "inception-v3-compat",
        *,
        low: Sequence[float],
        high: Sequence[float],
        weights: Path | None = None,
        device: str | torch.device = "cpu",
    ):
        self.low, self.high = tuple(map(float, low)), tuple(map(float, high))
        if len(self.low) != len(self.high) or not all(np.less(self.low, self.high)):
            raise UserError(f"low={self.low} and high={self.high} are not ranges: each channel needs low < high.")
        self.name = name
        self.device = torch.device(device)
        file = _find_weights(name, weights)
        self._source = f"{sha256(file)}-{_library().__version__}"
        self.network = _load_network(name, file).to(self.device)

    @classmethod
    def build(cls, name: str, settings: ExtractorSettings) -> FeatureExtractor:
        """The network of that name, with the intensity ranges of the settings."""
        return cls(name, low=settings.low, high=settings.high, device=settings.device)

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
            pixels = self._pixels(part)
            shown = [pixels] if samples.channels == 3 else [one.expand(-1, 3, -1, -1) for one in pixels.split(1, dim=1)]
            found.append(torch.cat([self.network(rgb)[0].cpu() for rgb in shown], dim=1))
        return torch.cat(found)

    def _pixels(self, samples: SampleSet) -> torch.Tensor:
        """`[N, C, H, W]` uint8."""
        image = torch.from_numpy(samples.image).to(self.device)
        low, high = (image.new_tensor(bound).reshape(1, -1, 1, 1) for bound in (self.low, self.high))
        return ((image - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8)


def _library():
    try:
        import torch_fidelity
    except ImportError as error:
        raise UserError(
            f"These features need torch-fidelity, which can't be imported ({error}). Type: pip install "
            f'"nnunet-synth[fidelity]"'
        ) from None
    return torch_fidelity


def _published() -> dict[str, tuple[str, str]]:
    """For each network, the address of its weights and the file's name in torch hub's folder."""
    _library()
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import VGG16_Weights

    urls = {"inception-v3-compat": URL_INCEPTION_V3, "vgg16": VGG16_Weights.IMAGENET1K_V1.url}
    clip = {name: (url, f"{name}-{MODEL_METADATA[name]['hash']}.pt") for name, url in MODEL_URLS.items()}
    return {name: (url, url.rpartition("/")[2]) for name, url in urls.items()} | clip


def _find_weights(name: str, weights: Path | None) -> Path:
    published = _published()
    if name not in published:
        nearest = difflib.get_close_matches(name, published, n=1, cutoff=0.8)
        hint = f"Did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"There are no torch-fidelity features '{name}' here. {hint}Available: {', '.join(published)}.")
    url, file_name = published[name]
    file = Path(torch.hub.get_dir(), "checkpoints", file_name) if weights is None else Path(weights)
    if file.is_file():
        return file
    if weights is not None:
        raise UserError(f"There is no file {file} with the weights of {name}. Download them from {url}")
    raise UserError(
        f"The weights of {name} are not on this machine, and are not downloaded automatically. Pass their file as "
        f'weights, or download them: curl -L --create-dirs -o "{file}" {url}'
    )


def _load_network(name: str, file: Path) -> torch.nn.Module:
    """Always from a file, since torch-fidelity downloads weights otherwise."""
    from torch_fidelity.utils import create_feature_extractor, resolve_feature_layer_for_metric

    layer = resolve_feature_layer_for_metric("fid", feature_extractor=name)
    try:
        if not name.startswith("clip-"):  # torch-fidelity unpickles anything; a file that passes here can't run code
            torch.load(file, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):  # networks start with random weights
            return create_feature_extractor(  # in eval mode, and without gradients
                name, [layer], cuda=False, verbose=False, feature_extractor_weights_path=str(file)
            )
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{file} can't be read as the weights of {name} ({reason}). Download them from {_published()[name][0]}"
        ) from None
