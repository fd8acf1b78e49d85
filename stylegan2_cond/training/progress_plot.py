"""The picture of a training's course: `progress.png`, drawn from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from stylegan2_cond.io import write_atomically
from stylegan2_cond.training.log_file import read_log
from stylegan2_cond.training.model_selection import ALLOWED_COPIES, ERROR, REAL, best_snapshot_images
from stylegan2_cond.training.snapshot_evaluation import SNAPSHOT_METRICS

PROGRESS_FILE = "progress.png"
COLUMNS = 3
PANEL = (4.4, 2.6)  # inches
MOST_POINTS = 600  # of a curve; more are averaged
LARGEST = 1e30  # value that is drawn
COLOURS = ("#0b6fb8", "#d1582a", "#3a8f3a", "#8059a8")
BEST_COLOUR = "#b8860b"


@dataclass(frozen=True)
class Panel:
    """Some curves that share an axis.

    Attributes:
        title: above it.
        curves: what each is called, by the name of its figure.
        level: a value to compare with, drawn as a line.
        logarithmic: whether the axis is, where all values allow it.
        limits: that the axis shows at least.
    """

    title: str
    curves: Mapping[str, str]
    level: float | None = None
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("losses", {"loss_generator": "generator", "loss_discriminator": "discriminator"}),
    Panel("scores of the discriminator", {"score_real": "real", "score_generated": "drawn"}),
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
    """A figure over the images seen: `[N]` each; `error` is NaN where it is not known."""

    images: np.ndarray
    value: np.ndarray
    error: np.ndarray


def save_progress(folder: Path) -> None:
    """Draw `progress.png` anew from the run's log: a panel for each kind of figure that the log has.

    Grey lines are snapshots, the golden one is what `best` points to; bands are one standard error to each side; a
    dashed line in a curve's colour is what other real data get. Lines
    of the log that can't be read, and figures that are no finite numbers, are passed over. Without any, nothing is
    drawn.
    """
    lines = sorted(filter(_placed, read_log(folder)), key=lambda line: line["images"])
    curves = {name: curve for panel in PANELS for name in panel.curves if (curve := find_curve(lines, name))}
    panels = [panel for panel in PANELS if any(name in curves for name in panel.curves)]
    if not panels:
        return
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL[0] * COLUMNS, PANEL[1] * rows + 0.6
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.55 / width, 0.35 / height, 1 - 0.2 / width, 1 - 0.85 / height, 0.18, 0.42)
    best = best_snapshot_images(folder)
    headline = f"{' · '.join(folder.parts[-3:])}    {lines[-1]['images']:,} images"
    figure.text(0.55 / width, 1 - 0.3 / height, headline, fontsize=11, va="center")
    if best is not None:
        text = f"best: snapshots/{best:09d}"
        figure.text(1 - 0.2 / width, 1 - 0.3 / height, text, fontsize=11, va="center", ha="right", color=BEST_COLOUR)
    for number, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(rows, COLUMNS, number)
        _draw(axis, panel, curves, lines)
        _mark_snapshots(axis, lines, best)
    with write_atomically(folder / PROGRESS_FILE) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def find_curve(lines: Sequence[Mapping[str, object]], name: str) -> Curve | None:
    """The course of a figure; None where no line has it. Of many points, neighbours are averaged."""
    found = [(line["images"], line[name], line.get(name + ERROR)) for line in lines if _is_number(line.get(name))]
    if not found:
        return None
    table = np.array([(images, value, error if _is_number(error) else math.nan) for images, value, error in found])
    parts = np.array_split(table, min(len(table), MOST_POINTS))
    return Curve(*np.array([part.mean(axis=0) for part in parts], float).T)


def _draw(axis: Axes, panel: Panel, curves: Mapping[str, Curve], lines: Sequence[Mapping[str, object]]) -> None:
    shown = {name: curves[name] for name in panel.curves if name in curves}
    logarithmic = panel.logarithmic and all((curve.value > 0).any() for curve in shown.values())
    if panel.level is not None:
        axis.axhline(panel.level, color="0.55", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for colour, (name, curve) in zip(COLOURS, shown.items(), strict=False):
        floor = _floor(curve) if logarithmic else -math.inf
        values, error = np.maximum(curve.value, floor), np.nan_to_num(curve.error)
        marker = {"marker": "o", "markersize": 3} if len(curve.images) <= 40 else {}
        axis.fill_between(
            curve.images,
            np.maximum(curve.value - error, floor),
            np.maximum(curve.value + error, floor),
            color=colour,
            alpha=0.2,
            linewidth=0,
            zorder=2,
        )
        axis.plot(curve.images, values, color=colour, linewidth=1.4, label=panel.curves[name], zorder=3, **marker)
        if panel.level is None and (real := find_curve(lines, name + REAL)):
            level = np.fmax(real.value, real.error)[-1] if logarithmic else real.value[-1]
            if logarithmic and level <= 0:
                continue
            axis.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)), label="real data", zorder=1)
    if panel.limits:
        low, high = min(curve.value.min() for curve in shown.values()), axis.get_ylim()[1]
        axis.set_ylim(min(low, panel.limits[0]), max(high, panel.limits[1]))
    if logarithmic:
        _make_logarithmic(axis)
    _dress(axis, len(axis.get_legend_handles_labels()[1]) > 1, panel.title)


def _make_logarithmic(axis: Axes) -> None:
    """Ticks as plain numbers, and at least a decade."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    widen = max(1.0, math.sqrt(10 * low / high))
    axis.set_ylim(low / widen, high * widen)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _dress(axis: Axes, legend: bool, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left", y=1.02)  # fixed, since to look for a place takes long
    axis.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images / 1000:g}k" if images else "0"))
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(fontsize=8, frameon=False, loc="best", handlelength=1.2)


def _mark_snapshots(axis: Axes, lines: Sequence[Mapping[str, object]], best: int | None) -> None:
    snapshots = {line["images"] for line in lines if any(name in line for name in SNAPSHOT_METRICS)}
    axis.vlines(list(snapshots), 0, 1, transform=axis.get_xaxis_transform(), color="0.85", linewidth=0.6, zorder=0)
    if best is not None:
        axis.axvline(best, color=BEST_COLOUR, linewidth=1.4, alpha=0.7, zorder=1)
    last = max(line["images"] for line in lines)
    axis.set_xlim(0, last or 1)


def _floor(curve: Curve) -> float:
    """The lowest value that a logarithmic axis need show: what is below its standard error can't be told from none."""
    told = np.fmax(curve.value, curve.error)
    return float(told[told > 0].min()) / 2


def _placed(line: Mapping[str, object]) -> bool:
    return 0 <= line["images"] < 10**15


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST
