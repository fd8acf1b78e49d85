"""The whole way of one generator: plan, train, judge, show, save; the same command goes on after a stop."""

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
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.ops import describe_backend
from stylegan2_cond.planning import SNAPSHOTS, Plan, RunOptions, run_folder, smaller_patch_size
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.snapshot import find_snapshots, open_device
from stylegan2_cond.training.checkpoint import GOOD_CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from stylegan2_cond.training.distributed import DistributedContext, distributed_context, process_device
from stylegan2_cond.training.prefetch import Prefetcher
from stylegan2_cond.training.profile_step import is_out_of_memory
from stylegan2_cond.training.run_logger import RunLogger
from stylegan2_cond.training.run_setup import PLAN_FILE, lead_run, load_or_make_plan
from stylegan2_cond.training.stability import detect_failure, rollback_message
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import take_step

LOG_INTERVAL = 1_000  # images
CHECKPOINT_SECONDS = 120.0
STOPPING = "\nStopping: waiting for the running step or evaluation, then saving. Once more stops at once, unsaved.\n"
SMALLEST_SNAPSHOT_INTERVAL = 2_000  # images


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the running step; a second one is not held back.

    Args:
        speaks: whether to say so at once, since a snapshot's evaluation may take minutes.
    """

    def __init__(self, speaks: bool = True):
        self.speaks = speaks

    def __enter__(self) -> StopRequest:
        self.wanted = False
        in_main = threading.current_thread() is threading.main_thread()  # only there may signals be taken over
        names = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self._before = {name: signal.signal(name, self._note) for name in names}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(number, self._before[signal.Signals(number)])
        if self.speaks:
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
    with distributed_context(device) as world:
        run = options, preprocessed, fold, device, world.size
        with lead_run(*run) if world.leads else contextlib.nullcontext():
            world.wait()
            plan = load_or_make_plan(*run).plan
            try:
                return _train(plan, preprocessed, fold, device, world)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise _out_of_memory(plan, error) from error
                raise


def _train(plan: Plan, preprocessed: Preprocessed, fold: Fold, device: torch.device, world: DistributedContext) -> Path:
    folder = run_folder(plan.source, plan.variant)
    share = world.share(plan.batch_size)
    set_precision(plan)
    state = TrainingState.start(plan, device, world)
    resumed = load_checkpoint(folder, state)
    before = state.note_backend()
    if world.leads:
        if not resumed:
            (folder / GOOD_CHECKPOINT_FILE).unlink(missing_ok=True)  # of a training that was given up
        write_line(_headline(plan, folder, state, resumed, preprocessed, fold))
        if before:
            write_line(_changed_backend(before, state.backends[-1]))
    real = PatchSampler(
        preprocessed, fold.training, plan.patch_size, foreground_share=plan.foreground_share, seed=plan.seed
    )
    logger = RunLogger(folder, state, preprocessed, real) if world.leads else None
    with Prefetcher(real, plan.batch_size, share) as feed, StopRequest(world.leads) as stop:
        try:
            _run(state, feed, folder, stop, logger)
        finally:
            if logger:
                logger.close()
    return folder


def _run(state: TrainingState, feed: Prefetcher, folder: Path, stop: StopRequest, logger: RunLogger | None) -> None:
    """Train to the end, or until a stop is wanted. Only the process that leads has a logger, and writes."""
    plan, world = state.plan, state.world
    total = math.ceil(plan.kimg * 1000 / plan.batch_size) * plan.batch_size
    snapshot_every = max(SMALLEST_SNAPSHOT_INTERVAL, total // SNAPSHOTS)
    saved_at = time.monotonic()
    with ProgressBar(
        total=total, initial=state.images_seen, unit="img", desc="Training", smoothing=0.05, disable=logger is None
    ) as bar:
        while state.images_seen < total:
            before = state.images_seen
            figures = take_step(state, *feed.batch(before))
            if failure := detect_failure(state, figures):
                _go_back(state, folder, failure, logger)
                bar.n = state.images_seen
                continue
            bar.update(plan.batch_size)
            done = state.images_seen >= total
            stopping = world.agree(stop.wanted, state.device)
            if logger:
                logger.add(figures, bar)
                if done or _passed(before, state.images_seen, snapshot_every):
                    _require_run(folder)
                    logger.snapshot()
                    _require_run(folder)
                    save_checkpoint(folder, state, GOOD_CHECKPOINT_FILE)
                elif _passed(before, state.images_seen, LOG_INTERVAL):
                    _require_run(folder)
                    logger.log()
                if done or stopping or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    _require_run(folder)
                    save_checkpoint(folder, state)
                    saved_at = time.monotonic()
            if stopping and not done:
                raise Stopped(f"Stopped after {state.images_seen:,} images, all saved. The same command goes on.")


def _go_back(state: TrainingState, folder: Path, failure: str, logger: RunLogger | None) -> None:
    """Return to the newest snapshot's checkpoint, or to the start, and go on with half the step.

    Raises:
        UserError: that was done often enough.
    """
    message, rollbacks = rollback_message(failure, state), state.rollbacks + 1
    if not load_checkpoint(folder, state, GOOD_CHECKPOINT_FILE):
        state.load_state_dict(TrainingState.start(state.plan, state.device, state.world).state_dict())
    state.note_backend()
    state.apply_rollback(rollbacks)
    if logger:
        _require_run(folder)
        save_checkpoint(folder, state)
        logger.go_back(message)


def _require_run(folder: Path) -> None:
    """Write nothing where a run's folder was.

    Raises:
        UserError: it is not there any more.
    """
    if not (folder / PLAN_FILE).exists():
        raise UserError(
            f"{folder} was moved or deleted during training. To continue from its last checkpoint, move it back and "
            f"run the same command again."
        )


def _changed_backend(before: str, now: str) -> str:
    return (
        f"The ops were computed by '{before}' so far and are by '{now}' from here on: the numbers will differ in "
        f"their last digits from those of a training without a stop. stylegan2-cond doctor shows what is available."
    )


def _headline(
    plan: Plan, folder: Path, state: TrainingState, resumed: bool, preprocessed: Preprocessed, fold: Fold
) -> str:
    draws = {"pair": "image and mask", "mask": "masks", "image": "images for given masks"}[plan.variant]
    lines = [
        f"{preprocessed.dataset_name}, {preprocessed.configuration_name}, fold {fold.name}: "
        f"{len(fold.training)} training cases, drawing {draws}, patch {'×'.join(map(str, plan.patch_size))}, "
        f"{plan.codec.image_channels} image and {len(plan.codec.labels)} label channels, device {state.device}"
        + (f", {state.world.size} processes" if state.world.size > 1 else ""),
        f"Ops: {describe_backend(state.device.type)}",
        f"Results: {folder}",
    ]
    if fold.name == "all":
        lines.append("Fold all: the generator sees every case. No case is left to judge its pairs by.")
    if resumed:
        lines.append(f"Going on after {state.images_seen:,} of {plan.kimg * 1000:,.0f} images.")
    elif find_snapshots(folder):
        lines.append("No checkpoint found: training starts anew and replaces the snapshots.")
    return "\n".join(lines)


def _out_of_memory(plan: Plan, error: BaseException) -> UserError:
    return UserError(
        f"Out of memory at patch {list(plan.patch_size)}, batch {plan.batch_size} ({_first_line(error)}). Raise "
        f"accumulate in plan.json, or start again with --patch-size {smaller_patch_size(plan.patch_size)}"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _passed(before: int, after: int, interval: int) -> bool:
    return before // interval != after // interval
