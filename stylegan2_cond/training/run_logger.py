"""What a running training writes for people: log, TensorBoard, snapshots with their scores, previews, progress plot."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.snapshot import CARD_FILE, Card, MaskSource, PairGenerator, find_snapshots, save_snapshot
from stylegan2_cond.training.log_file import ERROR, REAL, Log, read_log, take_means
from stylegan2_cond.training.model_selection import (
    choose_best,
    describe_scores,
    link_best,
    memorization_warning,
)
from stylegan2_cond.training.progress_plot import save_progress
from stylegan2_cond.training.scoring import ScoringProcess, SnapshotScorer
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.visualization import GAP, overlay_grid, save_picture

BOARD_FOLDER, PREVIEWS = "tensorboard", "previews"
BOARD_SECTIONS = ("loss", "score")  # first words of scalars that share a section
PREVIEW_SAMPLES = {2: 32, 3: 16}  # by the number of axes


class RunLogger:
    """Writes into a run's folder; only the main process of a training has one.

    Args:
        folder: of the run.
        state: of the training; what was logged after its number of images is dropped.
        preprocessed: dataset that snapshots are evaluated on.
        real: sampler of the training patches.
    """

    def __init__(self, folder: Path, state: TrainingState, preprocessed: Preprocessed, real: PatchSampler):
        self.folder = folder
        self.state = state
        self.real = real
        self.scorer = SnapshotScorer(preprocessed, state.plan, real)
        self._beside = ScoringProcess() if scores_beside(state.device) else None
        self._pending: list[tuple[int, Future[dict[str, float]]]] = []
        self._open()
        if self._beside:
            self._score_missing()

    def _open(self) -> None:
        seen = self.state.images_seen
        self._log, self._board = Log(self.folder, seen), Board(self.folder, seen)

    def add_step(self, scalars: Mapping[str, float], bar: ProgressBar) -> None:
        """Take the scalars of a step into the next log line, and show the losses in the progress bar."""
        for name, value in scalars.items():
            self.state.scalars.setdefault(name, []).append(value)
        shown = {"G": scalars["loss_generator"], "D": scalars["loss_discriminator"], "p": scalars.get("augment_p")}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items() if value is not None}, refresh=False)

    def write(self) -> None:
        """Log the means of all scalars since the last line, and the scores that are known by now."""
        self._write(self.state.images_seen, take_means(self.state.scalars))
        self.log_scores(wait=False)

    def save_snapshot(self) -> None:
        """Save a snapshot, preview and score it; the scores come later where a GPU trains."""
        state, path = self.state, self._snapshot(self.state.images_seen)
        save_snapshot(path, state.average, state.plan, state.images_seen, state.backends)
        generator = PairGenerator(state.average, Card.load(path / CARD_FILE), state.device)
        preview = make_preview(generator, self.real, state.plan, self.scorer.masks)
        save_picture(self.folder / PREVIEWS / f"{path.name}.png", preview)
        self._board.add_preview(state.images_seen, preview)
        if self._beside:
            self.write()
            self._pending.append((state.images_seen, self._beside.submit(path)))
        else:
            scores = self.scorer.score(generator)
            self._take_scores(state.images_seen, scores, take_means(state.scalars))

    def log_scores(self, *, wait: bool) -> None:
        """Log the scores that were computed beside the training, or wait for all of them."""
        while self._pending and (wait or self._pending[0][1].done()):
            images, future = self._pending.pop(0)
            try:
                scores = future.result()
            except UserError as error:
                write_line(f"{error} {self._snapshot(images)} has no scores; they are computed when training resumes.")
            else:
                self._take_scores(images, scores, {})

    def _take_scores(self, images: int, scores: Mapping[str, float], scalars: Mapping[str, float]) -> None:
        """Log a snapshot's scores, with scalars of the training, and link the best snapshot so far."""
        self._write(images, {**scalars, **scores})
        write_line(f"Snapshot after {images:,} images: {describe_scores(scores)}")
        if history := [line for line in self._scored() if self._snapshot(line["images"]).exists()]:
            link_best(self.folder, self._snapshot(history[choose_best(history)]["images"]))
            if warning := memorization_warning(history):
                write_line(warning)
        save_progress(self.folder)

    def _score_missing(self) -> None:
        """Score the snapshots whose scores an earlier process did not come to."""
        scored = {line["images"] for line in self._scored()}
        for path in find_snapshots(self.folder):
            if (images := int(path.name)) <= self.state.images_seen and images not in scored:
                self._pending.append((images, self._beside.submit(path)))

    def _scored(self) -> list[dict]:
        return [line for line in read_log(self.folder) if METRICS.keys() & line.keys()]

    def _write(self, images: int, scalars: Mapping[str, float]) -> None:
        self._log.write(images, scalars)
        self._board.write(images, scalars)

    def roll_back(self, message: str) -> None:
        """Report that training returned to an earlier state, and drop what was logged after it."""
        write_line(message)
        self.log_scores(wait=True)
        self._board.close()
        self._open()

    def close(self) -> None:
        """Write what is still buffered, and stop scoring."""
        if self._beside:
            self._beside.close()
        self._board.close()

    def _snapshot(self, images: int) -> Path:
        return self.folder / "snapshots" / f"{images:09d}"


