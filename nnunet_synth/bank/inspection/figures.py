"""Plots of distributions, real against synthetic."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nnunet_synth.bank.inspection.statistics import TITLES, Measure
from nnunet_synth.pages.page import Picture
from nnunet_synth.pages.plotting import COLOURS, STYLE, png_of

SIZE = (2.3, 1.3)  # inches of a plot
COLUMNS = 4
BINS = 40
TAILS = (0.002, 0.998)  # quantiles at the ends of an axis
MOST_COUNTED = 8  # components or holes; more stand in the last bar
WIDE = 50.0  # ratio of the ends of an area's axis from which on it is logarithmic
REAL, GENERATED = COLOURS[:2]


def plot_distributions(measures: Sequence[Measure], alt: str) -> Picture:
    """Measures of one group next to each other: real ones filled, synthetic ones as a line."""
    group, columns = measures[0].group, min(COLUMNS, len(measures))
    rows = math.ceil(len(measures) / columns)
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False}):
        figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows + 0.3), layout="constrained")
        figure.suptitle(textwrap.fill(TITLES[group], 34 * columns), x=0.01, ha="left", fontsize=10)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes:
            axis.set_axis_off()
        for axis, measure in zip(axes, measures, strict=False):
            axis.set_axis_on()
            axis.set_title(measure.of, fontsize=9)
            if not _numbers(measure):
                axis.text(0.5, 0.5, "never shown", ha="center", va="center", transform=axis.transAxes)
                axis.set_xticks([])
            elif group in ("components", "holes"):
                _bars(axis, measure)
            else:
                _histogram(axis, measure)
            axis.set_yticks([])
        png = png_of(figure)
    return Picture(group.replace(" ", "-"), png, alt)


def _numbers(measure: Measure) -> list[np.ndarray]:
    """The sides that there are, without NaN."""
    sides = (side[~np.isnan(side)] for side in (measure.real, measure.generated) if side is not None)
    return [side for side in sides if len(side)]


def _histogram(axis: Axes, measure: Measure) -> None:
    low, high = np.quantile(np.concatenate(_numbers(measure)), TAILS)
    if measure.group == "area" and low > 0 and high > WIDE * low:
        edges = np.geomspace(low, high, BINS + 1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    if measure.real is not None:
        axis.stairs(_shares(measure.real, edges), edges, fill=True, color=REAL, alpha=0.4)
    axis.stairs(_shares(measure.generated, edges), edges, color=GENERATED, linewidth=1.4)
    axis.set_ylim(bottom=0)


def _bars(axis: Axes, measure: Measure) -> None:
    largest = int(max(side.max() for side in _numbers(measure)))
    most = min(MOST_COUNTED, largest)
    counts, edges = np.arange(most + 1), np.arange(most + 2) - 0.5
    if measure.real is not None:
        axis.bar(counts - 0.2, _shares(measure.real, edges), 0.38, color=REAL, alpha=0.4)
    axis.bar(counts + 0.2, _shares(measure.generated, edges), 0.38, fill=False, edgecolor=GENERATED, linewidth=1.4)
    axis.set_xticks(counts, [f"≥{count}" if largest > most == count else str(count) for count in counts])
    axis.set_xlim(-0.7, max(most, 3) + 0.7)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Of the values in each bin; values beyond the ends count in the first and the last one."""
    values = values[~np.isnan(values)]
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
