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
from nnunet_synth.pages.formatting import NOTHING, significant
from nnunet_synth.pages.page import Picture
from nnunet_synth.pages.plotting import COLOURS, STYLE, png_of

SIZE = (2.3, 1.3)  # inches of a plot
COLUMNS = 4
MOST_PLOTS = 12  # of one group
BINS = 40
TAILS = (0.002, 0.998)  # quantiles at the ends of an axis
MOST_COUNTED = 8  # components or holes; more stand in the last bar
WIDE = 50.0  # ratio of the ends of an area's axis from which on it is logarithmic
REAL, GENERATED = COLOURS[:2]


def plot_distributions(measures: Sequence[Measure]) -> list[Picture]:
    """A picture for each group, real ones filled, synthetic ones as a line; of many, those that differ most."""
    pictures = []
    for group in dict.fromkeys(one.group for one in measures):
        members = [one for one in measures if one.group == group]
        chosen = sorted(members, key=lambda one: -np.nan_to_num(one.distance))[:MOST_PLOTS]
        members = [one for one in members if one in chosen]
        columns = min(COLUMNS, len(members))
        rows = math.ceil(len(members) / columns)
        with matplotlib.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False}):
            figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows + 0.3), layout="constrained")
            figure.suptitle(textwrap.fill(TITLES[group], 34 * columns), x=0.01, ha="left", fontsize=10)
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            for axis in axes[len(members) :]:
                axis.set_axis_off()
            for axis, measure in zip(axes, members, strict=False):
                _plot(axis, measure)
                axis.set_title(measure.of, fontsize=9)
                axis.set_yticks([])
            png = png_of(figure)
        values = (f"{one.of}: {' against '.join(map(spread_of, one.sides))}" for one in members)
        pictures.append(Picture(group.replace(" ", "-"), png, f"{TITLES[group]}. {'; '.join(values)}"))
    return pictures


def spread_of(values: np.ndarray) -> str:
    """Median, 5th and 95th percentile: `3 (1 to 6)`."""
    if not len(values):
        return NOTHING
    low, middle, high = (significant(value) for value in np.quantile(values, (0.05, 0.5, 0.95)))
    return f"{middle} ({low} to {high})"


def _plot(axis: Axes, measure: Measure) -> None:
    together = np.concatenate(measure.sides)
    if not len(together):
        axis.text(0.5, 0.5, "never shown", ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([])
        return
    low, high = np.quantile(together, TAILS)
    if measure.group in ("components", "holes"):
        most = int(min(MOST_COUNTED, together.max()))
        edges = np.arange(most + 2) - 0.5
        axis.set_xticks(range(most + 1), [*range(most), f"≥{most}" if together.max() > most else most])
    elif measure.group == "area" and low > 0 and high > WIDE * low:
        edges = np.geomspace(low, high, BINS + 1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    # values beyond the ends count in the first and the last bin
    shares = [np.histogram(side.clip(edges[0], edges[-1]), edges)[0] / max(1, len(side)) for side in measure.sides]
    if measure.real is not None:
        axis.stairs(shares[0], edges, fill=True, color=REAL, alpha=0.4)
    axis.stairs(shares[-1], edges, color=GENERATED, linewidth=1.4)
    axis.set_ylim(bottom=0)
