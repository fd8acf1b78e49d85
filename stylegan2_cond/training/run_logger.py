"""What a running training writes for people: log, curves, snapshots with their judgement, pictures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import imread

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.snapshot import CARD_FILE, Card, PairGenerator, save_snapshot
from stylegan2_cond.snapshot.mask_sources import RealMasks
from stylegan2_cond.training.board import Board
from stylegan2_cond.training.log_file import Averages, Log, save_preview
from stylegan2_cond.training.model_selection import REAL, choose_best, flatten_results, link_best, memorization_warning
from stylegan2_cond.training.progress_plot import save_progress
from stylegan2_cond.training.quality import describe_scores
from stylegan2_cond.training.snapshot_evaluation import SnapshotEvaluator
from stylegan2_cond.training.state import TrainingState


class RunLogger:
    """Writes into the run's folder; only one process of a training has one."""

    def __init__(self, folder: Path, state: TrainingState, preprocessed: Preprocessed, real: PatchSampler):
        self.folder = folder
        self.state = state
        self.real = real
        self.masks = RealMasks(real, state.plan, deformed=True) if state.plan.given_mask else None
        self.judge = SnapshotEvaluator(preprocessed, state.plan)
        self._begin()

    def _begin(self) -> None:
        seen = self.state.images_seen
        self._averages = Averages(self.state.figures)
        self._log, self._board = Log(self.folder, seen), Board(self.folder, seen)

    def add(self, figures: dict[str, float], bar: ProgressBar) -> None:
        """Take note of a step."""
        self._averages.add(figures)
        losses = {side: f"{figures[f'loss_{name}']:.2f}" for side, name in (("G", "generator"), ("D", "discriminator"))}
        chance = {"p": f"{figures['augment_p']:.2f}"} if "augment_p" in figures else {}
        bar.set_postfix(losses | chance, refresh=False)

    def log(self) -> None:
        """Write the means since the last time."""
        self._write(self._averages.take())

    def snapshot(self) -> None:
        """Save a snapshot, judge it, show it, and point to the best one."""
        state, name = self.state, f"{self.state.images_seen:09d}"
        path = self.folder / "snapshots" / name
        save_snapshot(path, state.average, state.plan, state.images_seen, state.backends)
        generator = PairGenerator(state.average, Card.load(path / CARD_FILE), state.device)
        preview = self.folder / "previews" / f"{name}.png"
        save_preview(preview, generator, self.real, state.plan, self.masks)
        self._board.picture(state.images_seen, (imread(preview)[..., :3] * 255).astype("uint8"))
        figures = flatten_results(self.judge.judge(generator, self.masks))
        if figures:
            figures |= flatten_results({name + REAL: result for name, result in self.judge.real.items()})
        self._write(self._averages.take() | figures)
        write_line(f"Snapshot after {state.images_seen:,} images: {describe_scores(figures)}")
        self._point_best()
        save_progress(self.folder)

    def _point_best(self) -> None:
        history = [line for line in self._log.lines() if METRICS.keys() & line.keys() and self._path(line).exists()]
        if not history:
            return
        link_best(self.folder, self._path(history[choose_best(history)]))
        if warning := memorization_warning(history):
            write_line(warning)

    def _path(self, line: dict) -> Path:
        return self.folder / "snapshots" / f"{line['images']:09d}"

    def go_back(self, message: str) -> None:
        """Say that training returned to an earlier state, and forget what came after it."""
        write_line(message)
        self._board.close()
        self._begin()

    def close(self) -> None:
        """Finish writing."""
        self._board.close()

    def _write(self, figures: dict[str, float]) -> None:
        self._log.write(self.state.images_seen, figures)
        self._board.write(self.state.images_seen, figures)
