"""The figures of a report: gain by training-set size, differences, cases, image quality."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, QUALITY, Analysis, differences
from nnunet_synth.benchmark.results import Benchmark
from nnunet_synth.benchmark.statistics import case_means, mean, run_means
from nnunet_synth.pages.formatting import interval, number, points
from nnunet_synth.pages.page import Picture
from nnunet_synth.pages.plotting import BAND, COLOURS, INK, MARKERS, MUTED, STYLE, WIDTH, png_of

QUALITY_TITLES = {"kid": "KID of the generator's images", "coverage": "Coverage", "copies": "Copies"}
BARS = (
    "Thick bars: interval over other test cases with these runs (bootstrap). Thin bars: interval over other cases and "
    "other runs."
)


@dataclass(frozen=True)
class PlotStyle:
    """Colour and marker of an arm, the same in all figures."""

    colour: str
    marker: str = "o"


def plot_styles(benchmark: Benchmark) -> dict[str, PlotStyle]:
    """By arm; nnU-Net alone is black, and grey where it is run again."""
    styles = {benchmark.arms[benchmark.baseline].name: PlotStyle(INK)}
    if benchmark.again is not None:
        styles[benchmark.arms[benchmark.again].name] = PlotStyle(MUTED)
    for place, index in enumerate(benchmark.treatments):
        style = PlotStyle(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        styles[benchmark.arms[index].name] = style
    return styles


def plot_figures(analysis: Analysis) -> dict[str, Picture]:
    """All that the benchmark has data for, by name, in the order of the report."""
    with matplotlib.rc_context(STYLE):
        plots = (plot_gain, plot_differences, plot_cases, plot_quality)
        return {picture.name: picture for plot in plots if (picture := plot(analysis))}


def plot_gain(analysis: Analysis) -> Picture:
    """Dice against the number of training cases, and what each arm adds to nnU-Net alone."""
    benchmark, styles = analysis.benchmark, plot_styles(analysis.benchmark)
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    level, gain = figure.subplots(1, 2, width_ratios=(1, 1.35))
    places = np.arange(len(benchmark.sizes))
    shifts = np.linspace(-0.26, 0.26, len(benchmark.arms)) if len(benchmark.arms) > 1 else [0.0]
    for index, (arm, shift) in enumerate(zip(benchmark.arms, shifts, strict=True)):
        style = styles[arm.name]
        scores = benchmark.subject_means(mean(benchmark.scores["dice"][index], axis=-1))
        runs = 100 * run_means(scores)  # [sizes, sets]
        level.plot(places + shift / 3, mean(runs, axis=1), color=style.colour, linewidth=1.3, zorder=3)
        for place, of_size in zip(places + shift / 3, runs, strict=True):
            level.scatter([place] * len(of_size), of_size, 13, style.colour, style.marker, linewidth=0, zorder=4)
        if index != benchmark.baseline:
            for place, size in zip(places + shift, benchmark.sizes, strict=True):
                _interval(gain, 100 * _five(analysis, arm.name, size, "dice"), place, style, vertical=True)
    _noise_band(gain, analysis, places)
    gain.axhline(0, color=INK, linewidth=1.2, zorder=2)
    reach = _reach(analysis, "dice", 100)
    gain.set_ylim(-reach, reach)
    for axis, title in ((level, "Mean Dice of each run, in points"), (gain, "Gain over nnU-Net alone, in Dice points")):
        axis.set_title(title)
        axis.set_xticks(places, benchmark.sizes)
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.set_xlabel("training cases")
        axis.grid(axis="x", visible=False)
    handles = [
        Line2D([], [], color=styles[arm.name].colour, marker=styles[arm.name].marker, label=arm.title)
        for arm in benchmark.arms
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    alt = "Gain in Dice points over nnU-Net alone by training-set size. " + _gains(analysis, benchmark.sizes)
    caption = (
        f"Left: each dot is a run, lines join their means. Right: gains; a bar may exceed the plot. {BARS} 95 % of the "
        "differences of nnU-Net alone to itself lie within the grey band."
    )
    return Picture("gain", png_of(figure), alt, caption)


def _interval(
    axis: Axes, row: pd.Series, place: float, style: PlotStyle, *, vertical: bool = False, bold: bool = True
) -> None:
    """A mean difference with its interval over cases, and the one over runs and cases."""
    draw = axis.vlines if vertical else axis.hlines
    draw(place, row["low"], row["high"], style.colour, linewidth=1.1, zorder=3)
    draw(place, row["cases_low"], row["cases_high"], style.colour, linewidth=5 if bold else 3, alpha=0.5, zorder=3)
    axis.plot(
        *((place, row["difference"]) if vertical else (row["difference"], place)),
        style.marker,
        color=style.colour,
        markersize=5.5 if bold else 4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4,
    )


def _five(analysis: Analysis, arm: str, size: str, metric: str) -> pd.Series:
    columns = ["difference", "cases_low", "cases_high", "low", "high"]
    return analysis.row(arm, size, CLASSES, metric)[columns].astype(float)


def _reach(analysis: Analysis, metric: str, scale: float) -> float:
    """Half of an axis that shows all estimates and their intervals over cases, and of wider ones as much as fits."""
    table = analysis.table.loc[metric].xs(CLASSES, level="label")
    inner = np.nanmax(abs(scale * table[["difference", "cases_low", "cases_high"]].to_numpy(float)), initial=0.05)
    pooled = abs(scale * table.xs(POOLED, level="size")[["low", "high"]].to_numpy(float))
    return min(max(1.8 * inner, 1.05 * np.nanmax(pooled, initial=0)), 4 * inner)


def _noise_band(axis: Axes, analysis: Analysis, places: np.ndarray) -> None:
    noise = analysis.noise["dice"]
    runs = run_means(mean(analysis.benchmark.scores["dice"][analysis.benchmark.baseline], axis=-1))
    for index, place in enumerate(places):
        one = np.where(np.arange(len(places)) == index, np.isfinite(runs).sum(axis=1), 0)
        half = 100 * noise.spread(one).half_width()
        if np.isfinite(half):
            axis.fill_between([place - 0.42, place + 0.42], -half, half, color=BAND, linewidth=0, zorder=1)


def plot_differences(analysis: Analysis) -> Picture:
    """Differences to nnU-Net alone of each arm, over all sizes and at each, in Dice and in HD95."""
    benchmark, styles = analysis.benchmark, plot_styles(analysis.benchmark)
    arms = [arm for index, arm in enumerate(benchmark.arms) if index != benchmark.baseline]
    sizes = [POOLED, *benchmark.sizes] if len(benchmark.sizes) > 1 else [POOLED]
    lines = [(arm, size) for arm in arms for size in sizes]
    places = [-(index + 0.9 * (index // len(sizes))) for index in range(len(lines))]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.27 * (1 - min(places))), layout="constrained")
    dice, hd95 = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    for axis, metric, scale, title in (
        (dice, "dice", 100, "Dice points, more is better →"),
        (hd95, "hd95", 1, f"HD95 in {benchmark.design.unit}, less is better →"),
    ):
        axis.axvline(0, color=INK, linewidth=1.2, zorder=2)
        for (arm, size), place in zip(lines, places, strict=True):
            row = scale * _five(analysis, arm.name, size, metric)
            _interval(axis, row, place, styles[arm.name], bold=size == POOLED)
        reach = _reach(analysis, metric, scale)
        axis.set_xlim(-reach, reach)
        axis.set_ylim(min(places) - 0.8, 0.8)
        axis.set_title(title)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    hd95.invert_xaxis()
    dice.set_yticks(places, [arm.title if size == POOLED else f"{size} cases" for arm, size in lines])
    for tick, (_, size) in zip(dice.get_yticklabels(), lines, strict=True):
        tick.set(fontweight="bold" if size == POOLED else "normal", color=INK if size == POOLED else MUTED)
    alt = "Differences to nnU-Net alone with intervals. " + _gains(analysis, (POOLED,))
    caption = f"Bold: all sizes pooled. {BARS} In both halves, right of the line is better than nnU-Net alone."
    return Picture("differences", png_of(figure), alt, caption)


def plot_cases(analysis: Analysis) -> Picture | None:
    """Dice of each test case, averaged over classes: nnU-Net alone, and each arm."""
    benchmark, styles = analysis.benchmark, plot_styles(analysis.benchmark)
    arms = [index for index in range(len(benchmark.arms)) if np.isfinite(differences(benchmark, index)).any()]
    arms = [index for index in arms if index != benchmark.baseline]
    if not arms:
        return None
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.5 * rows + 0.3), layout="constrained")
    axes, counts = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten(), []
    for axis in axes[len(arms) :]:
        axis.set_axis_off()
    for axis, index in zip(axes, arms, strict=False):
        scores = mean(benchmark.scores["dice"][[benchmark.baseline, index]], axis=-1)
        alone, arm = (case_means(np.where(np.isfinite(scores).all(axis=0), side, np.nan)) for side in scores)
        style, title = styles[benchmark.arms[index].name], benchmark.arms[index].title
        axis.scatter(alone, arm, 16, style.colour, style.marker, alpha=0.75, linewidth=0, zorder=3)
        axis.axline([np.nanmean(alone)] * 2, slope=1, color=INK, linewidth=1, zorder=2)
        axis.set_title(textwrap.fill(title, 28), fontsize=9)
        axis.set_aspect("equal")
        counts.append(f"{title}: {(arm > alone).sum()} of {np.isfinite(arm - alone).sum()} better")
        axis.text(0.04, 0.96, counts[-1].split(": ")[-1], transform=axis.transAxes, va="top", color=MUTED, fontsize=8)
    figure.supxlabel("Dice of nnU-Net alone", fontsize=9)
    figure.supylabel("Dice of the arm", fontsize=9)
    caption = "Each dot is a test case, averaged over classes and runs; above the line the arm is better."
    alt = f"Dice of each test case with nnU-Net alone and with each arm. {'; '.join(counts)}."
    return Picture("cases", png_of(figure), alt, caption)


def plot_quality(analysis: Analysis) -> Picture | None:
    """The gain of each run against the quality of its generator's images."""
    quality, styles = analysis.quality, plot_styles(analysis.benchmark)
    shown = [measure for measure in QUALITY if quality[measure].notna().any()]
    if not shown:
        return None
    titles = {arm.name: arm.title for arm in analysis.benchmark.arms}
    figure = Figure(figsize=(3.2 * len(shown) + 0.4, 3.5), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    texts = []
    for axis, measure in zip(axes, shown, strict=True):
        for arm, runs in quality.groupby("arm", sort=False):
            style = styles[arm]
            gain = 100 * runs["gain"]
            axis.scatter(runs[measure], gain, 26, style.colour, style.marker, linewidth=0, label=titles[arm])
        axis.axhline(0, color=INK, linewidth=1, zorder=1)
        row = analysis.correlations.set_index("measure").loc[measure]
        text = f"ρ {number(row['rho'], 2)}, at equal size {number(row['rho_equal_size'], 2)}, n = {row['runs']:.0f}"
        axis.set_title(text, fontsize=8.5, color=MUTED)
        axis.set_xlabel(QUALITY_TITLES[measure])
        texts.append(f"{QUALITY_TITLES[measure]}: {text}")
    axes[0].set_ylabel("gain, in Dice points")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        "Each dot is a run. ρ is Spearman's rank correlation; at equal size, the mean of each size is subtracted first."
    )
    alt = "Gain in Dice points against image quality. " + "; ".join(texts) + "."
    return Picture("quality", png_of(figure), alt, caption)


def _gains(analysis: Analysis, sizes: tuple[str, ...]) -> str:
    """Gains in words."""
    benchmark, texts = analysis.benchmark, []
    for index, arm in enumerate(benchmark.arms):
        if index != benchmark.baseline:
            rows = {size: analysis.row(arm.name, size) for size in sizes}
            gains = [
                f"{points(row['difference'])} ({interval(row['low'], row['high'], scale=100)})"
                + ("" if size == POOLED else f" at {size}")
                for size, row in rows.items()
            ]
            texts.append(f"{arm.title}: {', '.join(gains)}")
    return "; ".join(texts) + "."
