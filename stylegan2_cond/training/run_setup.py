"""Which plan a run folder is trained by: the one that lies there, or a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from stylegan2_cond.data.fingerprint import survey
from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, Source, Variant, check_kimg, make_plan, run_folder
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE

PLAN_FILE = "plan.json"


def settle_plan(
    preprocessed: Preprocessed,
    fold: Fold,
    *,
    variant: Variant = "pair",
    patch_size: Sequence[int] | None = None,
    kimg: float | None = None,
    seed: int | None = None,
    free_bytes: int | None = None,
    overrides: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> Plan:
    """The plan of the run folder, made if there is none; only the length of training may change later.

    Raises:
        UserError: the folder's plan was made of other data or settings, or a setting is wrong.
    """
    check_kimg(kimg)
    folder = run_folder(Source.of(preprocessed, fold), variant)
    path = folder / PLAN_FILE
    if not path.exists():
        if (folder / CHECKPOINT_FILE).exists():
            raise UserError(f"{folder} has a checkpoint but no plan.json. Move the folder away to start again.")
        plan = make_plan(
            preprocessed,
            fold,
            survey(preprocessed, fold.training),
            variant=variant,
            patch_size=patch_size,
            kimg=kimg,
            seed=seed,
            free_bytes=free_bytes,
            overrides=overrides,
            device=device,
            processes=processes,
        )
        plan.save(path)
        return plan
    plan = Plan.load(path)
    asked = {"source": Source.of(preprocessed, fold), "variant": variant, "seed": seed, "patch_size": patch_size}
    given = {key: value for key, value in asked.items() if value is not None}
    _refuse_others(plan, path, given | dict(overrides or {}))  # None is a value that some keys can have
    if kimg is not None and kimg != plan.kimg:
        plan = plan.model_copy(update={"kimg": kimg})
        plan.save(path)
    return plan


def _refuse_others(plan: Plan, path: Path, wanted: Mapping[str, object]) -> None:
    for key, value in wanted.items():
        there = getattr(plan, key)
        if _plain(value) != _plain(there):
            raise UserError(
                f"{path} was made with another {key}"
                + (f": {there}, not {value}" if key != "source" else " (cases or preprocessing changed)")
                + f". Move the folder {path.parent} away to start again, or leave out the option to go on."
            )


def _plain(value: object) -> object:
    """Tuples and lists alike, since JSON knows lists only."""
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value
