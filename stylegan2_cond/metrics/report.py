"""An evaluation as a file, as a table and as a figure."""

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
from stylegan2_cond.random_streams import MetricStream
from stylegan2_cond.visualization import colour_mask, middle_slice, scaled

COLUMNS = 8
ROWS = ("lowest scores", "nearest real", "difference", "random samples", "nearest real", "difference")
_HINTS = {"lower": "lower is better", "higher": "higher is better", "one": "1 is best"}


class Measurement(BaseModel):
    """A result, and the time it took. JSON has no NaN: what is undefined is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: float | None
    standard_error: float | None
    details: dict[str, float | None]
    warning: str | None
    seconds: float

    @classmethod
    def of(cls, result: Result, seconds: float) -> Measurement:
        """A result as JSON can hold it."""
        return cls(
            value=_finite(result.value),
            standard_error=_finite(result.standard_error),
            details={name: _finite(value) for name, value in result.details.items()},
            warning=result.warning,
            seconds=round(seconds, 2),
        )


class CopyCandidate(BaseModel):
    """A sample, and the training case that it resembles most.

    Attributes:
        sample: its number; `load_generator(…).sample(1, seed=…, first=sample)` generates it again.
        case: name of the training case.
        correlation: the largest normalised cross-correlation over small shifts.
        alarm: whether the sample is considered a copy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sample: int
    case: str
    correlation: float
    alarm: bool


class _KeyedDocument(Document):
    """A document whose key stands for everything that its content depends on."""

    format_version: int = 2
    key: str

    @classmethod
    def load_if_current(cls, path: Path, key: str) -> Self | None:
        """The document, if there is one with this key."""
        found = cls.load(path) if path.exists() else None
        return found if found is not None and found.key == key else None


class Baseline(_KeyedDocument):
    """What real patches get in place of generated ones, by metric."""

    remedy: ClassVar[str] = "Delete the file; it is then computed again."
    real: dict[str, Measurement] = Field(default_factory=dict)
    held_out: dict[str, Measurement] = Field(default_factory=dict)


class Evaluation(_KeyedDocument):
    """The evaluation of a snapshot.

    Attributes:
        key: stands for weights, real patches, features, nnU-Net, number of samples and seed.
        generated, real, held_out: by metric, of generated samples, of other patches of the training cases, and of the
            validation cases.
        copy_candidates: the samples that are most likely copies; empty where copies were not searched for.
        missing: by metric, why it was not computed.
        notes: what to know before trusting the figures.
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
    generated: dict[str, Measurement]
    real: dict[str, Measurement]
    held_out: dict[str, Measurement]
    copy_candidates: tuple[CopyCandidate, ...]
    missing: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    peak_bytes: int
    created: str
    release: str


def table(evaluation: Evaluation) -> str:
    """One line per metric: the figure of generated patches next to those of real ones."""
    held_out = bool(set(evaluation.held_out) - {"agreement"})
    head = ["", "generated", "other real", *(["held-out"] if held_out else []), ""]
    rows = [head]
    for name in (name for name in METRICS if name in evaluation.generated):
        found = evaluation.generated[name]
        figures = [found, evaluation.real.get(name)]
        figures += [evaluation.held_out.get(name)] if held_out else []
        hint = ", ".join(filter(None, [_HINTS[METRICS[name].better], found.warning]))
        if name == "agreement" and name in evaluation.held_out and not held_out:
            hint += f"; on validation cases {with_error(evaluation.held_out[name])}"
        if name == "conditions":
            ranks = [name for name in ("areas", "position") if found.details.get(name) is not None]
            ranked = ", ".join(f"of {name} {found.details[name]:.2f}" for name in ranks)
            hint += f", {found.details['by chance']:.2f} by chance"
            hint += f"; rank correlation {ranked}" if ranked else ""
        rows.append([METRICS[name].title, *map(with_error, figures), hint])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for title, *figures, hint in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *cells, hint]).rstrip())
    lines += [f"{METRICS[name].title}: {reason}" for name, reason in evaluation.missing.items()]
    return "\n".join([*lines, *evaluation.notes])


def with_error(figure: Measurement | None) -> str:
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
    """Plot the samples that are most likely copies, above a random choice of samples.

    Below each is the training patch that correlates best with it, shifted to match, and the difference. Colour images
    are shown in colour, of others the first channel. Red titles are alarms.
    """
    typical = comparison.rng(MetricStream.FIGURE).permutation(len(comparison.generated))[:COLUMNS]
    figure = Figure(figsize=(1.3 * COLUMNS, 9), layout="constrained")
    axes = figure.subplots(6, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, numbers in ((0, found.worst(COLUMNS)), (3, typical)):
        for column, number in enumerate(numbers):
            _plot_neighbour(axes[row : row + 3, column], comparison, found, plan, int(number))
    for row, text in enumerate(ROWS):
        axes[row, 0].text(-0.08, 0.5, text, rotation=90, ha="right", va="center", transform=axes[row, 0].transAxes)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _plot_neighbour(axes: Sequence, comparison: Comparison, found: CopySearch, plan: Plan, number: int) -> None:
    generated, reference, codec = comparison.generated, comparison.reference, plan.codec

    def visible(image: np.ndarray) -> np.ndarray:
        """`[k, *spatial]` between 0 and 1: red, green and blue, or the first channel."""
        return scaled(image, codec.low, codec.high, codec.rgb)[list(codec.rgb or (0,))]

    partner = int(found.generated.index[number])
    image, mask = visible(generated.image[number]), generated.label[number]
    corner = align(generated.image[number], reference.image[partner])
    real, real_mask = matching_part(
        visible(reference.image[partner]), reference.label[partner], corner, generated.patch_size
    )
    for axis, (part, labels) in zip(axes[:2], ((image, mask), (real, real_mask)), strict=True):
        axis.imshow(colour_mask(_middle(part), _middle(labels[None]), codec.labels))
    axes[2].imshow(_middle((image - real).mean(axis=0, keepdims=True)), cmap="gray", vmin=-1, vmax=1)
    colour = "red" if found.alarms[number] else "black"
    axes[0].set_title(f"{found.generated.nearness[number]:.3f}", fontsize=8, color=colour)
    axes[1].set_title(str(reference.case[partner])[-16:], fontsize=7)


def matching_part(
    image: np.ndarray, mask: np.ndarray, corner: Sequence[int], patch_size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a training patch that a sample matches whose inner part fits at `corner`; 0 beyond the patch.

    image: `[*channels, *size]`, mask: `[*size]` → `[*channels, *spatial]`, `[*spatial]`.
    """
    starts = [place - rim for place, rim in zip(corner, rims(patch_size), strict=True)]
    box = (..., *(slice(start + RIM, start + RIM + length) for start, length in zip(starts, patch_size, strict=True)))
    around = [(RIM, RIM)] * mask.ndim
    return np.pad(image, [(0, 0)] * (image.ndim - mask.ndim) + around)[box], np.pad(mask, around)[box]


def _middle(channels: np.ndarray) -> np.ndarray:
    """`[k, *spatial]` → the middle slice, `[H, W]` of a single channel, else `[H, W, k]`."""
    cut = middle_slice(channels[None])[0]
    return cut[0] if len(cut) == 1 else np.moveaxis(cut, 0, -1)
