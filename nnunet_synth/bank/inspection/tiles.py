"""Pictures for the page: a patch as grey image, its mask as a layer to lay over it, both as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from stylegan2_cond.visualization import colour_mask, scaled

LONGEST = 256  # pixels of a cut in the page; larger ones are thinned out
LAYER_WIDTH = 240  # pixels that a mask is drawn with at least, so that its outline is thin
FILL = 0.22  # opacity of a mask within its outline
GAP = 1  # voxels between cuts
GAP_GREY = 0.3


@dataclass(frozen=True)
class Look:
    """How patches are drawn.

    Attributes:
        low, high: per channel, the intensities that are drawn black and white.
        labels: label values in the order of their colours.
        rgb: the channels that are red, green and blue; None where the image is not a colour image.
    """

    low: Sequence[float]
    high: Sequence[float]
    labels: Sequence[int]
    rgb: Sequence[int] | None = None

    def colour(self, label: int) -> str:
        """`#rrggbb`, the colour that `pictures.overlay_grid` gives a class."""
        rgb = colour_mask(np.zeros((1, 1)), np.full((1, 1), label), self.labels, opacity=1)[0, 0]
        return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


@dataclass(frozen=True)
class Tile:
    """A patch as two pictures of one size: data URIs, and the width and height in voxels."""

    grey: str
    mask: str
    width: int
    height: int


def make_tile(image: np.ndarray, label: np.ndarray, look: Look) -> Tile:
    """Every channel of a slice in a row, or their colour; of a volume, three cuts in a row, a row for each channel.

    Args:
        image: `[C, *spatial]`.
        label: `[*spatial]` integers; drawn over each channel.
        look: how.
    """
    image = scaled(image, look.low, look.high, look.rgb)
    colours = [image] * 3 if look.rgb is None else [image[channel, None] for channel in look.rgb]
    picture = np.stack([lay_out(colour, GAP_GREY) for colour in colours], axis=-1)
    mask = lay_out(np.repeat(label[None], len(colours[0]), axis=0), 0)
    step = math.ceil(max(label.shape) / LONGEST)
    picture, mask = picture[::step, ::step], mask[::step, ::step]
    return Tile(
        grey=_png((255 * picture).round().astype(np.uint8)),
        mask=_png(_layer(mask, look)),
        width=picture.shape[1],
        height=picture.shape[0],
    )


def lay_out(channels: np.ndarray, gap: float) -> np.ndarray:
    """`[C, *spatial]` → `[H, W]`: the channels of a slice side by side; three cuts of a volume, a row per channel."""
    if channels.ndim == 3:
        return _side_by_side(list(channels), gap)
    middles = [length // 2 for length in channels.shape[1:]]
    rows = [_side_by_side([channel.take(m, axis=axis) for axis, m in enumerate(middles)], gap) for channel in channels]
    return np.concatenate([_padded(row, row.shape[0] + GAP * (n > 0), gap) for n, row in enumerate(rows)])


def _side_by_side(cuts: Sequence[np.ndarray], gap: float) -> np.ndarray:
    height = max(len(cut) for cut in cuts)
    between = np.full((height, GAP), gap, cuts[0].dtype)
    parts = [part for cut in cuts for part in (between, _padded(cut, height, gap))]
    return np.concatenate(parts[1:], axis=1)


def _padded(cut: np.ndarray, height: int, value: float) -> np.ndarray:
    above = (height - len(cut) + 1) // 2
    return np.pad(cut, ((above, height - len(cut) - above), (0, 0)), constant_values=value)


def _layer(mask: np.ndarray, look: Look) -> np.ndarray:
    """`[H, W]` labels → `[s·H, s·W, 4]`: each class outlined and faintly filled, nothing elsewhere."""
    scale = max(1, math.ceil(LAYER_WIDTH / mask.shape[1]))
    mask = mask.repeat(scale, 0).repeat(scale, 1)
    shown = np.isin(mask, [label for label in look.labels if label > 0])
    mask = np.where(shown, mask, 0)
    around = np.pad(mask, 1, mode="edge")
    sides = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    rim = np.any([side != mask for side in sides], axis=0)
    opacity = np.where(shown, np.where(rim, 1.0, FILL), 0.0)
    colours = colour_mask(np.zeros(mask.shape), mask, look.labels, opacity=1)
    return (255 * np.concatenate([colours, opacity[..., None]], axis=2)).round().astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return _uri(buffer.getvalue())


def picture_of(path: Path) -> str:
    """A PNG file as data URI."""
    return _uri(path.read_bytes())


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
