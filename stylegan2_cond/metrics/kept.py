"""Vectors of real patches, kept on disk by the content that they were made from: computed once for a fold."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.metrics.features import Features
from stylegan2_cond.metrics.sample_set import Samples

EVALUATION_FOLDER = "evaluation"  # of a run: what depends on its real patches alone


class KeptFeatures(Features):
    """An extractor that remembers patches cut from cases; drawn ones are looked at anew, and forgotten."""

    def __init__(self, extractor: Features, folder: Path):
        self.extractor = extractor
        self.folder = folder
        self.name = extractor.name
        self.standardised = extractor.standardised

    def identity(self) -> str:
        return self.extractor.identity()

    def __call__(self, samples: Samples) -> torch.Tensor:
        if samples.case is None:
            return self.extractor(samples)
        path = self.folder / f"features_{content_key(samples, self.identity())}.npy"
        with suppress(OSError, ValueError, EOFError):  # not there, or damaged
            return torch.from_numpy(np.load(path, allow_pickle=False))
        vectors = self.extractor(samples)
        with suppress(UserError, OSError), write_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors.numpy(), allow_pickle=False)
        return vectors


def content_key(samples: Samples, *further: str) -> str:
    """A name that stands for these patches, their masks, and whatever else a result depends on."""
    digest = hashlib.sha256("\n".join(further).encode())
    for part in (samples.image, samples.label):
        if part is not None:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]
