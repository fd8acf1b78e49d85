"""What the judgements of a run's snapshots say: which one is best, and whether training copies its cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from stylegan2_cond.io import explained_write
from stylegan2_cond.metrics import Result
from stylegan2_cond.snapshot import BEST

CHOSEN_BY = ("kid", "kid-pair", "masks")
ERROR = " error"  # after a figure's name: its standard error
REAL = " real"  # after a figure's name: what other real patches get
ALLOWED_COPIES = 1.0  # %; real patches of cases never seen get about half of it
CERTAIN = 2.0  # standard errors

History = Sequence[Mapping[str, float]]


def flatten_results(results: Mapping[str, Result]) -> dict[str, float]:
    """Each result under its metric's name, its standard error under `<name> error`; what is not finite is left out."""
    figures = {}
    for name, result in results.items():
        figures |= {name: float(result.value), name + ERROR: float(result.standard_error)}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def choose_best(history: History) -> int:
    """The snapshot that draws best: the smallest product of image distance, pair distance and mask distance.

    The three have units of their own, so that a sum would follow the largest; of a product, each halving counts the
    same. A distance below its standard error can't be told from none, and counts as that error: otherwise one lucky
    KID near 0, or below it, would outweigh everything. Nothing is said of copies here.

    Args:
        history: figures of each snapshot, as `flatten_results` names them; further keys do not matter.

    Returns:
        Index of the best one; the later one of equals. Whoever lacks a figure that others have comes after those.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("there is no snapshot to choose from")
    return min(range(len(history)), key=lambda index: (*_badness(history[index]), -index))


def memorization_warning(history: History) -> str | None:
    """What to tell a user when the newest judged snapshot copies training cases; None where it can't be said to.

    It is said when the share of copies lies more than two standard errors above what is allowed.

    Args:
        history: figures of each snapshot, oldest first, with `images`, which it is named by.
    """
    judged = [figures for figures in history if _finite(figures, "copies")]
    if not judged or not _copies(judged[-1]):
        return None
    newest = judged[-1]
    text = (
        f"After {newest['images']:,} images, {newest['copies']:.3g} % of the samples are copies of training cases "
        f"(real patches: about 0.5 %)."
    )
    free = [figures for figures in judged if not _copies(figures)]
    if not free:
        return f"{text} So it was at every snapshot. Train on more cases, or do not share what this generator draws."
    better = free[choose_best(free)]
    return f"{text} Use an earlier snapshot, the best without copies is snapshots/{better['images']:09d}, or stop here."


def link_best(folder: Path, snapshot: Path) -> None:
    """Let `folder/best` be a relative link to a snapshot's folder; at any moment it leads to the old one or the new."""
    link, temporary = folder / BEST, folder / f".{BEST}.tmp"
    with explained_write(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(snapshot.relative_to(folder), target_is_directory=True)
        temporary.replace(link)


def best_snapshot_images(folder: Path) -> int | None:
    """How many images the snapshot saw that `best` points to; None where there is no such link."""
    link = folder / BEST
    name = link.readlink().name if link.is_symlink() else ""
    return int(name) if name.isdecimal() else None


def _badness(figures: Mapping[str, float]) -> tuple[int, float]:
    """How many of the deciding figures are missing, and the sum of the logarithms of the others."""
    found = [name for name in CHOSEN_BY if _finite(figures, name)]
    return len(CHOSEN_BY) - len(found), sum(math.log(_at_least_its_error(figures, name)) for name in found)


def _at_least_its_error(figures: Mapping[str, float], name: str) -> float:
    error = figures[name + ERROR] if _finite(figures, name + ERROR) else 0.0
    return max(figures[name], error, 1e-12)


def _copies(figures: Mapping[str, float]) -> bool:
    error = figures[f"copies{ERROR}"] if _finite(figures, f"copies{ERROR}") else 0.0
    return figures["copies"] - CERTAIN * error > ALLOWED_COPIES


def _finite(figures: Mapping[str, float], name: str) -> bool:
    value = figures.get(name)
    return isinstance(value, (int, float)) and math.isfinite(value)
