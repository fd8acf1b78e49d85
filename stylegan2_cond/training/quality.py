"""How good a snapshot is, in a sentence, from the figures that its run's log has of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from stylegan2_cond.metrics import METRICS
from stylegan2_cond.training.log_file import read_log
from stylegan2_cond.training.model_selection import REAL

SHOWN = ("kid", "precision", "coverage", "masks", "copies")
# Coverage, as a share of what real patches get. It is the share of real patches with a sample among their five
# nearest neighbours (Naeem et al. 2020); two sets of the same distribution have about 1 - 2^-5 = 0.97.
CLOSE = 0.5  # from here on, most of what is real has a sample nearby
FAR = 0.25

Figures = Mapping[str, object]


def snapshot_scores(snapshot: Path) -> Figures:
    """What the log of a snapshot's run has of it; empty where the snapshot lies elsewhere, or was not judged."""
    folder = snapshot.resolve()
    lines = read_log(folder.parent.parent)
    judged = [line for line in lines if f"{line['images']:09d}" == folder.name and METRICS.keys() & line.keys()]
    return judged[-1] if judged else {}


def describe_scores(figures: Figures) -> str:
    """The main figures, each with what other real patches get."""
    told = []
    for name in SHOWN:
        if _is_number(value := figures.get(name)):
            real = figures.get(name + REAL)
            against = f" (real {_short(real)})" if _is_number(real) else ""
            told.append(f"{METRICS[name].title} {_short(value)}{against}")
    return ", ".join(told) or "it can't be judged, since its samples are not finite"


def verdict(figures: Figures) -> str | None:
    """What the figures mean, in a sentence; None where they don't say."""
    if (relative := relative_coverage(figures)) is None:
        return None
    ours, real = figures["coverage"], figures["coverage" + REAL]
    shares = f"{ours:.0%} of the real patches have a similar sample, {real:.0%} have a similar other real patch"
    if relative < FAR:
        return f"Far from real: {shares}. Train longer (--kimg) before you use it."
    if relative < CLOSE:
        return f"Not yet close to real: {shares}. Longer training (--kimg) may help."
    return f"Close to real: {shares}."


def relative_coverage(figures: Figures) -> float | None:
    """Coverage as a share of what real patches get; None where that is not known."""
    ours, real = figures.get("coverage"), figures.get("coverage" + REAL)
    return ours / real if _is_number(ours) and _is_number(real) and real > 0 else None


def _short(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
