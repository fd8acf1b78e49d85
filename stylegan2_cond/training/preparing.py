"""A plan made, or read, before training: written to the run's folder, and tried by one real step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stylegan2_cond.data.fingerprint import survey
from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import (
    Plan,
    Source,
    Variant,
    free_bytes,
    make_plan,
    next_smaller,
    run_folder,
    too_large,
    training_bytes,
)
from stylegan2_cond.snapshot import find_snapshots, open_device
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE
from stylegan2_cond.training.profile_step import Trial, try_step
from stylegan2_cond.training.run_lock import lock_run
from stylegan2_cond.training.run_setup import PLAN_FILE, settle_plan

MOST_TRIALS = 6


@dataclass(frozen=True)
class Prepared:
    """A plan that lies in its run's folder, and what training by it takes.

    Attributes:
        path: of `plan.json`.
        trial: of one step.
        budget: bytes that training may take; None where nobody knows.
        made: now; False where it lay there before.
        device: type.
    """

    plan: Plan
    path: Path
    trial: Trial
    budget: int | None
    made: bool
    device: str = "cpu"


def prepare_plan(
    preprocessed: Preprocessed,
    fold_name: str,
    *,
    variant: Variant = "pair",
    patch_size: Sequence[int] | None = None,
    kimg: float | None = None,
    seed: int | None = None,
    device: str = "cpu",
    memory_gb: float | None = None,
    overrides: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Make the plan of a run, if there is none, and take one real step by it.

    The arguments are those of `train`; `overwrite` makes a plan anew, as long as training has not begun.

    Raises:
        UserError: bad input, a plan of other data or settings, or one that does not fit the memory.
    """
    fold, chosen = preprocessed.fold(fold_name), open_device(device)
    folder = run_folder(Source.of(preprocessed, fold), variant)
    budget = free_bytes(chosen) if memory_gb is None else int(memory_gb * 2**30)
    settings = {"variant": variant, "patch_size": patch_size, "kimg": kimg, "seed": seed, "overrides": overrides}
    may_write = folder.exists() and (overwrite or kimg is not None)
    with lock_run(folder) if may_write else contextlib.nullcontext():  # a training that runs there follows its plan
        return _prepare(preprocessed, fold, chosen, budget, settings, overwrite)


def _prepare(
    preprocessed: Preprocessed,
    fold: Fold,
    device: torch.device,
    budget: int | None,
    settings: Mapping[str, object],
    overwrite: bool,
) -> Prepared:
    folder = run_folder(Source.of(preprocessed, fold), settings["variant"])
    if overwrite and _has_begun(folder):
        raise UserError(f"Training has begun in {folder}, by the plan there. Move the folder away to start again.")
    if (folder / PLAN_FILE).exists() and not overwrite:
        plan = _read(preprocessed, fold, folder, settings)
        return Prepared(plan, folder / PLAN_FILE, _try_as_it_is(plan, device), budget, made=False, device=device.type)
    if _has_begun(folder):
        raise UserError(f"{folder} has a checkpoint but no {PLAN_FILE}. Move the folder away to start again.")
    seen = survey(preprocessed, fold.training)
    plan = make_plan(preprocessed, fold, seen, free_bytes=budget, device=device, **settings)
    plan, trial = try_until_it_fits(plan, device, budget)
    plan.save(folder / PLAN_FILE)
    return Prepared(plan, folder / PLAN_FILE, trial, budget, made=True, device=device.type)


def try_until_it_fits(plan: Plan, device: torch.device, budget: int | None) -> tuple[Plan, Trial]:
    """A plan of which one real step fits the budget, in bytes: more parts, then fewer channels, than were estimated.

    Raises:
        UserError: it never did.
    """
    peak = training_bytes(plan, device.type)
    for _ in range(MOST_TRIALS):
        try:
            trial = _try(plan, device)
        except MemoryError:
            peak = training_bytes(plan, device.type)
        else:
            if budget is None or trial.peak_bytes <= budget:
                return plan, trial
            peak = trial.peak_bytes
        if (smaller := next_smaller(plan, device.type)) is None:
            break
        plan = smaller
    raise too_large(plan, peak, peak if budget is None else budget)


def costs(prepared: Prepared) -> str:
    """What training by a plan takes, in words: memory as estimated, measured and to be had, and hours."""
    plan, trial = prepared.plan, prepared.trial
    room = "" if prepared.budget is None else f"; {prepared.budget / 2**30:.3g} GiB may be taken"
    seconds = trial.seconds_per_step / plan.batch_size * 1000
    estimate = training_bytes(plan, prepared.device)
    return (
        f"Memory: {estimate / 2**30:.2g} GiB estimated, {trial.peak_bytes / 2**30:.2g} GiB at the peak of "
        f"one real step{room}.\n"
        f"Time: {_round(seconds)} s for 1,000 images, so {_duration(plan.kimg * seconds)} for all "
        f"{1000 * plan.kimg:,.0f}, without the judging of snapshots."
    )


def _round(number: float) -> str:
    """Two digits, or as many as a whole number has."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{_round(seconds)} s"
    return f"{_round(seconds / 60)} min" if seconds < 7200 else f"{_round(seconds / 3600)} h"


def _read(preprocessed: Preprocessed, fold: Fold, folder: Path, settings: Mapping[str, object]) -> Plan:
    try:
        return settle_plan(preprocessed, fold, **settings)
    except UserError as error:
        if _has_begun(folder):
            raise
        raise UserError(f"{error} Training has not begun: --overwrite makes the plan anew.") from None


def _try_as_it_is(plan: Plan, device: torch.device) -> Trial:
    """A plan that lies there may be someone's own, and is not changed."""
    try:
        return _try(plan, device)
    except MemoryError:
        raise UserError(
            f"One step by this plan runs out of memory on {device}. Make it anew (--overwrite), set accumulate to "
            f"{2 * plan.accumulate} in the file, or choose another device (--device)."
        ) from None


def _try(plan: Plan, device: torch.device) -> Trial:
    parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    print(f"Trying one real step of {plan.batch_size} images{parts} …", file=sys.stderr)
    return try_step(plan, device)


def _has_begun(folder: Path) -> bool:
    return (folder / CHECKPOINT_FILE).exists() or bool(find_snapshots(folder))
