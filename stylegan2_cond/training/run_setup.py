"""The plan of a run: the one in its folder, or a new one for which one training step is measured."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import PLAN_FILE
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import keep_log, lock_folder
from stylegan2_cond.memory import free_bytes
from stylegan2_cond.planning import (
    Plan,
    RunOptions,
    Source,
    make_plan,
    next_smaller,
    run_folder,
    too_large,
    training_bytes,
)
from stylegan2_cond.planning.heuristics import CUDA_KIMG, choose_length, default_hours
from stylegan2_cond.planning.plan import MAX_KIMG
from stylegan2_cond.progress_bar import write_line
from stylegan2_cond.snapshot import find_snapshots, open_device
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE
from stylegan2_cond.training.profile_step import StepCost, measure_step

MAX_ATTEMPTS = 12


@dataclass(frozen=True)
class PlannedRun:
    """A plan in its run's folder.

    Attributes:
        path: of `plan.json`.
        is_new: whether the plan was made now; else it was already in the folder.
        budget: memory that training may take, in bytes; None if unknown.
        cost: of one training step; None if it was not measured.
    """

    plan: Plan
    path: Path
    is_new: bool
    budget: int | None
    cost: StepCost | None = None


def plan_run(options: RunOptions, *, overwrite: bool = False) -> PlannedRun:
    """Load or make the plan of a run, and measure one training step.

    Args:
        options: what the user asks for.
        overwrite: make a new plan, as long as training has not begun.

    Raises:
        UserError: bad input, a plan of other data or options, or one that does not fit the memory.
    """
    preprocessed, fold = options.open()
    device = open_device(options.device)
    folder = _folder(options, preprocessed, fold)
    may_write = folder.exists() and (overwrite or options.kimg is not None)
    with lock_folder(folder) if may_write else contextlib.nullcontext():  # a running training follows its plan
        found = load_or_make_plan(options, preprocessed, fold, device, overwrite=overwrite)
        if found.cost:
            return found
        try:
            return replace(found, cost=_measure(found.plan, device))
        except MemoryError:  # the plan may have been edited, and is not changed
            raise UserError(
                f"One step by this plan runs out of memory on {device}. Make a new one (--overwrite), set accumulate "
                f"to {2 * found.plan.accumulate} in the file, or choose another device (--device)."
            ) from None


@contextlib.contextmanager
def lead_run(
    options: RunOptions, preprocessed: Preprocessed, fold: Fold, device: torch.device, processes: int
) -> Iterator[None]:
    """Make sure that a plan is in the run's folder, lock the folder, and keep its log."""
    folder = _folder(options, preprocessed, fold)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):  # said before a minute of planning
        raise UserError(f"No permission to write {existing}. Set nnUNet_results to a folder that you may write to.")
    if not folder.exists():
        load_or_make_plan(options, preprocessed, fold, device, processes)  # without a plan, no folder is left
    with lock_folder(folder), keep_log(folder):
        load_or_make_plan(options, preprocessed, fold, device, processes)
        yield


def load_or_make_plan(
    options: RunOptions,
    preprocessed: Preprocessed,
    fold: Fold,
    device: torch.device,
    processes: int = 1,
    *,
    overwrite: bool = False,
) -> PlannedRun:
    """The plan in the run's folder, of which `kimg` alone may change, or a new one for which a step fits the memory.

    Raises:
        UserError: the folder's plan was made of other data or options, or no plan fits.
    """
    scans = _scans(options, preprocessed, fold)
    source = Source.of(preprocessed, fold, scans)
    folder = run_folder(source, options.variant)
    path, has_begun = folder / PLAN_FILE, (folder / CHECKPOINT_FILE).exists() or bool(find_snapshots(folder))
    budget = free_bytes(device) if options.memory_gb is None else int(options.memory_gb * 2**30)
    if overwrite and has_begun:
        raise UserError(f"Training by the plan in {folder} has begun. Move the folder away to start again.")
    if path.exists() and not overwrite:
        try:
            plan = _load(path, options, source)
            _check_graphs(plan, device, processes)
            return PlannedRun(plan, path, False, budget)
        except UserError as error:
            hint = "" if has_begun else " Training has not begun: stylegan2-cond plan … --overwrite makes a new plan."
            raise UserError(f"{error}{hint}") from None
    if has_begun:
        raise UserError(f"{folder} has a checkpoint but no {PLAN_FILE}. Move the folder away to start again.")
    plan = make_plan(options, preprocessed, fold, scans, budget=budget, processes=processes)
    _check_graphs(plan, device, processes)
    plan, cost = measure_until_it_fits(plan, device, budget, processes)
    if options.kimg is None:
        hours, seconds = options.hours or default_hours(device), cost.seconds_per_step / plan.batch_size * 1000
        if hours is not None:
            length = choose_length(hours, seconds, most=CUDA_KIMG if options.hours is None else MAX_KIMG)
            reasons = plan.reasons | {"kimg": length.reason}
            plan = plan.model_copy(update={"kimg": length.value, "hours": options.hours, "reasons": reasons})
    plan.save(path)
    return PlannedRun(plan, path, True, budget, cost)


