"""One picture of an evaluation: samples, the real patches nearest to them, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stylegan2_cond.io import write_atomically
from stylegan2_cond.metrics.compare import Comparison
from stylegan2_cond.metrics.memorization import CopySearch
from stylegan2_cond.metrics.ncc import RIM, align, rims
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import colour_mask, middle_slice, scaled

COLUMNS = 8
ROWS = ("most like a copy", "nearest real", "difference", "as drawn", "nearest real", "difference")


def save_neighbours(path: Path, comparison: Comparison, found: CopySearch, plan: Plan) -> None:
    """Above, the samples most like copies; below, some that are as they come.

    Each stands over the training patch that correlates best with it, shifted so that they match, and the difference.
    Colour images are in colour, of others the first channel is shown. Red titles are alarms.
    """
    typical = comparison.rng(6).permutation(len(comparison.drawn))[:COLUMNS]
    figure = Figure(figsize=(1.3 * COLUMNS, 9), layout="constrained")
    axes = figure.subplots(6, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, numbers in ((0, found.worst(COLUMNS)), (3, typical)):
        for column, number in enumerate(numbers):
            _show(axes[row : row + 3, column], comparison, found, plan, int(number))
    for row, text in enumerate(ROWS):
        axes[row, 0].text(-0.08, 0.5, text, rotation=90, ha="right", va="center", transform=axes[row, 0].transAxes)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _show(axes: Sequence, comparison: Comparison, found: CopySearch, plan: Plan, number: int) -> None:
    drawn, reference = comparison.drawn, comparison.reference
    partner = int(found.drawn.index[number])
    image, mask = _shown(drawn.image[number], plan), drawn.label[number]
    corner = align(drawn.image[number], reference.image[partner])
    there, its_mask = beneath(
        _shown(reference.image[partner], plan), reference.label[partner], corner, drawn.patch_size
    )
    for axis, (part, labels) in zip(axes[:2], ((image, mask), (there, its_mask)), strict=True):
        axis.imshow(colour_mask(_middle(part), _middle(labels[None]), plan.codec.labels))
    axes[2].imshow(_middle((image - there).mean(axis=0, keepdims=True)), cmap="gray", vmin=-1, vmax=1)
    colour = "red" if found.alarms[number] else "black"
    axes[0].set_title(f"{found.drawn.nearness[number]:.3f}", fontsize=8, color=colour)
    axes[1].set_title(str(reference.case[partner])[-16:], fontsize=7)


def beneath(
    image: np.ndarray, mask: np.ndarray, corner: Sequence[int], patch_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a training patch under a sample whose inner part fits at `corner`; 0 beyond its end.

    image: `[*channels, *size]`, mask: `[*size]` → `[*channels, *spatial]`, `[*spatial]`.
    """
    starts = [place - rim for place, rim in zip(corner, rims(patch_size), strict=True)]
    box = (..., *(slice(start + RIM, start + RIM + length) for start, length in zip(starts, patch_size, strict=True)))
    around = [(RIM, RIM)] * mask.ndim
    return np.pad(image, [(0, 0)] * (image.ndim - mask.ndim) + around)[box], np.pad(mask, around)[box]


def _shown(image: np.ndarray, plan: Plan) -> np.ndarray:
    """`[k, *spatial]` between 0 and 1: red, green and blue of a colour image, the first channel of another one."""
    codec = plan.codec
    return scaled(image, codec.low, codec.high, codec.rgb)[list(codec.rgb or (0,))]


def _middle(channels: np.ndarray) -> np.ndarray:
    """`[k, *spatial]` → the middle slice, `[H, W]` of a single channel, else `[H, W, k]`."""
    cut = middle_slice(channels[None])[0]
    return cut[0] if len(cut) == 1 else np.moveaxis(cut, 0, -1)
