"""Small plots of distributions, real against synthetic, as SVG that follows the page's colours and fonts."""

from __future__ import annotations

import io
import re

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nnunet_synth.bank.inspection.statistics import COUNTED, Measure

SIZE = (2.35, 1.2)  # inches
BINS = 40
TAILS = (0.002, 0.998)  # quantiles that an axis reaches from and to
MOST_COUNTED = 8  # pieces or holes; more stand in the last bar
WIDE = 50.0  # ratio of an area's ends, from which on its axis is logarithmic
# Stand-ins that matplotlib draws with, and what the page's style sheet puts in their place.
REAL, DRAWN, INK, FAINT = "#010203", "#040506", "#070809", "#0a0b0c"
_THEMED = {REAL: "var(--real)", DRAWN: "var(--drawn)", INK: "currentColor", FAINT: "var(--faint)"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "inspection",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.minor.size": 0,
}


def plot_distribution(measure: Measure, name: str, alt: str) -> Markup:
    """Real ones filled, synthetic ones as a line.

    Args:
        measure: of both.
        name: of the plot, that no other one of the page has.
        alt: what it shows, for those who can't see it.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axis = figure.subplots()
        if not _numbers(measure):
            axis.text(0.5, 0.5, "never shown", ha="center", va="center", transform=axis.transAxes)
            axis.set_xticks([])
        elif measure.group in COUNTED:
            _bars(axis, measure)
        else:
            _histogram(axis, measure)
        axis.set_yticks([])
        axis.spines[["left", "right", "top"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(_for_page(buffer.getvalue(), name, alt))


def _numbers(measure: Measure) -> list[np.ndarray]:
    """The sides that there are, without NaN."""
    sides = (side[~np.isnan(side)] for side in (measure.real, measure.drawn) if side is not None)
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
    axis.stairs(_shares(measure.drawn, edges), edges, color=DRAWN, linewidth=1.4)
    axis.set_ylim(bottom=0)


def _bars(axis: Axes, measure: Measure) -> None:
    largest = int(max(side.max() for side in _numbers(measure)))
    most = min(MOST_COUNTED, largest)
    counts, edges = np.arange(most + 1), np.arange(most + 2) - 0.5
    if measure.real is not None:
        axis.bar(counts - 0.2, _shares(measure.real, edges), 0.38, color=REAL, alpha=0.4)
    axis.bar(counts + 0.2, _shares(measure.drawn, edges), 0.38, fill=False, edgecolor=DRAWN, linewidth=1.4)
    axis.set_xticks(counts, [f"≥{count}" if largest > most == count else str(count) for count in counts])
    axis.set_xlim(-0.7, max(most, 3) + 0.7)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Of the values in each bin; what lies beyond the ends is in the first and the last one."""
    values = values[~np.isnan(values)]
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))


def _for_page(svg: str, name: str, alt: str) -> str:
    """Without XML's head, with ids that nothing else on the page has, with the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)  # its style would be the whole page's
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]+;", "", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)  # a tenth of a point will do
    for stand_in, themed in _THEMED.items():
        svg = svg.replace(stand_in, themed)
    head = f'viewBox="0 0 {72 * SIZE[0]:.1f} {72 * SIZE[1]:.1f}" role="img" aria-label="{escape(alt)}">'
    return f'<svg class="plot" {head}' + svg[svg.index(">") + 1 :]
