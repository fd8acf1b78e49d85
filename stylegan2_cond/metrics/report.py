"""What an evaluation found, as a file and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from stylegan2_cond.io import Document, write_atomically
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.memorization import CopySearch
from stylegan2_cond.metrics.ncc import RIM, align, rims
from stylegan2_cond.metrics.registry import METRICS, Result
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import colour_mask, middle_slice, scaled

COLUMNS = 8
ROWS = ("most like a copy", "nearest real", "difference", "as drawn", "nearest real", "difference")


class Measured(BaseModel):
    """A result, and what it took."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: float | None
    standard_error: float | None
    details: dict[str, float | None]
    warning: str | None
    seconds: float

    @classmethod
    def of(cls, result: Result, seconds: float) -> Measured:
        """JSON has no NaN; what could not be told is null."""
        return cls(
            value=_finite(result.value),
            standard_error=_finite(result.standard_error),
            details={name: _finite(value) for name, value in result.details.items()},
            warning=result.warning,
            seconds=round(seconds, 2),
        )


class Neighbour(BaseModel):
    """A sample, and the training case that it is most like.

    Attributes:
        sample: its number; `load_generator(…).sample(1, seed=…, first=sample)` draws it again.
        case: name of the training case.
        correlation: the largest normalised cross-correlation over small shifts.
        alarm: whether the sample is taken for a copy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sample: int
    case: str
    correlation: float
    alarm: bool


class _Kept(Document):
    """A document that stands for what its key names, and for nothing else."""

    key: str

    @classmethod
    def same(cls, path: Path, key: str) -> Self | None:
        """What was found before, if it was found of the same things."""
        found = cls.load(path) if path.exists() else None
        return found if found is not None and found.key == key else None


class Baseline(_Kept):
    """What real patches would get in the place of drawn ones, by metric."""

    remedy: ClassVar[str] = "Delete the file; it is then made again."
    real: dict[str, Measured] = Field(default_factory=dict)
    held_out: dict[str, Measured] = Field(default_factory=dict)


class Evaluation(_Kept):
    """The judgement of a snapshot.

    Attributes:
        key: stands for weights, real patches, extractor, nnU-Net, number and seed.
        drawn, real, held_out: by metric, for drawn samples, other patches of the training cases, and validation cases.
        worst: the samples that are most like copies, the worst first; empty where copies were not looked for.
        missing: by metric, why there is no figure.
        notes: what to know before believing any figure.
    """

    remedy: ClassVar[str] = "Delete the file, and run stylegan2-cond evaluate again."
    snapshot: str
    images_seen: int
    samples: int
    seed: int
    features: str
    nnunet: str | None
    training_cases: int
    reference_patches: int
    drawn: dict[str, Measured]
    real: dict[str, Measured]
    held_out: dict[str, Measured]
    worst: tuple[Neighbour, ...]
    missing: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    peak_bytes: int
    created: str
    release: str


_HINTS = {"lower": "lower is better", "higher": "higher is better", "one": "1 is best"}


def table(evaluation: Evaluation) -> str:
    """One line a metric: the figure of drawn patches beside what real ones get."""
    held_out = bool(set(evaluation.held_out) - {"agreement"})
    head = ["", "drawn", "real again", *(["held-out"] if held_out else []), ""]
    rows = [head]
    for name in (name for name in METRICS if name in evaluation.drawn):
        figures = [evaluation.drawn[name], evaluation.real.get(name)]
        figures += [evaluation.held_out.get(name)] if held_out else []
        hint = ", ".join(filter(None, [_HINTS[METRICS[name].better], evaluation.drawn[name].warning]))
        if name == "agreement" and name in evaluation.held_out and not held_out:
            hint += f"; on validation cases {_with_error(evaluation.held_out[name])}"
        if name == "conditions":
            hint += _obedience(evaluation.drawn[name].details)
        rows.append([METRICS[name].title, *map(_with_error, figures), hint])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for title, *figures, hint in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *cells, hint]).rstrip())
    lines += [f"{METRICS[name].title}: {reason}" for name, reason in evaluation.missing.items()]
    return "\n".join([*lines, *evaluation.notes])


def _obedience(details: dict[str, float | None]) -> str:
    """What samples would get that mind nothing, and how closely areas and positions follow what was asked for."""
    ranks = [f"of {name} {details[name]:.2f}" for name in ("areas", "position") if details.get(name) is not None]
    return f", {details['by chance']:.2f} by chance" + (f"; rank correlation {', '.join(ranks)}" if ranks else "")


def _with_error(figure: Measured | None) -> str:
    """`0.1234 ± 0.0056`: two digits of the error, and the value to the same place."""
    if figure is None or figure.value is None:
        return "–"
    if not figure.standard_error:
        return f"{figure.value:.3g}" + ("" if figure.standard_error is None else " ± 0")
    digits = max(0, 1 - math.floor(math.log10(figure.standard_error)))
    return f"{figure.value:.{digits}f} ± {figure.standard_error:.{digits}f}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def save_neighbours(path: Path, comparison: Comparison, found: CopySearch, plan: Plan) -> None:
    """Above, the samples most like copies; below, some that are as they come.

    Each stands over the training patch that correlates best with it, shifted so that they match, and the difference.
    Colour images are in colour, of others the first channel is shown. Red titles are alarms.
    """
    typical = comparison.rng(6).permutation(len(comparison.drawn))[:COLUMNS]
    figure = Figure(figsize=(1.3 * COLUMNS, 9), layout="constrained")
    axes = figure.subplots(6, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, numbers in ((0, found.worst(COLUMNS)), (3, typical)):
        for column, number in enumerate(numbers):
            _show(axes[row : row + 3, column], comparison, found, plan, int(number))
    for row, text in enumerate(ROWS):
        axes[row, 0].text(-0.08, 0.5, text, rotation=90, ha="right", va="center", transform=axes[row, 0].transAxes)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _show(axes: Sequence, comparison: Comparison, found: CopySearch, plan: Plan, number: int) -> None:
    drawn, reference = comparison.drawn, comparison.reference
    partner = int(found.drawn.index[number])
    image, mask = _shown(drawn.image[number], plan), drawn.label[number]
    corner = align(drawn.image[number], reference.image[partner])
    there, its_mask = beneath(
        _shown(reference.image[partner], plan), reference.label[partner], corner, drawn.patch_size
    )
    for axis, (part, labels) in zip(axes[:2], ((image, mask), (there, its_mask)), strict=True):
        axis.imshow(colour_mask(_middle(part), _middle(labels[None]), plan.codec.labels))
    axes[2].imshow(_middle((image - there).mean(axis=0, keepdims=True)), cmap="gray", vmin=-1, vmax=1)
    colour = "red" if found.alarms[number] else "black"
    axes[0].set_title(f"{found.drawn.nearness[number]:.3f}", fontsize=8, color=colour)
    axes[1].set_title(str(reference.case[partner])[-16:], fontsize=7)


def beneath(
    image: np.ndarray, mask: np.ndarray, corner: Sequence[int], patch_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a training patch under a sample whose inner part fits at `corner`; 0 beyond its end.

    image: `[*channels, *size]`, mask: `[*size]` → `[*channels, *spatial]`, `[*spatial]`.
    """
    starts = [place - rim for place, rim in zip(corner, rims(patch_size), strict=True)]
    box = (..., *(slice(start + RIM, start + RIM + length) for start, length in zip(starts, patch_size, strict=True)))
    around = [(RIM, RIM)] * mask.ndim
    return np.pad(image, [(0, 0)] * (image.ndim - mask.ndim) + around)[box], np.pad(mask, around)[box]


def _shown(image: np.ndarray, plan: Plan) -> np.ndarray:
    """`[k, *spatial]` between 0 and 1: red, green and blue of a colour image, the first channel of another one."""
    codec = plan.codec
    return scaled(image, codec.low, codec.high, codec.rgb)[list(codec.rgb or (0,))]


def _middle(channels: np.ndarray) -> np.ndarray:
    """`[k, *spatial]` → the middle slice, `[H, W]` of a single channel, else `[H, W, k]`."""
    cut = middle_slice(channels[None])[0]
    return cut[0] if len(cut) == 1 else np.moveaxis(cut, 0, -1)
