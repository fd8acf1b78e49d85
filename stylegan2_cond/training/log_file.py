"""What a training tells: log lines, their averages, and grids of real and drawn pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write, write_atomically
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot import MaskSource, PairGenerator
from stylegan2_cond.visualization import GAP, overlay_grid, save_picture

LOG_FILE = "log.jsonl"
PREVIEW_SAMPLES = {2: 32, 3: 16}  # by the number of axes


class Log:
    """`log.jsonl`: a JSON object a line, each with `images`; resuming drops what came after the checkpoint."""

    def __init__(self, folder: Path, images_seen: int):
        self.path = folder / LOG_FILE
        if self.path.exists():
            kept = [line for line in _texts(self.path) if (read := _read(line)) and read["images"] <= images_seen]
            with write_atomically(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, images_seen: int, figures: Mapping[str, float]) -> None:
        with explained_write(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"images": images_seen, **figures}) + "\n")

    def lines(self) -> list[dict]:
        """All lines so far."""
        return read_log(self.path.parent)


class Averages:
    """Means of figures between two log lines.

    Args:
        values: of each figure so far; whoever keeps them can continue with the same means later.
    """

    def __init__(self, values: dict[str, list[float]] | None = None) -> None:
        self._values = {} if values is None else values

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        self._values.clear()
        return means


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log that are whole, in order; none where there is no log."""
    path = folder / LOG_FILE
    return [read for line in _texts(path) if (read := _read(line))] if path.exists() else []


def save_preview(
    path: Path, generator: PairGenerator, real: PatchSampler, plan: Plan, masks: MaskSource | None = None
) -> None:
    """A grid of training patches above a grid of drawn ones, masks drawn over; the same latents each time."""
    count = PREVIEW_SAMPLES[len(plan.patch_size)]
    drawn = generator.sample(count, seed=plan.seed, masks=masks)
    patches = real.batch(0, count // 2)
    image = patches.image[:, : drawn.image.shape[1]]  # none, where masks alone are drawn
    style = {"low": plan.codec.low, "high": plan.codec.high, "labels": plan.codec.labels, "rgb": plan.codec.rgb}
    above, below = overlay_grid(image, patches.label, **style), overlay_grid(drawn.image, drawn.label, **style)
    line = np.full((4 * GAP, above.shape[1], 3), 255, np.uint8)
    save_picture(path, np.concatenate([above, line, below]))


def _texts(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Move it away: it is then written again.") from None


def _read(line: str) -> dict | None:
    """A log line's figures; None of a line that was cut off."""
    try:
        figures = json.loads(line)
        return figures if isinstance(figures["images"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
