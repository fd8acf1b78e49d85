"""Recognises validation and test cases among unlabelled scans, also where they were converted or rescaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

SIZE = (16, 32, 32)  # voxels of a thumbnail along z, y and x
# Correlation of thumbnails. Of different subjects it was at most 0.84 (Hippocampus) and 0.62 (ACDC).
NEARLY_THE_SAME = 0.95


def thumbnail(image: np.ndarray) -> torch.Tensor:
    """A small version of an image `[C, z, y, x]`, with mean 0 and norm 1: `[C * 16 * 32 * 32]` float32."""
    small = F.interpolate(torch.from_numpy(np.ascontiguousarray(image))[None], SIZE, mode="area").flatten()
    small = small - small.mean()
    return small / small.norm().clamp_min(torch.finfo(small.dtype).tiny)


@dataclass(frozen=True)
class EvaluationCases:
    """Validation and test cases: their names, images and thumbnails.

    Attributes:
        names: what to call each case in a message, for example `validation case hippocampus_003`.
        images: SHA-256 of each case's preprocessed image.
        thumbnails: `[N, voxels]`.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    thumbnails: torch.Tensor

    @classmethod
    def of(cls, cases: Mapping[str, tuple[str, torch.Tensor]]) -> EvaluationCases:
        """From SHA-256 and thumbnail of each case, by its name."""
        images, thumbnails = zip(*cases.values(), strict=True) if cases else ((), ())
        return cls(tuple(cases), images, torch.stack(thumbnails) if cases else torch.zeros(0, 1))

    def find(self, image_sha256: str, small: torch.Tensor) -> str | None:
        """The case that a scan is, or nearly is, in words; None if it is none of them."""
        if image_sha256 in self.images:
            return f"{self.names[self.images.index(image_sha256)]} (the same image)"
        if not self.names:
            return None
        correlation, place = (self.thumbnails @ small).max(dim=0)
        if correlation < NEARLY_THE_SAME:
            return None
        return f"{self.names[int(place)]} (correlation {float(correlation):.4f} at low resolution)"
