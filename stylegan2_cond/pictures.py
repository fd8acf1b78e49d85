"""Pictures of pairs: grey images with their masks drawn over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.image import imsave

from stylegan2_cond.documents import write_atomically

SMALLEST_TILE = 96  # pixels; smaller canvases are magnified by a whole number
GAP = 2
_COLOURS = [c for c in matplotlib.colormaps["tab10"].colors if len(set(c)) > 1]  # its grey would not be seen


def overlay_grid(
    image: np.ndarray,
    label: np.ndarray,
    *,
    low: Sequence[float],
    high: Sequence[float],
    labels: Sequence[int],
    columns: int = 8,
) -> np.ndarray:
    """Tiles of every channel beside the first channel with the mask over it.

    Args:
        image: `[N, C, *canvas]`.
        label: `[N, *canvas]` integers.
        low, high: per channel, the intensities drawn black and white.
        labels: label values in the order of their colours; the background 0 and -1 stay uncoloured.
        columns: samples per row.

    Returns:
        `[height, width, 3]` uint8.
    """
    image, label = middle_slice(image), middle_slice(label[:, None])[:, 0]
    low, high = (np.reshape(bound, (1, -1, 1, 1)) for bound in (low, high))
    grey = np.clip((image - low) / (high - low), 0, 1)
    tiles = [
        np.concatenate([*(_rgb(g) for g in sample), colour_mask(sample[0], mask, labels)], axis=1)
        for sample, mask in zip(grey, label, strict=True)
    ]
    scale = max(1, math.ceil(SMALLEST_TILE / max(grey.shape[2:])))
    tiles = [np.pad(tile.repeat(scale, 0).repeat(scale, 1), [(GAP, GAP), (GAP, GAP), (0, 0)]) for tile in tiles]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return (np.concatenate(rows, axis=0) * 255).astype(np.uint8)


def colour_mask(grey: np.ndarray, mask: np.ndarray, labels: Sequence[int], opacity: float = 0.45) -> np.ndarray:
    """`[H, W]` grey values in 0…1 with each foreground label blended in its colour → `[H, W, 3]`."""
    rgb = _rgb(grey)
    for index, value in enumerate(label for label in labels if label > 0):
        rgb[mask == value] = (1 - opacity) * rgb[mask == value] + opacity * np.array(_COLOURS[index % len(_COLOURS)])
    return rgb


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a `[height, width, 3]` uint8 array as PNG, whole or not at all."""
    with write_atomically(path) as temporary:
        imsave(temporary, picture, format="png")


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def middle_slice(volumes: np.ndarray) -> np.ndarray:
    """`[N, C, *canvas]` → `[N, C, H, W]`, the middle slice along the first axis of 3-D canvases."""
    while volumes.ndim > 4:
        volumes = volumes[:, :, volumes.shape[2] // 2]
    return volumes
