"""Colours of the figures, on light and on dark paper, and how each arm looks in all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnunet_synth.benchmark.results import Benchmark

# Okabe & Ito (2008), Color Universal Design, without its black and yellow; the second of each is for dark paper.
COLOURS = {
    "#0072b2": "#56aee6",
    "#d55e00": "#ff8f4d",
    "#009e73": "#35c79b",
    "#b3548b": "#e59ac6",
    "#c98600": "#f0b73c",
    "#3f9bd1": "#a5dcff",
}
INK, MUTED, GRID, BAND, PAPER = "#1b1d20", "#696f77", "#dfe2e6", "#ebedf0", "#fffffe"
THEME = {INK: "#e8eaed", MUTED: "#9aa1aa", GRID: "#343a41", BAND: "#2a2f36", PAPER: "#16191d"} | COLOURS
MARKERS = "osD^vPX"
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True)
class Look:
    """Colour and marker of an arm, the same in all figures."""

    colour: str
    marker: str


def looks(benchmark: Benchmark) -> dict[str, Look]:
    """By arm; nnU-Net alone is black, and grey where it is run again."""
    found = {benchmark.arms[benchmark.baseline].name: Look(INK, "o")}
    if benchmark.again is not None:
        found[benchmark.arms[benchmark.again].name] = Look(MUTED, "o")
    for number_, index in enumerate(benchmark.treatments):
        colour = list(COLOURS)[number_ % len(COLOURS)]
        found[benchmark.arms[index].name] = Look(colour, MARKERS[(number_ + 1) % len(MARKERS)])
    return found


def themed(svg: str) -> str:
    """The same picture with variables for colours, which a page may set; by itself it follows the reader's screen."""
    for colour in THEME:
        svg = svg.replace(colour, f"var(--{_variable(colour)}, {colour})")
    dark = "".join(f"--{_variable(light)}:{dark};" for light, dark in THEME.items())
    style = f"<style>@media (prefers-color-scheme: dark){{svg:root{{{dark}background:{THEME[PAPER]}}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + style, svg, count=1)


def palette(dark: bool) -> str:
    """CSS that gives the figures' variables their colours."""
    return "".join(f"--{_variable(light)}:{THEME[light] if dark else light};" for light in THEME)


def _variable(colour: str) -> str:
    return f"figure-{colour[1:]}"