def scores_beside(device: torch.device) -> bool:
    """Whether a process of its own scores snapshots: where a GPU trains, as the CPU is mostly idle then."""
    return device.type == "cuda"


class Board:
    """TensorBoard's curves and previews, over the number of real images seen.

    Args:
        folder: of the run; files are in its subfolder `tensorboard`.
        images_seen: by the checkpoint that training continues from; whatever was written of later ones is hidden.
    """

    def __init__(self, folder: Path, images_seen: int = 0):
        self.folder = folder / BOARD_FOLDER
        with explained_write(self.folder):
            self._writer = SummaryWriter(str(self.folder), purge_step=images_seen + 1)

    def write(self, images_seen: int, scalars: Mapping[str, float]) -> None:
        """Add a point to the curve of each scalar."""
        with explained_write(self.folder):
            for name, value in scalars.items():
                self._writer.add_scalar(tag(name), value, images_seen)

    def add_preview(self, images_seen: int, rgb: np.ndarray) -> None:
        """Add a picture, `[height, width, 3]` uint8."""
        with explained_write(self.folder):
            self._writer.add_image("preview", rgb, images_seen, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is still buffered, unless the folder is gone."""
        with explained_write(self.folder), contextlib.suppress(FileNotFoundError):
            self._writer.close()


def tag(name: str) -> str:
    """Section and name of a scalar's curve: `loss/generator`, `evaluation/kid`, `standard error/kid`, `training/r1`."""
    if name.endswith(ERROR):
        return f"standard error/{name.removesuffix(ERROR)}"
    if name.endswith(REAL):
        return f"real/{name.removesuffix(REAL)}"
    if (first := name.partition("_"))[0] in BOARD_SECTIONS and first[2]:
        return f"{first[0]}/{first[2]}"
    return f"{'evaluation' if name in METRICS else 'training'}/{name}"


def make_preview(
    generator: PairGenerator, real: PatchSampler, plan: Plan, masks: MaskSource | None = None
) -> np.ndarray:
    """A grid of training patches above a grid of generated ones, with the same latents each time.

    Returns:
        `[height, width, 3]` uint8.
    """
    count = PREVIEW_SAMPLES[len(plan.patch_size)]
    generated = generator.sample(count, seed=plan.seed, masks=masks)
    patches = real.batch(0, count // 2)
    image = patches.image[:, : generated.image.shape[1]]  # no channels for a mask generator
    style = {"low": plan.codec.low, "high": plan.codec.high, "labels": plan.codec.labels, "rgb": plan.codec.rgb}
    above = overlay_grid(image, patches.label, **style)
    below = overlay_grid(generated.image, generated.label, **style)
    return np.concatenate([above, np.full((4 * GAP, above.shape[1], 3), 255, np.uint8), below])
