"""What the scores of a run's snapshots mean: which one is best, how good it is, and whether it copies its cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from stylegan2_cond.io import explained_write
from stylegan2_cond.metrics import METRICS, Result
from stylegan2_cond.snapshot import BEST
from stylegan2_cond.training.log_file import ERROR, REAL, read_log

DECISIVE = ("kid", "kid-pair", "masks")
ALLOWED_COPIES = 1.0  # %; real patches of unseen cases score about half of it
CERTAIN = 2.0  # standard errors
DESCRIBED = ("kid", "precision", "coverage", "masks", "copies")
# Coverage, as a fraction of what real patches reach. It is the share of real patches with a sample among their five
# nearest neighbours (Naeem et al. 2020); two sets of the same distribution reach about 1 - 2^-5 = 0.97.
CLOSE = 0.5  # from here on, most real patches have a similar sample
FAR = 0.25

Scores = Mapping[str, object]
History = Sequence[Mapping[str, float]]


def flatten_results(results: Mapping[str, Result]) -> dict[str, float]:
    """Each result under its metric's name, its standard error under `<name> error`; only what is finite."""
    scores = {}
    for name, result in results.items():
        scores |= {name: float(result.value), name + ERROR: float(result.standard_error)}
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def choose_best(history: History) -> int:
    """The best snapshot: the smallest product of image distance, pair distance and mask distance.

    The three have different units, so the largest would dominate a sum; in a product, halving any of them counts the
    same. A distance below its standard error cannot be told from 0 and counts as that error: otherwise one lucky KID
    near or below 0 would outweigh everything. Copies do not count here.

    Args:
        history: scores of each snapshot, named as by `flatten_results`; other keys are ignored.

    Returns:
        Index of the best one; the later one of equals. One that lacks a score comes after all that have it.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("there is no snapshot to choose from")

    def badness(index: int) -> tuple[int, float, int]:
        """Number of missing scores, sum of the logarithms of the others, age."""
        scores = history[index]
        found = [name for name in DECISIVE if _is_number(scores.get(name))]
        logarithms = (math.log(max(scores[name], _standard_error(scores, name), 1e-12)) for name in found)
        return len(DECISIVE) - len(found), sum(logarithms), -index

    return min(range(len(history)), key=badness)


def memorization_warning(history: History) -> str | None:
    """A warning if the newest evaluated snapshot copies training cases; None otherwise.

    It does if the share of copies is more than two standard errors above what is allowed.

    Args:
        history: scores of each snapshot, oldest first, with the `images` seen.
    """
    evaluated = [scores for scores in history if _is_number(scores.get("copies"))]
    if not evaluated or not _copies(evaluated[-1]):
        return None
    newest = evaluated[-1]
    text = (
        f"After {newest['images']:,} images, {newest['copies']:.3g} % of the samples are copies of training cases "
        f"(real patches: about 0.5 %)."
    )
    free = [scores for scores in evaluated if not _copies(scores)]
    if not free:
        return f"{text} This holds for every snapshot. Train on more cases, or do not share samples of this generator."
    better = free[choose_best(free)]
    return f"{text} Stop here, or use an earlier snapshot; the best without copies is snapshots/{better['images']:09d}."


def link_best(folder: Path, snapshot: Path) -> None:
    """Make `folder/best` a relative link to a snapshot's folder; at any moment it leads to the old or the new one."""
    link, temporary = folder / BEST, folder / f".{BEST}.tmp"
    with explained_write(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(snapshot.relative_to(folder), target_is_directory=True)
        temporary.replace(link)


def snapshot_scores(snapshot: Path) -> Scores:
    """The scores of a snapshot in its run's log; empty if it was not evaluated, or was moved out of its run."""
    folder = snapshot.resolve()
    lines = [line for line in read_log(folder.parent.parent) if f"{line['images']:09d}" == folder.name]
    evaluated = [line for line in lines if METRICS.keys() & line.keys()]
    return evaluated[-1] if evaluated else {}


def describe_scores(scores: Scores) -> str:
    """The main scores, each with that of other real patches."""
    described = []
    for name in DESCRIBED:
        if _is_number(value := scores.get(name)):
            real = scores.get(name + REAL)
            reference = f" (real {_short(real)})" if _is_number(real) else ""
            described.append(f"{METRICS[name].title} {_short(value)}{reference}")
    return ", ".join(described) or "not evaluated, since its samples are not finite"


def assess_quality(scores: Scores) -> str | None:
    """What the scores mean, in a sentence; None if coverage is unknown."""
    if (relative := relative_coverage(scores)) is None:
        return None
    ours, real = scores["coverage"], scores["coverage" + REAL]
    shares = f"{ours:.0%} of the real patches have a similar sample, {real:.0%} have a similar other real patch"
    if relative < FAR:
        return f"Far from real: {shares}. Train longer (--kimg) before you use it."
    if relative < CLOSE:
        return f"Not yet close to real: {shares}. Longer training (--kimg) may help."
    return f"Close to real: {shares}."


def relative_coverage(scores: Scores) -> float | None:
    """Coverage as a fraction of what real patches reach; None if unknown."""
    ours, real = scores.get("coverage"), scores.get("coverage" + REAL)
    return ours / real if _is_number(ours) and _is_number(real) and real > 0 else None


def _copies(scores: Mapping[str, float]) -> bool:
    return scores["copies"] - CERTAIN * _standard_error(scores, "copies") > ALLOWED_COPIES


def _standard_error(scores: Mapping[str, float], name: str) -> float:
    error = scores.get(name + ERROR)
    return error if _is_number(error) else 0.0


def _short(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
