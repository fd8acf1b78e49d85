"""`log.jsonl`: one JSON object per line, with the images seen and the means of all scalars since the line before.

The scores of a snapshot stand in the same line, or, where they were computed beside the training, in one that follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write, write_atomically

LOG_FILE = "log.jsonl"
ERROR = " error"  # suffix of a score's name: its standard error
REAL = " real"  # suffix of a score's name: the score of other real patches


class Log:
    """Appends lines to a run's log; lines after `images_seen`, which a checkpoint does not know, are dropped first."""

    def __init__(self, folder: Path, images_seen: int):
        self.path = folder / LOG_FILE
        if self.path.exists():
            kept = [line for line in _lines(self.path) if (read := _parse(line)) and read["images"] <= images_seen]
            with write_atomically(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, images_seen: int, scalars: Mapping[str, float]) -> None:
        """Append a line."""
        with explained_write(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"images": images_seen, **scalars}) + "\n")


def take_means(values: dict[str, list[float]]) -> dict[str, float]:
    """The mean of each scalar's values since the last call, which are then dropped."""
    means = {name: float(np.mean(found)) for name, found in values.items()}
    values.clear()
    return means


def read_log(folder: Path) -> list[dict]:
    """The entries of a run's log, oldest first, one for each number of images seen; empty if there is no log.

    Raises:
        UserError: the log cannot be read.
    """
    path = folder / LOG_FILE
    entries: dict[int, dict] = {}
    for line in _lines(path) if path.exists() else []:
        if read := _parse(line):
            entries.setdefault(read["images"], {}).update(read)
    return list(entries.values())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Move it away; a new one is then written.") from None


def _parse(line: str) -> dict | None:
    """A log line; None if it is incomplete."""
    try:
        scalars = json.loads(line)
        return scalars if isinstance(scalars["images"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
