"""TensorBoard's curves and pictures of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from stylegan2_cond.io import explained_write
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.training.model_selection import ERROR, REAL

BOARD_FOLDER = "tensorboard"
GROUPS = ("loss", "score")  # first words of figures that stand in one section


class Board:
    """Writes under `folder/tensorboard`, over the number of real images seen.

    Args:
        folder: of the run.
        images_seen: by the checkpoint that training goes on from; whatever was written of later ones is hidden.
    """

    def __init__(self, folder: Path, images_seen: int = 0):
        self.folder = folder / BOARD_FOLDER
        with explained_write(self.folder):
            self._writer = SummaryWriter(str(self.folder), purge_step=images_seen + 1)

    def write(self, images_seen: int, figures: Mapping[str, float]) -> None:
        """Add a point to the curve of each figure."""
        with explained_write(self.folder):
            for name, value in figures.items():
                self._writer.add_scalar(tag(name), value, images_seen)

    def picture(self, images_seen: int, rgb: np.ndarray) -> None:
        """Add a preview, `[height, width, 3]` uint8."""
        with explained_write(self.folder):
            self._writer.add_image("preview", rgb, images_seen, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is still held back, unless the folder is gone."""
        with explained_write(self.folder), contextlib.suppress(FileNotFoundError):
            self._writer.close()


def tag(name: str) -> str:
    """Section and name of a figure's curve: `loss/generator`, `judgement/kid`, `standard error/kid`, `training/r1`."""
    if name.endswith(ERROR):
        return f"standard error/{name.removesuffix(ERROR)}"
    if name.endswith(REAL):
        return f"real/{name.removesuffix(REAL)}"
    if (first := name.partition("_"))[0] in GROUPS and first[2]:
        return f"{first[0]}/{first[2]}"
    return f"{'judgement' if name in METRICS else 'training'}/{name}"
