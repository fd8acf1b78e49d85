"""The figure of a report: Dice of each run, and what each arm adds to nnU-Net alone."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis
from nnunet_synth.benchmark.results import Benchmark
from nnunet_synth.benchmark.statistics import mean, run_means
from nnunet_synth.pages.formatting import interval, number
from nnunet_synth.pages.page import Picture
from nnunet_synth.pages.plotting import BAND, COLOURS, INK, MARKERS, MUTED, STYLE, WIDTH, png_of

CAPTION = (
    "Left: each dot is a run, lines join their means. Right: gains over nnU-Net alone, with 95 % intervals for other "
    "runs and other cases; a bar may exceed the plot. 95 % of the differences of nnU-Net alone to itself lie within "
    "the grey band."
)


def plot_styles(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    """Colour and marker by arm; nnU-Net alone is black, and grey where it is run again."""
    styles = {benchmark.arms[benchmark.baseline].name: (INK, "o")}
    if benchmark.again is not None:
        styles[benchmark.arms[benchmark.again].name] = (MUTED, "o")
    for place, index in enumerate(benchmark.treatments):
        styles[benchmark.arms[index].name] = (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
    return styles


def plot_gain(analysis: Analysis) -> Picture:
    """Dice against the number of training cases, and what each arm adds to nnU-Net alone, at each size and pooled."""
    benchmark, styles = analysis.benchmark, plot_styles(analysis.benchmark)
    sizes = [*benchmark.sizes, POOLED] if len(benchmark.sizes) > 1 else [*benchmark.sizes]
    scores = benchmark.subject_means(mean(benchmark.scores["dice"], axis=-1))
    gains = 100 * analysis.table.xs(("dice", CLASSES), level=("metric", "label"))[["difference", "low", "high"]]
    largest = max(0.05, gains["difference"].abs().max())
    reach = np.clip(1.05 * gains.abs().max(axis=None), 1.8 * largest, 4 * largest)
    places, words = np.arange(len(sizes)), []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
        level, gain = figure.subplots(1, 2, width_ratios=(1, 1.6))
        for index, shift in enumerate(np.linspace(-0.3, 0.3, len(benchmark.arms))):
            arm, (colour, marker) = benchmark.arms[index], styles[benchmark.arms[index].name]
            runs = 100 * run_means(scores[index])  # [sizes, sets]
            at = places[: len(runs)] + shift / 3
            level.plot(at, mean(runs, axis=1), color=colour, linewidth=1.3, zorder=3)
            level.scatter(at.repeat(runs.shape[1]), runs, 13, colour, marker, linewidth=0, zorder=4)
            gain.plot([], color=colour, marker=marker, label=arm.title)
            if index != benchmark.baseline:
                of_arm = gains.loc[arm.name].loc[sizes]
                gain.vlines(places + shift, of_arm["low"], of_arm["high"], colour, linewidth=1.4, zorder=3)
                gain.scatter(places + shift, of_arm["difference"], 30, colour, marker, zorder=4)
                texts = [f"{number(d, 1, sign=True)} ({interval(*i)}) at {size}" for size, d, *i in of_arm.itertuples()]
                words.append(f"{arm.title}: {', '.join(texts)}")
        counts = np.isfinite(run_means(scores[benchmark.baseline])).sum(axis=1)
        for place, size in enumerate(sizes):
            runs = np.where([size in (POOLED, one) for one in benchmark.sizes], counts, 0)
            half = 100 * analysis.noise.spread(runs).half_width()
            gain.fill_between([place - 0.42, place + 0.42], -half, half, color=BAND, linewidth=0, zorder=1)
        gain.axhline(0, color=INK, linewidth=1.2, zorder=2)
        gain.set_ylim(-reach, reach)
        level.set_title("Mean Dice of each run, in points")
        gain.set_title("Gain over nnU-Net alone, in Dice points")
        for axis, ticks in ((level, benchmark.sizes), (gain, sizes)):
            axis.set_xticks(range(len(ticks)), ticks)
            axis.set_xlim(-0.5, len(ticks) - 0.5)
            axis.set_xlabel("training cases")
            axis.grid(axis="x", visible=False)
        figure.legend(*gain.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return Picture("gain", png_of(figure), f"Gain over nnU-Net alone in Dice points. {'; '.join(words)}.", CAPTION)
