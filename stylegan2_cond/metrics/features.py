"""Feature extractors: patches → vectors whose distances reflect similarity."""

from __future__ import annotations

import difflib
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch.nn import functional as F

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.ops import convolve, downsample

BATCH_VOXELS = 200_000  # per pass, which bounds the memory
MOST_FEATURES = 512  # more are projected, which keeps distances and makes covariances small


@dataclass(frozen=True)
class ExtractorSettings:
    """What an extractor may be built from.

    Attributes:
        low, high: per image channel, the intensities that become black and white in an 8-bit image.
        nnunet: trained on the real cases; None where there is none.
        device: to compute on.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    nnunet: FeatureExtractor | None = None
    device: str | torch.device = "cpu"


class FeatureExtractor(ABC):
    """Turns patches into vectors. A subclass is registered by its name.

    Attributes:
        name: as typed and stored.
        standardised: whether metrics divide each feature by its standard deviation over the real patches; not for
            published networks, whose numbers are compared across papers.
    """

    name: str
    standardised: bool = True

    @classmethod
    def build(cls, settings: ExtractorSettings) -> FeatureExtractor:
        """The extractor with these settings."""
        return cls()

    @abstractmethod
    def identity(self) -> str:
        """What the vectors depend on besides the patches; part of the key under which they are cached."""

    @abstractmethod
    def __call__(self, samples: SampleSet) -> torch.Tensor:
        """`[N, F]` float32."""


FEATURES: dict[str, type[FeatureExtractor]] = {}


def register_features(extractor: type[FeatureExtractor]) -> type[FeatureExtractor]:
    """Class decorator: register an extractor by its name."""
    FEATURES[extractor.name] = extractor
    return extractor


def build_features(name: str | None, settings: ExtractorSettings) -> FeatureExtractor:
    """The extractor of that name; when None, nnU-Net where there is one, else random filters.

    Raises:
        UserError: there is none of that name, or it is not available.
    """
    name = name or ("random" if settings.nnunet is None else "nnunet")
    if name not in FEATURES:
        nearest = difflib.get_close_matches(name, FEATURES, n=1)
        hint = f"Did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"There are no features '{name}'. {hint}Available: {', '.join(FEATURES)}.")
    return FEATURES[name].build(settings)


@register_features
class RandomPyramid(FeatureExtractor):
    """Mean and standard deviation of the responses of random convolutions at several resolutions.

    Random, untrained filters with pooling already separate textures and shapes (Saxe et al. 2011, On Random Weights and
    Unsupervised Feature Learning). Without biases and with a leaky ReLU, scaling the intensities of both sides alike
    does not change the standardised features.

    Args:
        channels: filters of each level.
        labels: one-hot masks of these labels are further input channels, so that the features depend on whether mask
            and image fit; none, when empty.
        seed: of the filters.
    """

    name = "random"
    COARSEST = 8  # voxels of the longest axis, below which there are no further levels

    def __init__(self, *, channels: int = 32, labels: Sequence[int] = (), seed: int = 0):
        self.name = "random-pair" if labels else self.name
        self.channels = channels
        self.labels = tuple(int(label) for label in labels)
        self.seed = seed

    def identity(self) -> str:
        """Depends on all arguments."""
        return f"{self.name}-{self.channels}-{self.labels}-{self.seed}"

    def __call__(self, samples: SampleSet) -> torch.Tensor:
        found = []
        for part in samples.batches(max(1, BATCH_VOXELS // math.prod(samples.patch_size))):
            masks = [torch.from_numpy(part.label == label).unsqueeze(1).float() for label in self.labels]
            found.append(self._responses(torch.cat([torch.from_numpy(part.image), *masks], dim=1)))
        return torch.cat(found)

    def _responses(self, x: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(self.seed)
        found = []
        while True:
            inputs, dims = x.shape[1], x.ndim - 2
            filters = torch.randn(self.channels, inputs, *[3] * dims, generator=rng) / math.sqrt(inputs * 3**dims)
            x = F.leaky_relu(convolve(x, filters), 0.2)
            flat = x.flatten(2)
            found += [flat.mean(dim=2), flat.std(dim=2)]
            factors = [2 if length > self.COARSEST else 1 for length in x.shape[2:]]
            if max(factors) == 1:
                return torch.cat(found, dim=1)
            x = downsample(x, factors)


def project(features: torch.Tensor, most: int = MOST_FEATURES) -> torch.Tensor:
    """`[N, F]` → `[N, most]` by a fixed Gaussian matrix, which nearly preserves distances (Johnson & Lindenstrauss).

    Unchanged where F is not larger than `most`.
    """
    width = features.shape[1]
    if width <= most:
        return features
    return features @ (torch.randn(width, most, generator=torch.Generator().manual_seed(0)) / math.sqrt(most))


class CachedExtractor(FeatureExtractor):
    """An extractor that keeps the features of patches cut from cases on disk, and computes those of generated ones."""

    def __init__(self, extractor: FeatureExtractor, folder: Path):
        self.extractor = extractor
        self.folder = folder
        self.name = extractor.name
        self.standardised = extractor.standardised

    def identity(self) -> str:
        """That of the extractor."""
        return self.extractor.identity()

    def __call__(self, samples: SampleSet) -> torch.Tensor:
        if samples.case is None:
            return self.extractor(samples)
        path = self.folder / f"features_{content_key(samples, self.identity())}.npz"
        found = cached_arrays(path, ["features"], lambda: {"features": self.extractor(samples).numpy()})
        return torch.from_numpy(found["features"])


def cached_arrays(
    path: Path | None, names: Sequence[str], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file; computed, and written if possible, where it is missing or damaged, or path is None."""
    if path is None:
        return compute()
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names}
    found = compute()
    with suppress(UserError, OSError), write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **found)
    return found


def content_key(samples: SampleSet, *further: str) -> str:
    """A hash of the patches, their masks, and whatever else a result depends on."""
    digest = hashlib.sha256("\n".join(further).encode())
    for part in (samples.image, samples.label):
        if part is not None:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]
