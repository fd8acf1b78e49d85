"""One picture of an evaluation: samples, the real canvases nearest to them, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stylegan2_cond.documents import write_atomically
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.copies import CopySearch
from stylegan2_cond.metrics.correlation import RIM, align, rims
from stylegan2_cond.pictures import colour_mask, middle_slice
from stylegan2_cond.planning import Plan

COLUMNS = 8
ROWS = ("most like a copy", "nearest real", "difference", "as drawn", "nearest real", "difference")


def save_neighbours(path: Path, comparison: Comparison, found: CopySearch, plan: Plan) -> None:
    """Above, the samples most like copies; below, some that are as they come.

    Each stands over the training canvas that correlates best with it, shifted so that they match, and the difference of
    the first channel. Red titles are alarms.
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
    image, mask = _scaled(drawn.image[number], plan), drawn.label[number]
    corner = align(drawn.image[number], reference.image[partner])
    there, its_mask = beneath(_scaled(reference.image[partner], plan), reference.label[partner], corner, drawn.canvas)
    for axis, (grey, labels) in zip(axes[:2], ((image, mask), (there, its_mask)), strict=True):
        axis.imshow(colour_mask(*_middle(grey, labels), plan.codec.labels))
    axes[2].imshow(_middle(image - there, mask)[0], cmap="gray", vmin=-1, vmax=1)
    colour = "red" if found.alarms[number] else "black"
    axes[0].set_title(f"{found.drawn.nearness[number]:.3f}", fontsize=8, color=colour)
    axes[1].set_title(str(reference.case[partner])[-16:], fontsize=7)


def beneath(
    image: np.ndarray, mask: np.ndarray, corner: Sequence[int], canvas: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a training canvas under a sample whose inner part fits at `corner`; 0 beyond its end.

    image: `[*channels, *size]`, mask: `[*size]` → `[*channels, *canvas]`, `[*canvas]`.
    """
    starts = [place - rim for place, rim in zip(corner, rims(canvas), strict=True)]
    box = (..., *(slice(start + RIM, start + RIM + length) for start, length in zip(starts, canvas, strict=True)))
    around = [(RIM, RIM)] * mask.ndim
    return np.pad(image, [(0, 0)] * (image.ndim - mask.ndim) + around)[box], np.pad(mask, around)[box]


def _scaled(image: np.ndarray, plan: Plan) -> np.ndarray:
    """The first channel, `[*canvas]`, between 0 and 1."""
    low, high = plan.codec.low[0], plan.codec.high[0]
    return np.clip((image[0] - low) / (high - low), 0, 1)


def _middle(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return middle_slice(image[None, None])[0, 0], middle_slice(mask[None, None])[0, 0]
