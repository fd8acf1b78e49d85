"""Grids of images with their masks as overlays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.image import imsave

from stylegan2_cond.io import write_atomically

MIN_TILE = 96  # pixels; smaller patches are magnified by a whole number
GAP = 2
FRAME = 0.3  # grey of the gaps around volumes and bare masks
COLUMNS = {2: 8, 3: 4}  # samples per row, by the number of axes
_COLOURS = [c for c in matplotlib.colormaps["tab10"].colors if len(set(c)) > 1]  # grey is not visible


def overlay_grid(
    image: np.ndarray,
    label: np.ndarray,
    *,
    low: Sequence[float],
    high: Sequence[float],
    labels: Sequence[int],
    rgb: Sequence[int] | None = None,
    columns: int | None = None,
) -> np.ndarray:
    """A grid of samples: each channel next to the first channel with the mask as overlay; masks alone on black.

    Colour images are shown in colour, next to the same with the overlay. Volumes are shown by their middle slices
    along the three axes, side by side, with the channels and the overlay in rows.

    Args:
        image: `[N, C, *spatial]`.
        label: `[N, *spatial]` integers.
        low, high: per channel, the intensities shown as black and white.
        labels: label values in the order of their colours; 0 and -1 are not coloured.
        rgb: the channels that are red, green and blue; None if the image is not in colour.
        columns: samples per row; up to 8 slices or 4 volumes if None.

    Returns:
        `[height, width, 3]` uint8.
    """
    dims = label.ndim - 1
    rgb = rgb if image.shape[1] == 3 else None
    grey = np.stack([scaled(one, low, high, rgb) for one in image])
    pairs = zip(grey, label, strict=True)
    if dims == 2:
        tiles = [np.concatenate(_views(sample, mask, labels, rgb), axis=1) for sample, mask in pairs]
    else:
        tiles = [_volume_tile(sample, mask, labels, rgb) for sample, mask in pairs]
    scale = max(1, math.ceil(MIN_TILE / max(label.shape[1:])))
    frame = 0.0 if dims == 2 and image.shape[1] else FRAME  # black tiles need another
    tiles = [_framed(tile.repeat(scale, 0).repeat(scale, 1), ((GAP, GAP), (GAP, GAP)), frame) for tile in tiles]
    columns = columns or min(COLUMNS[dims], len(tiles))
    tiles += [np.full_like(tiles[0], frame)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return (np.concatenate(rows, axis=0) * 255).astype(np.uint8)


def scaled(
    image: np.ndarray, low: Sequence[float], high: Sequence[float], rgb: Sequence[int] | None = None
) -> np.ndarray:
    """`[C, *spatial]` → the same between 0 and 1; all channels of a colour image by one scale, which keeps its hue."""
    if rgb is not None:
        low, high = [min(low)] * len(low), [max(high)] * len(high)
    low, high = (np.reshape(bound, (-1, *[1] * (image.ndim - 1))) for bound in (low, high))
    return np.clip((image - low) / (high - low), 0, 1)


_Rgb = Sequence[int] | None


def _volume_tile(grey: np.ndarray, mask: np.ndarray, labels: Sequence[int], rgb: _Rgb) -> np.ndarray:
    height, columns = max(mask.shape[:2]), []
    for axis in range(3):
        middle = mask.shape[axis] // 2
        views = _views(grey.take(middle, axis=axis + 1), mask.take(middle, axis=axis), labels, rgb)
        above = (height - len(views[0])) // 2
        padding = ((above, height - len(views[0]) - above), (int(axis > 0), 0))  # a voxel between two cuts
        columns.append(np.concatenate([_framed(view, padding, FRAME) for view in views]))
    return np.concatenate(columns, axis=1)


def _framed(tile: np.ndarray, padding: Sequence[tuple[int, int]], grey: float) -> np.ndarray:
    return np.pad(tile, [*padding, (0, 0)], constant_values=grey)


def _views(grey: np.ndarray, mask: np.ndarray, labels: Sequence[int], rgb: _Rgb) -> list[np.ndarray]:
    """`[C, H, W]` and `[H, W]` → each channel, and the mask over the first one, as `[H, W, 3]`."""
    if rgb is not None:
        colour = np.moveaxis(grey[list(rgb)], 0, -1)
        return [colour, colour_mask(colour, mask, labels)]
    if not len(grey):
        return [colour_mask(np.zeros(mask.shape), mask, labels, opacity=1)]
    return [*(_rgb(channel) for channel in grey), colour_mask(grey[0], mask, labels)]


def colour_mask(image: np.ndarray, mask: np.ndarray, labels: Sequence[int], opacity: float = 0.45) -> np.ndarray:
    """Grey values `[H, W]` or colours `[H, W, 3]`, 0…1, with each label blended in its colour → `[H, W, 3]`."""
    rgb = _rgb(image) if image.ndim == 2 else image.copy()
    for index, value in enumerate(label for label in labels if label > 0):
        rgb[mask == value] = (1 - opacity) * rgb[mask == value] + opacity * np.array(_COLOURS[index % len(_COLOURS)])
    return rgb


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a `[height, width, 3]` uint8 array as PNG, atomically."""
    with write_atomically(path) as temporary:
        imsave(temporary, picture, format="png")


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def middle_slice(volumes: np.ndarray) -> np.ndarray:
    """`[N, C, *spatial]` → `[N, C, H, W]`, the middle slice along the first axis of 3-D patches."""
    while volumes.ndim > 4:
        volumes = volumes[:, :, volumes.shape[2] // 2]
    return volumes
