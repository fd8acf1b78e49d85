"""How the figures of all pages look."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

# Okabe & Ito (2008), Color Universal Design, without its black and yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3548b", "#c98600", "#3f9bd1")
MARKERS = "sD^vPX"
INK, MUTED, GRID, BAND = "#1b1d20", "#696f77", "#dfe2e6", "#ebedf0"
WIDTH = 9.6  # inches of a figure that fills the page
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
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


def png_of(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the content of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
