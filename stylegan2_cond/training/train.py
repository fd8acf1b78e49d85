"""Train a generator: plan, train, evaluate, save; the same command resumes after a stop."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import torch

from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import PLAN_FILE
from stylegan2_cond.errors import Stopped, UserError, first_line
from stylegan2_cond.memory import available_bytes, cache_bytes, is_out_of_memory
from stylegan2_cond.ops import describe_backend
from stylegan2_cond.planning import Plan, RunOptions, open_patches, run_folder, smaller_patch_size
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.snapshot import BEST, find_snapshots, open_device
from stylegan2_cond.training.checkpoint import GOOD_CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from stylegan2_cond.training.distributed import DistributedContext, distributed_context, process_device
from stylegan2_cond.training.model_selection import assess_quality, describe_scores, snapshot_scores
from stylegan2_cond.training.prefetch import Prefetcher
from stylegan2_cond.training.progress_plot import PROGRESS_FILE
from stylegan2_cond.training.run_logger import PREVIEWS, RunLogger
from stylegan2_cond.training.run_setup import lead_run, load_or_make_plan
from stylegan2_cond.training.stability import broken_weights, detect_failure, rollback_message
from stylegan2_cond.training.state import TrainingState, flush_denormals, set_precision
from stylegan2_cond.training.step import finish_step, take_step

LOG_INTERVAL = 1_000  # images
CHECKPOINT_SECONDS = 120.0
STOPPING = "\nStopping after the current step or evaluation. Press Ctrl-C again to stop at once, without saving.\n"
SNAPSHOTS = 20  # of a whole training
SMALLEST_SNAPSHOT_INTERVAL = 2_000  # images


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the current step; a second one acts at once.

    Args:
        verbose: print a message when asked to stop, since the evaluation of a snapshot may take minutes.
    """

    def __init__(self, verbose: bool = True):
        self.verbose = verbose
        self.received = False

    def __enter__(self) -> StopRequest:
        in_main = threading.current_thread() is threading.main_thread()  # only there may signals be handled
        names = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self._before = {name: signal.signal(name, self._receive) for name in names}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self._before[signal.Signals(number)])
        if self.verbose:
            with contextlib.suppress(OSError):  # print may have been interrupted itself
                os.write(sys.stderr.fileno(), STOPPING.encode())

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)


def train(options: RunOptions) -> Path:
    """Train a generator on the training cases of a fold, or continue an earlier training.

    Args:
        options: what the user asks for; after the first call, `kimg` alone may change.

    Returns:
        The run's folder.

    Raises:
        UserError: bad input, or a run folder of other data or options.
        Stopped: after Ctrl-C or SIGTERM, when all is saved.
    """
    device = open_device(process_device(options.device))
    preprocessed, fold = options.open()
    with flush_denormals(), distributed_context(device) as distributed:
        run = options, preprocessed, fold, device, distributed.size
        with lead_run(*run) if distributed.is_main else contextlib.nullcontext():
            distributed.barrier()
            planned = load_or_make_plan(*run)
            plan = planned.plan
            free = planned.budget if device.type == "cpu" else available_bytes()
            try:
                return _train(plan, preprocessed, fold, device, distributed, cache_bytes(free))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(
                    f"Out of memory at patch {list(plan.patch_size)}, batch size {plan.batch_size} "
                    f"({first_line(error)}). Raise accumulate in plan.json, or start again with --patch-size "
                    f"{smaller_patch_size(plan.patch_size)}"
                ) from error


def _train(
    plan: Plan,
    preprocessed: Preprocessed,
    fold: Fold,
    device: torch.device,
    distributed: DistributedContext,
    cache: int,
) -> Path:
    """Train by a plan; all processes keep `cache` bytes of cases in memory."""
    folder = run_folder(plan.source, plan.variant)
    share = distributed.share(plan.batch_size)
    set_precision(plan)
    state = TrainingState.start(plan, device, distributed)
    resumed = load_checkpoint(folder, state)
    before = state.note_backend()
    if distributed.is_main:
        if not resumed:
            (folder / GOOD_CHECKPOINT_FILE).unlink(missing_ok=True)  # of a training that was abandoned
        write_line(_headline(folder, state, resumed, fold))
        if before:
            write_line(
                f"The ops backend was '{before}' and is '{state.backends[-1]}' from now on: results differ in the last "
                f"digits from those of an uninterrupted training. stylegan2-cond doctor shows the available backends."
            )
    real = open_patches(preprocessed, plan, cache=cache // distributed.size)
    logger = RunLogger(folder, state, preprocessed, real) if distributed.is_main else None
    with Prefetcher(real, plan.batch_size, share, plan.codec) as batches, StopRequest(distributed.is_main) as stop:
        try:
            _run(state, batches, folder, stop, logger)
            if logger:
                logger.log_scores(wait=True)
        finally:
            if logger:
                logger.close()
    if logger:
        write_line(describe_outcome(folder, plan))
    return folder


def _run(state: TrainingState, batches: Prefetcher, folder: Path, stop: StopRequest, logger: RunLogger | None) -> None:
    """Train to the end, or until asked to stop. Only the main process has a logger, and writes files."""
    plan, distributed = state.plan, state.distributed
    total = math.ceil(plan.kimg * 1000 / plan.batch_size) * plan.batch_size
    snapshot_interval = max(SMALLEST_SNAPSHOT_INTERVAL, total // SNAPSHOTS)
    saved_at = time.monotonic()
    with ProgressBar(
        total=total, initial=state.images_seen, unit="img", desc="Training", smoothing=0.05, disable=logger is None
    ) as bar:
        while state.images_seen < total:
            before = state.images_seen
            report = take_step(state, *batches.batch(before))
            scalars = finish_step(state, state.pending) if state.pending else {}  # of the step before
            state.pending = report
            done = state.images_seen >= total
            intervals = (LOG_INTERVAL, snapshot_interval)
            due = done or any(_passed(before, state.images_seen, interval) for interval in intervals)
            if failure := detect_failure(state, scalars, weights=due):
                _roll_back(state, folder, failure, logger)
                bar.n = state.images_seen
                continue
            bar.update(plan.batch_size)
            stopping = distributed.any(stop.received, state.device)
            if logger:
                if scalars:
                    logger.add_step(scalars, bar)
                if done or _passed(before, state.images_seen, snapshot_interval):
                    _require_run(folder)
                    logger.save_snapshot()
                    _require_run(folder)
                    save_checkpoint(folder, state, GOOD_CHECKPOINT_FILE)
                elif _passed(before, state.images_seen, LOG_INTERVAL):
                    _require_run(folder)
                    logger.write()
                late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if (done or stopping or late) and not broken_weights(state):  # which the next step will notice
                    _require_run(folder)
                    save_checkpoint(folder, state)
                    saved_at = time.monotonic()
            if stopping and not done:
                raise Stopped(f"Stopped after {state.images_seen:,} images. Run the same command again to resume.")


def _roll_back(state: TrainingState, folder: Path, failure: str, logger: RunLogger | None) -> None:
    """Return to the newest snapshot's checkpoint, or to the start, with half the learning rate.

    Raises:
        UserError: training was rolled back too often.
    """
    message, rollbacks = rollback_message(failure, state), state.rollbacks + 1
    if not load_checkpoint(folder, state, GOOD_CHECKPOINT_FILE):
        state.load_state_dict(TrainingState.start(state.plan, state.device, state.distributed).state_dict())
    state.note_backend()
    state.apply_rollback(rollbacks)
    if logger:
        _require_run(folder)
        save_checkpoint(folder, state)
        logger.roll_back(message)


def _require_run(folder: Path) -> None:
    """Refuse to write where the run's folder no longer is."""
    if not (folder / PLAN_FILE).exists():
        raise UserError(
            f"{folder} was moved or deleted during training. To continue from its last checkpoint, move it back and "
            f"run the same command again."
        )


def _headline(folder: Path, state: TrainingState, resumed: bool, fold: Fold) -> str:
    plan, source = state.plan, state.plan.source
    target = {"pair": "images and masks", "mask": "masks", "image": "images for given masks"}[plan.variant]
    processes = f", {state.distributed.size} processes" if state.distributed.size > 1 else ""
    lines = [
        f"{source.dataset_name}, {source.configuration}, fold {fold.name}: generating {target}, "
        f"{source.describe_cases()}, patch size {'×'.join(map(str, plan.patch_size))}, "
        f"{plan.codec.image_channels} image and {len(plan.codec.labels)} label channels, "
        f"device {state.device}{processes}",
        f"Ops: {describe_backend(state.device.type)}",
        f"Results: {folder}",
        f"Look at {PROGRESS_FILE} and {PREVIEWS}/ there: a new picture for each snapshot.",
    ]
    if fold.name == "all":
        lines.append("Fold all: the generator sees every case, so that none is left to evaluate its samples with.")
    if resumed:
        lines.append(f"Resuming after {state.images_seen:,} of {plan.kimg * 1000:,.0f} images.")
    elif find_snapshots(folder):
        lines.append("No checkpoint found: training starts from the beginning and replaces the snapshots.")
    return "\n".join(lines)


def describe_outcome(folder: Path, plan: Plan) -> str:
    """The newest snapshot, the best one with its scores, the pictures, and what to type next."""
    if not (snapshots := find_snapshots(folder)):
        return "Training has seen more images than --kimg asks for, and has no snapshot yet. Raise --kimg to continue."
    lines = [f"Snapshot: {snapshots[-1]}"]
    if (best := folder / BEST).exists():
        scores = snapshot_scores(best)
        lines += [f"Best: {best}", *(f"  {text}" for text in (describe_scores(scores), assess_quality(scores)) if text)]
    lines += [f"Progress: {folder / PROGRESS_FILE}", f"Previews: {folder / PREVIEWS}"]
    masks = ("--masks", "generated") if plan.variant == "mask" else ()  # for images of a generator of that variant
    variant = "image" if masks else plan.variant
    lines.append(f"Next: {plan.source.command('nnunet-synth bank', '-n', '1000', *masks, variant=variant)}")
    return "\n".join(lines)


def _passed(before: int, after: int, interval: int) -> bool:
    return before // interval != after // interval
