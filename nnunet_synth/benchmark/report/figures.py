"""The figures of a benchmark: gain by training-set size, differences, cases, ranks of all arms, image quality.

A figure is drawn once. Its PNG is for light paper; in its SVG the colours are variables of CSS, so that a page, or the
file by itself, is light or dark as its reader's screen is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, QUALITY, Analysis, differences
from nnunet_synth.benchmark.report.formatting import interval, number, points, probability
from nnunet_synth.benchmark.report.style import BAND, INK, MUTED, PAPER, STYLE, Look, looks, themed
from nnunet_synth.benchmark.statistics import Ranks, case_means, mean, run_means
from stylegan2_cond.io import write_atomically

FIGURES = "figures"
MOST_CLASSES = 4  # rows of the figure of cases
RATES = {"kid": "KID of the generator's images", "coverage": "Coverage", "copies": "Copies"}


@dataclass(frozen=True)
class Picture:
    """A figure's name (`figures/<name>.png`, `.svg`), what it shows for those who can't see it, and how to read it."""

    name: str
    alt: str
    caption: str


def draw_figures(analysis: Analysis, folder: Path) -> dict[str, Picture]:
    """Draw all that the benchmark has data for, as PNG and SVG, into `folder/figures`.

    Returns:
        By name, in the order of the report.
    """
    drawn = {}
    for name, draw in DRAWINGS.items():
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
            figure = draw(analysis)
            if figure is None:
                continue
            figure, alt, caption = figure
            _save(figure, folder / FIGURES / name)
        drawn[name] = Picture(name, alt, caption)
    return drawn


def _save(figure: Figure, stem: Path) -> None:
    with write_atomically(stem.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    with write_atomically(stem.with_suffix(".svg")) as temporary:
        figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        temporary.write_text(themed(temporary.read_text(encoding="utf-8")), encoding="utf-8")


def draw_gain(analysis: Analysis) -> tuple[Figure, str, str]:
    """Dice against the number of training cases, and what each arm adds to nnU-Net alone."""
    benchmark, look = analysis.benchmark, looks(analysis.benchmark)
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    level, gain = figure.subplots(1, 2, width_ratios=(1, 1.35))
    places = np.arange(len(benchmark.sizes))
    shifts = np.linspace(-0.26, 0.26, len(benchmark.arms)) if len(benchmark.arms) > 1 else [0.0]
    for index, (arm, shift) in enumerate(zip(benchmark.arms, shifts, strict=True)):
        style = look[arm.name]
        scores = benchmark.subject_means(mean(benchmark.scores["dice"][index], axis=-1))
        runs = 100 * run_means(scores)  # [sizes, repeats]
        level.plot(places + shift / 3, mean(runs, axis=1), color=style.colour, linewidth=1.3, zorder=3)
        for place, of_size in zip(places + shift / 3, runs, strict=True):
            level.scatter(
                [place] * len(of_size), of_size, 13, color=style.colour, marker=style.marker, linewidth=0, zorder=4
            )
        if index != benchmark.baseline:
            _gains(gain, analysis, arm.name, places + shift, style)
    _noise_band(gain, analysis, places)
    gain.axhline(0, color=INK, linewidth=1.2, zorder=2)
    _clip(gain, analysis)
    for axis, title in ((level, "Mean Dice of each run, in points"), (gain, "Gain over nnU-Net alone, in Dice points")):
        axis.set_title(title)
        axis.set_xticks(places, benchmark.sizes)
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.set_xlabel("training cases")
        axis.grid(axis="x", visible=False)
    _legend(figure, analysis)
    alt = "Gain in Dice points over nnU-Net alone by training-set size. " + _told(analysis, benchmark.sizes)
    caption = (
        "Left: each dot is a run, lines join their means. Right: thick bars hold for other test cases and these runs "
        "(bootstrap), thin ones for other cases and other runs; an open end leaves the picture. "
        "Within the grey band lie 95 % of the differences of nnU-Net alone to itself."
    )
    return figure, alt, caption


def _gains(axis: Axes, analysis: Analysis, arm: str, places: np.ndarray, look: Look) -> None:
    for place, size in zip(places, analysis.benchmark.sizes, strict=True):
        row = 100 * analysis.row(arm, size)[["difference", "cases_low", "cases_high", "low", "high"]].astype(float)
        axis.vlines(place, row["low"], row["high"], color=look.colour, linewidth=1.1, zorder=3)
        axis.vlines(place, row["cases_low"], row["cases_high"], color=look.colour, linewidth=5, alpha=0.5, zorder=3)
        axis.plot(
            place,
            row["difference"],
            look.marker,
            color=look.colour,
            markersize=5,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
            zorder=4,
        )


def _noise_band(axis: Axes, analysis: Analysis, places: np.ndarray) -> None:
    noise = analysis.noise["dice"]
    runs = run_means(mean(analysis.benchmark.scores["dice"][analysis.benchmark.baseline], axis=-1))
    for index, place in enumerate(places):
        one = np.where(np.arange(len(places)) == index, np.isfinite(runs).sum(axis=1), 0)
        width = 100 * noise.spread(one).half_width()
        if np.isfinite(width):
            axis.fill_between([place - 0.42, place + 0.42], -width, width, color=BAND, linewidth=0, zorder=1)


def _clip(axis: Axes, analysis: Analysis) -> None:
    """Show all estimates and what other cases would change; of the wider intervals as much as fits."""
    columns = ["difference", "cases_low", "cases_high"]
    table = 100 * analysis.table.loc["dice"].xs(CLASSES, level="label")[columns].to_numpy(float)
    reach = 1.8 * np.nanmax(abs(table), initial=0.5)
    axis.set_ylim(-reach, reach)


def _legend(figure: Figure, analysis: Analysis) -> None:
    look = looks(analysis.benchmark)
    handles = [
        matplotlib.lines.Line2D([], [], color=look[arm.name].colour, marker=look[arm.name].marker, label=arm.title)
        for arm in analysis.benchmark.arms
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))


def draw_forest(analysis: Analysis) -> tuple[Figure, str, str]:
    """Differences to nnU-Net alone of each arm, over all sizes and at each, in Dice and in HD95."""
    benchmark, look = analysis.benchmark, looks(analysis.benchmark)
    arms = [arm for index, arm in enumerate(benchmark.arms) if index != benchmark.baseline]
    sizes = [POOLED, *benchmark.sizes] if len(benchmark.sizes) > 1 else [POOLED]
    lines = [(arm, size) for arm in arms for size in sizes]
    places = [-(index + 0.9 * (index // len(sizes))) for index in range(len(lines))]
    figure = Figure(figsize=(9.6, 1.1 + 0.27 * (1 - min(places))), layout="constrained")
    dice, hd95 = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    for axis, metric, scale, title in (
        (dice, "dice", 100, "Dice points, more is better →"),
        (hd95, "hd95", 1, f"HD95 in {analysis.benchmark.design.unit}, less is better →"),
    ):
        axis.axvline(0, color=INK, linewidth=1.2, zorder=2)
        for (arm, size), place in zip(lines, places, strict=True):
            _forest_line(axis, scale * _five(analysis, arm.name, size, metric), place, look[arm.name], size == POOLED)
        _clip_forest(axis, analysis, metric, scale)
        axis.set_title(title)
        axis.grid(axis="y", visible=False)
    hd95.invert_xaxis()
    dice.set_yticks(places, [arm.title if size == POOLED else f"{size} cases" for arm, size in lines])
    for tick, (_, size) in zip(dice.get_yticklabels(), lines, strict=True):
        tick.set(fontweight="bold" if size == POOLED else "normal", color=INK if size == POOLED else MUTED)
    for axis in (dice, hd95):
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(min(places) - 0.8, 0.8)
        axis.spines["left"].set_visible(False)
    alt = "Differences to nnU-Net alone with intervals. " + _told(analysis, (POOLED,))
    caption = (
        "Bold: all sizes taken together. Thick bars hold for other test cases and these runs (bootstrap), thin "
        "ones for "
        "other cases and other runs. In both halves, right of the line is better than nnU-Net alone."
    )
    return figure, alt, caption


def _five(analysis: Analysis, arm: str, size: str, metric: str) -> pd.Series:
    columns = ["difference", "cases_low", "cases_high", "low", "high"]
    return analysis.row(arm, size, CLASSES, metric)[columns].astype(float)


def _forest_line(axis: Axes, row: pd.Series, place: float, look: Look, pooled: bool) -> None:
    axis.hlines(place, row["low"], row["high"], color=look.colour, linewidth=1.1, zorder=3)
    axis.hlines(place, row["cases_low"], row["cases_high"], color=look.colour, linewidth=5 if pooled else 3, alpha=0.55)
    size = 6.5 if pooled else 4.5
    axis.plot(
        row["difference"],
        place,
        look.marker,
        color=look.colour,
        markersize=size,
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
        zorder=4,
    )


def _clip_forest(axis: Axes, analysis: Analysis, metric: str, scale: float) -> None:
    table = analysis.table.loc[metric].xs(CLASSES, level="label")
    inner = abs(scale * table[["difference", "cases_low", "cases_high"]].to_numpy(float))
    pooled = abs(scale * table.xs(POOLED, level="size")[["low", "high"]].to_numpy(float))
    reach = max(1.6 * np.nanmax(inner, initial=0.05), 1.05 * np.nanmax(pooled, initial=0))
    axis.set_xlim(-min(reach, 4 * np.nanmax(inner, initial=0.05)), min(reach, 4 * np.nanmax(inner, initial=0.05)))


def draw_cases(analysis: Analysis) -> tuple[Figure, str, str]:
    """Each test case: Dice of nnU-Net alone, and of an arm; a row for each class."""
    benchmark, look = analysis.benchmark, looks(analysis.benchmark)
    arms = [index for index in range(len(benchmark.arms)) if index != benchmark.baseline]
    arms = [index for index in arms if np.isfinite(differences(benchmark, index)).any()]
    if not arms:
        return None
    labels = _shown_labels(analysis)
    figure = Figure(figsize=(max(4.0, 2.05 * len(arms) + 0.5), 2.2 * len(labels) + 0.5), layout="constrained")
    axes = figure.subplots(len(labels), len(arms), squeeze=False, sharex="row", sharey="row")
    counts = []
    for row, label in zip(axes, labels, strict=True):
        low, high = 1.0, 0.0
        for axis, index in zip(row, arms, strict=True):
            alone, arm = _case_pairs(analysis, index, label)
            style = look[benchmark.arms[index].name]
            axis.scatter(alone, arm, 16, color=style.colour, marker=style.marker, alpha=0.75, linewidth=0, zorder=3)
            better, known = int((arm > alone).sum()), len(arm)
            axis.text(
                0.04, 0.96, f"{better} of {known} better", transform=axis.transAxes, va="top", color=MUTED, fontsize=8
            )
            title = f"{benchmark.arms[index].title}, {benchmark.design.labels[label]}"
            counts.append(f"{title}: {better} of {known} better")
            low, high = min([low, *alone, *arm]), max([high, *alone, *arm])
        margin = 0.08 * max(high - low, 0.01)
        low, high = max(0.0, low - margin), min(1.0, high + 2 * margin)
        for axis in row:
            axis.plot([low, high], [low, high], color=INK, linewidth=1, zorder=2)
            axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axis.tick_params(labelsize=8)
        row[0].set_ylabel(f"{benchmark.design.labels[label]}\nDice of the arm")
    for axis, index in zip(axes[0], arms, strict=True):
        axis.set_title(_wrapped(benchmark.arms[index].title), fontsize=9)
    figure.supxlabel("Dice of nnU-Net alone", fontsize=9)
    caption = (
        "Each dot is a test case, averaged over sizes and repeats; above the line the arm is better than nnU-Net alone."
    )
    if len(benchmark.labels) > len(labels):
        caption += f" Of {len(benchmark.labels)} classes, those with the largest differences."
    return figure, "Dice of each test case with nnU-Net alone and with each arm. " + "; ".join(counts) + ".", caption


def _shown_labels(analysis: Analysis) -> list[str]:
    """All classes, or those whose Dice changes most."""
    labels = list(analysis.benchmark.labels)
    table = analysis.table.loc["dice"].xs(POOLED, level="size")["difference"].astype(float).abs()
    largest = table.groupby("label").max().fillna(0)
    chosen = sorted(labels, key=lambda label: -largest[label])[:MOST_CLASSES]
    return [label for label in labels if label in chosen]


def _case_pairs(analysis: Analysis, index: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    """`[cases]` Dice of nnU-Net alone and of an arm, over the runs that both have."""
    benchmark = analysis.benchmark
    scores = benchmark.scores["dice"][..., benchmark.labels.index(label)]
    both = np.isfinite(scores[index] - scores[benchmark.baseline])
    alone, arm = (case_means(np.where(both, scores[one], np.nan)) for one in (benchmark.baseline, index))
    known = np.isfinite(alone)
    return alone[known], arm[known]


def draw_ranks(analysis: Analysis) -> tuple[Figure, str, str] | None:
    """Critical-difference diagrams (Demšar 2006): arms joined by a bar can't be told apart."""
    found = {blocks: ranks for blocks, ranks in analysis.ranks.items() if ranks is not None}
    if not found:
        return None
    titles = {"runs": "Runs ranked by their mean Dice", "cases": "Cases ranked by Dice, means over runs"}
    figure = Figure(figsize=(9.6, (1.15 + 0.2 * len(analysis.benchmark.arms)) * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    told = []
    for axis, blocks in zip(axes, sorted(found, reverse=True), strict=True):
        ranks = found[blocks]
        _critical_difference(axis, analysis, ranks)
        told_p = f"Friedman p {_equals(ranks.p)}, critical difference {ranks.critical_difference:.2f}"
        axis.set_title(f"{titles[blocks]} ({ranks.blocks} of them): {told_p}", pad=12)
        order = np.argsort(ranks.mean)
        told.append(", ".join(f"{analysis.benchmark.arms[index].title} {ranks.mean[index]:.2f}" for index in order))
    caption = (
        "Mean ranks, 1 is best. Arms joined by a bar do not differ by Nemenyi's test at 5 %. "
        "Cases share the luck of their runs, so that the diagram over cases finds too many differences; the one "
        "over runs "
        "is the one to trust."
    )
    return figure, "Mean ranks of all arms, best first: " + "; ".join(told) + ".", caption


def _critical_difference(axis: Axes, analysis: Analysis, ranks: Ranks) -> None:
    arms, look = analysis.benchmark.arms, looks(analysis.benchmark)
    names = [arm.name for arm in arms]
    titles = {arm.name: arm.title for arm in arms}
    axis.grid(visible=False)
    axis.spines["top"].set_visible(True)
    drawn = scikit_posthocs.critical_difference_diagram(
        dict(zip(names, ranks.mean, strict=True)),
        pd.DataFrame(ranks.pairs, names, names),
        ax=axis,
        label_fmt_left="{label} · {rank:.2f}\u00a0",
        label_fmt_right="\u00a0\u00a0{rank:.2f} · {label}",
        label_props={"fontsize": 8.5},
        text_h_margin=0.04,
        color_palette={name: look[name].colour for name in names},
        crossbar_props={"color": MUTED, "linewidth": 2.5},
        marker_props={"s": 22},
    )
    for label in drawn["labels"]:
        text = label.get_text()
        for name in sorted(names, key=len, reverse=True):
            if text.startswith(f"{name} · ") or text.endswith(f" · {name}"):
                label.set_text(text.replace(name, titles[name]))
                break


def draw_quality(analysis: Analysis) -> tuple[Figure, str, str] | None:
    """The gain of each run against the quality of its generator's images."""
    quality, look = analysis.quality, looks(analysis.benchmark)
    shown = [measure for measure in QUALITY if quality[measure].notna().any()]
    if not shown:
        return None
    figure = Figure(figsize=(3.2 * len(shown) + 0.4, 3.5), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    told = []
    for axis, measure in zip(axes, shown, strict=True):
        for arm, runs in quality.groupby("arm", sort=False):
            style = look[arm]
            title = next(one.title for one in analysis.benchmark.arms if one.name == arm)
            axis.scatter(
                runs[measure], 100 * runs["gain"], 26, color=style.colour, marker=style.marker, linewidth=0, label=title
            )
        axis.axhline(0, color=INK, linewidth=1, zorder=1)
        row = analysis.correlations.set_index("measure").loc[measure]
        text = f"ρ {number(row['rho'], 2)}, at equal size {number(row['rho_equal_size'], 2)}, n = {row['runs']:.0f}"
        axis.set_title(text, fontsize=8.5, color=MUTED)
        axis.set_xlabel(RATES[measure])
        told.append(f"{RATES[measure]}: {text}")
    axes[0].set_ylabel("gain, in Dice points")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = "Each dot is a run. ρ is Spearman's rank correlation; at equal size, each size's mean is taken off first."
    return figure, "Gain in Dice points against image quality. " + "; ".join(told) + ".", caption


def _told(analysis: Analysis, sizes: tuple[str, ...]) -> str:
    """Gains in words, for those who can't see a picture."""
    benchmark, told = analysis.benchmark, []
    for index, arm in enumerate(benchmark.arms):
        if index != benchmark.baseline:
            rows = {size: analysis.row(arm.name, size) for size in sizes}
            gains = [
                f"{points(row['difference'])} ({interval(row['low'], row['high'], scale=100)})"
                + ("" if size == POOLED else f" at {size}")
                for size, row in rows.items()
            ]
            told.append(f"{arm.title}: {', '.join(gains)}")
    return "; ".join(told) + "."


def _equals(p: float) -> str:
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def _wrapped(title: str, width: int = 24) -> str:
    """In two lines where it is long."""
    words, lines = title.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


DRAWINGS: dict[str, Callable[[Analysis], tuple[Figure, str, str] | None]] = {
    "gain": draw_gain,
    "differences": draw_forest,
    "cases": draw_cases,
    "ranks": draw_ranks,
    "quality": draw_quality,
}
