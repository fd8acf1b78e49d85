"""The figure of a report: what each arm adds to nnU-Net alone."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.pages.formatting import count, interval, points
from nnunet_synth.pages.page import Picture
from nnunet_synth.pages.plotting import BAND, COLOURS, GRID, INK, MUTED, STYLE, WIDTH, png_of

CAPTION = (
    "Large dots are mean gains over nnU-Net alone with 95 % intervals, small ones are training sets. Of the gains that "
    "nnU-Net alone would have over itself, by the luck of its runs, 95 % lie within the grey band. An arm that reaches "
    "the dotted line gains what true labels of all cases would."
)
EFFECT_COLOURS = {"helps": COLOURS[2], "harms": COLOURS[1], "equivalent within ±1": COLOURS[0]}


def plot_gain(analysis: Analysis) -> Picture:
    """A row for each arm, a panel for each size."""
    benchmark, design = analysis.benchmark, analysis.benchmark.design
    arms, words = {index: benchmark.arms[index] for index in benchmark.treatments}, []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(design.sizes), sharey=True, squeeze=False)[0]
        for panel, size in zip(panels, design.sizes, strict=True):
            sets = max((int(analysis.row(arm.name, size)["sets"]) for arm in arms.values()), default=0)
            half = 100 * analysis.noise[size].half_width(sets, design.runs, design.baseline_runs)
            panel.axvspan(-half, half, color=BAND, linewidth=0) if np.isfinite(half) else None
            panel.axvline(0, color=INK, linewidth=1.2)
            shown = [0.0]
            for place, (index, arm) in enumerate(arms.items()):
                row, gains = analysis.row(arm.name, size), 100 * analysis.gains(arm.name, size)
                colour = EFFECT_COLOURS.get(row["effect"], INK)
                shown += gains[np.isfinite(gains)].tolist()
                panel.scatter(gains, np.full(len(gains), place + 0.25), 14, MUTED, alpha=0.7, linewidth=0, zorder=3)
                panel.hlines(place, 100 * row["low"], 100 * row["high"], colour, linewidth=1.8)
                panel.scatter(100 * row["difference"], place, 44, colour, zorder=4)
                if index == benchmark.oracle:
                    panel.axvline(100 * row["difference"], color=MUTED, linewidth=1, linestyle=":")
                text = f"{points(row['difference'])} ({interval(row['low'], row['high'], scale=100)})"
                words.append(f"{arm.title}, {count(size, 'training case')}: {text}")
            margin = 0.15 * (max(shown) - min(shown)) or 1.0
            panel.set_xlim(min(shown) - margin, max(shown) + margin)  # intervals of two or three sets may reach beyond
            panel.set_title(count(size, "training case"))
            panel.set_xlabel("gain in Dice points")
            panel.set_yticks(range(len(arms)), [arm.title.split(" (")[0] for arm in arms.values()])
            panel.set_ylim(len(arms) - 0.5, -0.5)
            panel.grid(axis="y", color=GRID, linewidth=0.5)
        return Picture("gain", png_of(figure), f"Gain over nnU-Net alone in Dice points. {'; '.join(words)}.", CAPTION)
