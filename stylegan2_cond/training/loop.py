"""The whole way of one generator: plan, train, show, save; the same command goes on after a stop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from stylegan2_cond.data.canvases import Canvases
from stylegan2_cond.data.preprocessed import Fold, Preprocessed
from stylegan2_cond.data.survey import survey
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.planning import SNAPSHOTS, Plan, Source, available_bytes, make_plan, run_folder, smaller_canvas
from stylegan2_cond.snapshot import Card, PairGenerator, find_snapshots, open_device, save_snapshot
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.telemetry import Averages, Log, save_preview

LOG_INTERVAL = 1_000  # images
CHECKPOINT_SECONDS = 120.0
SMALLEST_SNAPSHOT_INTERVAL = 2_000  # images


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the running step; a second one is not held back."""

    def __enter__(self) -> StopRequest:
        self.wanted = False
        in_main = threading.current_thread() is threading.main_thread()  # only there may signals be taken over
        names = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self._before = {name: signal.signal(name, self._note) for name in names}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)


def train(
    preprocessed: Preprocessed,
    fold_name: str,
    *,
    canvas: Sequence[int] | None = None,
    kimg: float | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> Path:
    """Train a generator on the training cases of a fold, or go on with it.

    Args:
        preprocessed: dataset and configuration.
        fold_name: number of the fold, or `all`.
        canvas: instead of the derived one; settled by the first call.
        kimg: thousands of real images to see in all; a later call may raise it.
        seed: settled by the first call.
        device: torch device.

    Returns:
        The run's folder.

    Raises:
        UserError: bad input, or a run folder of other data or settings.
        Stopped: after Ctrl-C or SIGTERM, when all is saved.
    """
    fold = preprocessed.fold(fold_name)
    folder = run_folder(Source.of(preprocessed, fold))
    chosen_device = open_device(device)
    plan = _settle_plan(
        folder, preprocessed, fold, canvas=canvas, kimg=kimg, seed=seed, free_bytes=_free_bytes(chosen_device)
    )
    state = TrainingState.start(plan, chosen_device)
    resumed = load_checkpoint(folder, state)
    tqdm.write(_headline(plan, folder, state, resumed, preprocessed, fold))
    real = Canvases(preprocessed, fold.training, plan.canvas, foreground_share=plan.foreground_share, seed=plan.seed)
    try:
        with StopRequest() as stop:
            _run(state, real, folder, stop)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(plan, error) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _out_of_memory(plan, error) from error
        raise
    return folder


def _run(state: TrainingState, real: Canvases, folder: Path, stop: StopRequest) -> None:
    plan = state.plan
    total = math.ceil(plan.kimg * 1000 / plan.batch_size) * plan.batch_size
    snapshot_every = max(SMALLEST_SNAPSHOT_INTERVAL, total // SNAPSHOTS)
    log, averages, saved_at = Log(folder, state.images_seen), Averages(), time.monotonic()
    with tqdm(total=total, initial=state.images_seen, unit="img", desc="Training", smoothing=0.05) as bar:
        while state.images_seen < total:
            before = state.images_seen
            figures = state.step(*real.batch(state.images_seen, plan.batch_size))
            _refuse_divergence(figures, folder)
            averages.add(figures)
            bar.update(plan.batch_size)
            bar.set_postfix(
                G=f"{figures['loss_generator']:.2f}", D=f"{figures['loss_discriminator']:.2f}", refresh=False
            )
            done = state.images_seen >= total
            if done or _passed(before, state.images_seen, LOG_INTERVAL):
                log.write(state.images_seen, averages.take())
            if done or _passed(before, state.images_seen, snapshot_every):
                _save_snapshot(state, real, folder)
            if done or stop.wanted or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save_checkpoint(folder, state)
                saved_at = time.monotonic()
            if stop.wanted and not done:
                raise Stopped(f"Stopped after {state.images_seen:,} images, all saved. The same command goes on.")


def _save_snapshot(state: TrainingState, real: Canvases, folder: Path) -> None:
    name = f"{state.images_seen:09d}"
    save_snapshot(folder / "snapshots" / name, state.average, state.plan, state.images_seen)
    card = Card.load(folder / "snapshots" / name / "card.json")
    save_preview(
        folder / "previews" / f"{name}.png", PairGenerator(state.average, card, state.device), real, state.plan
    )


def _settle_plan(
    folder: Path,
    preprocessed: Preprocessed,
    fold: Fold,
    *,
    canvas: Sequence[int] | None,
    kimg: float | None,
    seed: int | None,
    free_bytes: int | None,
) -> Plan:
    """The plan of the run folder, made if there is none; only the length of training may change later."""
    path = folder / "plan.json"
    if not path.exists():
        if (folder / CHECKPOINT_FILE).exists():
            raise UserError(f"{folder} has a checkpoint but no plan.json. Move the folder away to start again.")
        seen = survey(preprocessed, fold.training)
        plan = make_plan(preprocessed, fold, seen, canvas=canvas, kimg=kimg, seed=seed or 0, free_bytes=free_bytes)
        plan.save(path)
        return plan
    plan = Plan.load(path)
    wanted = {"source": Source.of(preprocessed, fold), "canvas": canvas and tuple(canvas), "seed": seed}
    for key, value in wanted.items():
        if value is not None and value != getattr(plan, key):
            raise UserError(
                f"{path} was made with another {key}"
                + (f": {getattr(plan, key)}, not {value}" if key != "source" else " (cases or preprocessing changed)")
                + f". Move the folder {folder} away to start again, or leave out the option to go on."
            )
    if kimg is not None and kimg != plan.kimg:
        plan = plan.model_copy(update={"kimg": kimg})
        plan.save(path)
    return plan


def _headline(
    plan: Plan, folder: Path, state: TrainingState, resumed: bool, preprocessed: Preprocessed, fold: Fold
) -> str:
    lines = [
        f"{preprocessed.dataset_name}, {preprocessed.configuration_name}, fold {fold.name}: "
        f"{len(fold.training)} training cases, canvas {'×'.join(map(str, plan.canvas))}, "
        f"{plan.codec.image_channels} image and {len(plan.codec.labels)} label channels, device {state.device}",
        f"Results: {folder}",
    ]
    if fold.name == "all":
        lines.append("Fold all: the generator sees every case. No case is left to judge its pairs by.")
    if resumed:
        lines.append(f"Going on after {state.images_seen:,} of {plan.kimg * 1000:,.0f} images.")
    elif find_snapshots(folder):
        lines.append("No checkpoint found: training starts anew and replaces the snapshots.")
    return "\n".join(lines)


def _refuse_divergence(figures: dict[str, float], folder: Path) -> None:
    if not all(math.isfinite(value) for value in figures.values()):
        raise UserError(
            f"Training diverged: {figures}. The last checkpoint is good. Lower learning_rate in {folder / 'plan.json'} "
            f"and run the same command again."
        )


def _free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def _out_of_memory(plan: Plan, error: BaseException) -> UserError:
    return UserError(
        f"Out of memory at canvas {list(plan.canvas)}, batch {plan.batch_size} ({str(error).splitlines()[0]}). Lower "
        f"batch_size in plan.json, or begin anew with a smaller canvas: --canvas {smaller_canvas(plan.canvas)}"
    )


def _passed(before: int, after: int, interval: int) -> bool:
    return before // interval != after // interval