def _scans(options: RunOptions, preprocessed: Preprocessed, fold: Fold) -> ScanBank | None:
    return None if options.with_bank is None else ScanBank.open(preprocessed, fold, options.with_bank)


def _folder(options: RunOptions, preprocessed: Preprocessed, fold: Fold) -> Path:
    return run_folder(Source.of(preprocessed, fold, _scans(options, preprocessed, fold)), options.variant)


def _load(path: Path, options: RunOptions, source: Source) -> Plan:
    plan = Plan.load(path)
    requested = {key: getattr(options, key) for key in ("variant", "hours", "seed", "patch_size", "trust_masks")}
    given = {key: value for key, value in requested.items() if value is not None} | dict(options.overrides)
    changed = [key for key, value in given.items() if _plain(value) != _plain(getattr(plan, key))]
    if source != plan.source:
        raise UserError(
            f"{path} was made with another source (cases, scans or preprocessing changed). Move the folder "
            f"{path.parent} away to start again."
        )
    if changed:
        key = changed[0]
        raise UserError(
            f"{path} was made with another {key}: {getattr(plan, key)}, not {given[key]}. Leave out the option to "
            f"continue, or move the folder {path.parent} away to start again."
        )
    if options.kimg is not None and options.kimg != plan.kimg:
        plan = plan.model_copy(update={"kimg": options.kimg, "hours": None})
        plan.save(path)
    return plan


def _check_graphs(plan: Plan, device: torch.device, processes: int) -> None:
    if plan.cuda_graphs and (device.type != "cuda" or processes > 1):
        where = f"in {processes} processes" if device.type == "cuda" else f"on the device {device}"
        raise UserError(
            f"cuda_graphs works in one process on a GPU, not {where}. Leave out --set cuda_graphs=true, or set "
            f"cuda_graphs to false in {PLAN_FILE}."
        )


def _plain(value: object) -> object:
    """Tuples and lists alike, since JSON knows lists only."""
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def measure_until_it_fits(
    plan: Plan, device: torch.device, budget: int | None, processes: int = 1
) -> tuple[Plan, StepCost]:
    """A plan for which one step fits the budget, in bytes, with more parts, then fewer channels, as needed.

    Of several processes, each takes a share of the batch, and on a CPU a share of the budget.

    Raises:
        UserError: none fits.
    """
    share = plan.model_copy(update={"batch_size": -(-plan.batch_size // processes)})
    if budget is not None and device.type == "cpu":
        budget //= processes
    for _ in range(MAX_ATTEMPTS):
        peak = training_bytes(share, device.type)
        with contextlib.suppress(MemoryError):
            cost = _measure(share, device)
            if budget is None or cost.peak_bytes <= budget:
                return share.model_copy(update={"batch_size": plan.batch_size}), cost
            peak = cost.peak_bytes
        if (smaller := next_smaller(share, device.type)) is None:
            break
        share = smaller
    raise too_large(share, peak, peak if budget is None else budget)


def _measure(plan: Plan, device: torch.device) -> StepCost:
    parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    write_line(f"Measuring one training step of {plan.batch_size} images{parts} …", sys.stderr)
    return measure_step(plan, device)


def describe_costs(found: PlannedRun) -> str:
    """Memory as measured and available, and the duration of training, in words."""
    plan, cost = found.plan, found.cost
    room = "" if found.budget is None else f"; {found.budget / 2**30:.3g} GiB are available"
    seconds = cost.seconds_per_step / plan.batch_size * 1000
    total = plan.kimg * seconds
    unit, length = ("s", 1) if total < 120 else ("min", 60) if total < 7200 else ("h", 3600)
    return (
        f"Memory: {cost.peak_bytes / 2**30:.2g} GiB at the peak of one step{room}.\n"
        f"Time: {_two_digits(seconds)} s for 1,000 images, so {_two_digits(total / length)} {unit} for all "
        f"{1000 * plan.kimg:,.0f}, without the evaluation of snapshots."
    )


def _two_digits(number: float) -> str:
    """Two digits, or as many as a whole number has."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
