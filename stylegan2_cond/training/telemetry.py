"""What a training tells: log lines, and grids of real and drawn pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stylegan2_cond.data.canvases import Canvases
from stylegan2_cond.documents import explained_write, write_atomically
from stylegan2_cond.pictures import GAP, overlay_grid, save_picture
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot import PairGenerator

LOG_FILE = "log.jsonl"
PREVIEW_SAMPLES = 32


class Log:
    """`log.jsonl`: a JSON object a line, each with `images`; resuming drops what came after the checkpoint."""

    def __init__(self, folder: Path, images_seen: int):
        self.path = folder / LOG_FILE
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _images(line) <= images_seen]
            with write_atomically(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines))

    def write(self, images_seen: int, figures: dict[str, float]) -> None:
        with explained_write(self.path), self.path.open("a") as file:
            file.write(json.dumps({"images": images_seen, **figures}) + "\n")


class Averages:
    """Means of figures between two log lines."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        self._values = {}
        return means


def save_preview(path: Path, generator: PairGenerator, real: Canvases, plan: Plan) -> None:
    """A grid of training canvases above a grid of drawn ones, masks drawn over; the same latents each time."""
    drawn = generator.sample(PREVIEW_SAMPLES, seed=plan.seed)
    style = {"low": plan.codec.low, "high": plan.codec.high, "labels": plan.codec.labels}
    above = overlay_grid(*real.batch(0, PREVIEW_SAMPLES // 2), **style)
    below = overlay_grid(drawn.image, drawn.label, **style)
    line = np.full((4 * GAP, above.shape[1], 3), 255, np.uint8)
    save_picture(path, np.concatenate([above, line, below]))


def _images(line: str) -> float:
    """How many images a log line speaks of; infinity for a line that was cut off."""
    try:
        return json.loads(line)["images"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
