"""Writes trained models as the zip of `nnUNetv2_export_model_to_zip`, for challenges that take it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.model_sharing.model_export import export_pretrained_model

from nnunet_synth.export.model import export_model
from nnunet_synth.export.model_card import ModelCard
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder, scratch_folder
from stylegan2_cond.io import explained_write

_VARIABLE = "nnUNet_results"  # from which nnU-Net takes the models


def export_zip(folders: Sequence[Path], target: Path) -> list[ModelCard]:
    """Write models of one trainer, plans and set of folds to the new file `target`; returns their cards.

    Raises:
        UserError: a folder is not a trained model or lacks files that nnU-Net's zip needs, the models differ in
            trainer, plans or folds, or `target` exists.
    """
    if target.exists():
        raise UserError(f"{target} exists. Choose another file with -o, or delete it.")
    lock = lock_folder(target, inside=False)
    with lock, explained_write(target), scratch_folder(target.parent, f".{target.name}_") as scratch:
        exported = [export_model(folder, scratch / "results") for folder in folders]
        if missing := [
            f"{folder}/{name}" for folder, one in zip(folders, exported, strict=True) for name in one.missing
        ]:
            raise UserError(
                f"nnU-Net's zip needs {', '.join(missing)}. Finish training: nnUNetv2_train … --c, or --val for the "
                f"validation alone."
            )
        cards = [one.card for one in exported]
        first = cards[0]
        if len({(card.dataset_name, card.trainer, card.plans_name, *card.folds) for card in cards}) > 1:
            raise UserError(
                "nnU-Net's zip holds models of one dataset, trainer, plans and set of folds, but these differ. Export "
                "each to a zip of its own."
            )
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = str(scratch / "results")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                export_pretrained_model(
                    first.dataset_name,
                    str(scratch / "model.zip"),
                    configurations=tuple(card.configuration for card in cards),
                    trainer=first.trainer,
                    plans_identifier=first.plans_name,
                    folds=tuple(first.folds),
                )
        finally:
            os.environ.pop(_VARIABLE)
            os.environ |= {} if before is None else {_VARIABLE: before}
        (scratch / "model.zip").rename(target)
    return cards
