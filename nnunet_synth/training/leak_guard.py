"""Refuses banks whose generator saw a validation case.

Cases are compared by name and by the voxels of their images. This prevents accidents; it does not protect against
deliberate edits of the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class LeakError(UserError):
    """The bank must not be used for this training."""


def refuse_leaks(folder: Path, record: BankRecord, here: Source, validation: Mapping[str, str]) -> None:
    """Accept a bank that was made from this data by a generator that saw no validation case.

    Args:
        folder: of the bank, for messages.
        record: of the bank.
        here: dataset, preprocessing, fold and training cases of the training that would use it.
        validation: SHA-256 of the image of each validation case, by the case's name.

    Raises:
        LeakError: the bank does not fit; with the commands that make one that does.
    """
    remedy = (
        f"Make one for this fold: stylegan2-cond train {here.dataset_name} {here.configuration} {here.fold}, then "
        f"nnunet-synth bank {here.dataset_name} {here.configuration} {here.fold} -n {record.requested}"
    )
    made = record.source
    if made.dataset_name != here.dataset_name:
        raise LeakError(f"Bank {folder} is of {made.dataset_name}, this training of {here.dataset_name}. {remedy}")
    if made.preprocessing != here.preprocessing or made.data_identifier != here.data_identifier:
        raise LeakError(
            f"Bank {folder} was made from other preprocessing ({made.plans_name}, {made.configuration}) than this "
            f"training's ({here.plans_name}, {here.configuration}), so its intensities differ. {remedy}"
        )
    if here.fold == FOLD_ALL:
        return
    if seen := _seen(made, validation):
        raise LeakError(
            f"Bank {folder} (fold {made.fold}) comes from a generator that saw {len(seen)} of the {len(validation)} "
            f"validation cases of fold {here.fold}, {seen[0]} among them, so validation scores would be meaningless. "
            f"{remedy}"
        )
    if seen := _seen(here, validation):
        raise LeakError(
            f"{len(seen)} of the {len(validation)} validation cases of fold {here.fold} are also training cases, "
            f"{seen[0]} among them, so validation scores would be meaningless. Correct splits_final.json."
        )


def _seen(source: Source, validation: Mapping[str, str]) -> list[str]:
    """Describe the validation cases that are also training cases of `source`, by name or by image."""
    by_image = dict(zip(source.training_sha256, source.training_cases, strict=True))
    return [
        name if name in source.training_cases else f"{name} (which has the same image as {by_image[image]})"
        for name, image in sorted(validation.items())
        if name in source.training_cases or image in by_image
    ]
