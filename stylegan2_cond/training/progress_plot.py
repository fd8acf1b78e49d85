"""`progress.png`: the curves of a training, plotted from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from stylegan2_cond.data.nnunet_folders import best_snapshot_images
from stylegan2_cond.io import write_atomically
from stylegan2_cond.training.log_file import ERROR, REAL, read_log
from stylegan2_cond.training.model_selection import ALLOWED_COPIES
from stylegan2_cond.training.snapshot_evaluation import SNAPSHOT_METRICS

PROGRESS_FILE = "progress.png"
COLUMNS = 3
PANEL_SIZE = (4.4, 2.6)  # inches
MOST_POINTS = 600  # of a curve; more are averaged
LARGEST = 1e30  # value that is plotted
DASHED = (0, (4, 3))
COLOURS = ("#0b6fb8", "#d1582a", "#3a8f3a", "#8059a8")
BEST_COLOUR = "#b8860b"


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis.

    Attributes:
        title: of the panel.
        curves: label of each curve, by the name of its scalar.
        level: a value to compare with, plotted as a line.
        logarithmic: use a logarithmic axis if all curves have positive values.
        limits: range that the axis shows at least.
    """

    title: str
    curves: Mapping[str, str]
    level: float | None = None
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("losses", {"loss_generator": "generator", "loss_discriminator": "discriminator"}),
    Panel("scores of the discriminator", {"score_real": "real", "score_generated": "generated"}),
    Panel(
        "augmentation",
        {"augment_p": "probability", "sign_real": "sign of real scores"},
        limits=(0, 1),
    ),
    Panel("distance of images and of pairs", {"kid": "KID", "kid-pair": "KID of pairs"}, logarithmic=True),
    Panel("precision and coverage", {"precision": "precision", "coverage": "coverage"}, limits=(0, 1)),
    Panel("distance of patches", {"swd": "SWD ×10³"}, logarithmic=True),
    Panel("distance of masks", {"masks": "masks"}, logarithmic=True),
    Panel(
        "diversity, real = 1",
        {"diversity-within": "within classes", "diversity-nearest": "nearest"},
        level=1,
        limits=(0, 1.2),
    ),
    Panel("copies, %", {"copies": "copies"}, level=ALLOWED_COPIES, limits=(0, 5)),
    Panel("conditions met", {"conditions": "share of samples"}, level=1, limits=(0, 1)),
    Panel("paired losses", {"l1": "L1", "features": "feature matching"}, logarithmic=True),
    Panel("gradient penalties", {"r1": "R1", "r2": "R2"}, logarithmic=True),
)


@dataclass(frozen=True)
class Curve:
    """A scalar over the images seen: `[N]` each; `error` is NaN if unknown."""

    images: np.ndarray
    value: np.ndarray
    error: np.ndarray


def save_progress(folder: Path) -> None:
    """Plot `progress.png` from the run's log: a panel for each group of scalars in the log; no file without any.

    Grey lines mark snapshots, the golden one the best; bands are one standard error to each side; a dashed line in a
    curve's colour is the score of other real data. Unreadable lines and values that are not finite are skipped.
    """
    lines = sorted((line for line in read_log(folder) if 0 <= line["images"] < 10**15), key=lambda line: line["images"])
    curves = {name: curve for panel in PANELS for name in panel.curves if (curve := find_curve(lines, name))}
    panels = [panel for panel in PANELS if any(name in curves for name in panel.curves)]
    if not panels:
        return
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_SIZE[0] * COLUMNS, PANEL_SIZE[1] * rows + 0.6
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.55 / width, 0.35 / height, 1 - 0.2 / width, 1 - 0.85 / height, 0.18, 0.42)
    best = best_snapshot_images(folder)
    headline = f"{' · '.join(folder.parts[-3:])}    {lines[-1]['images']:,} images"
    figure.text(0.55 / width, 1 - 0.3 / height, headline, fontsize=11, va="center")
    if best is not None:
        text = f"best: snapshots/{best:09d}"
        figure.text(1 - 0.2 / width, 1 - 0.3 / height, text, fontsize=11, va="center", ha="right", color=BEST_COLOUR)
    snapshots = [line["images"] for line in lines if any(name in line for name in SNAPSHOT_METRICS)]
    for number, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(rows, COLUMNS, number)
        _plot_panel(axis, panel, {name: curves[name] for name in panel.curves if name in curves}, lines)
        axis.vlines(snapshots, 0, 1, transform=axis.get_xaxis_transform(), color="0.85", linewidth=0.6, zorder=0)
        if best is not None:
            axis.axvline(best, color=BEST_COLOUR, linewidth=1.4, alpha=0.7, zorder=1)
        axis.set_xlim(0, lines[-1]["images"] or 1)
    with write_atomically(folder / PROGRESS_FILE) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def find_curve(lines: Sequence[Mapping[str, object]], name: str) -> Curve | None:
    """The curve of a scalar; None if no line has it. Neighbouring points are averaged if there are many."""
    found = [(line["images"], line[name], line.get(name + ERROR)) for line in lines if _is_number(line.get(name))]
    if not found:
        return None
    table = np.array([(images, value, error if _is_number(error) else math.nan) for images, value, error in found])
    parts = np.array_split(table, min(len(table), MOST_POINTS))
    return Curve(*np.array([part.mean(axis=0) for part in parts], float).T)


def _plot_panel(axis: Axes, panel: Panel, curves: Mapping[str, Curve], lines: Sequence[Mapping[str, object]]) -> None:
    logarithmic = panel.logarithmic and all((curve.value > 0).any() for curve in curves.values())
    if panel.level is not None:
        axis.axhline(panel.level, color="0.55", linewidth=1, linestyle=DASHED, zorder=1)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        shown = np.fmax(curve.value, curve.error)  # a value below its standard error is not distinguishable from 0
        floor = shown[shown > 0].min() / 2 if logarithmic else -math.inf
        values, error = np.maximum(curve.value, floor), np.nan_to_num(curve.error)
        marker = {"marker": "o", "markersize": 3} if len(curve.images) <= 40 else {}
        band = (np.maximum(curve.value + side, floor) for side in (-error, error))
        axis.fill_between(curve.images, *band, color=colour, alpha=0.2, linewidth=0, zorder=2)
        axis.plot(curve.images, values, color=colour, linewidth=1.4, label=panel.curves[name], zorder=3, **marker)
        if panel.level is None and (real := find_curve(lines, name + REAL)):
            level = np.fmax(real.value, real.error)[-1] if logarithmic else real.value[-1]
            if level > 0 or not logarithmic:
                axis.axhline(level, color=colour, linewidth=1, linestyle=DASHED, label="real data", zorder=1)
    if panel.limits:
        low, high = min(curve.value.min() for curve in curves.values()), axis.get_ylim()[1]
        axis.set_ylim(min(low, panel.limits[0]), max(high, panel.limits[1]))
    if logarithmic:
        axis.set_yscale("log")  # at least a decade, with plain numbers
        low, high = axis.get_ylim()
        widen = max(1.0, math.sqrt(10 * low / high))
        axis.set_ylim(low / widen, high * widen)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_title(panel.title, fontsize=10, loc="left", y=1.02)  # a fixed place, since automatic placement is slow
    axis.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images / 1000:g}k" if images else "0"))
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=8, frameon=False, loc="best", handlelength=1.2)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST
