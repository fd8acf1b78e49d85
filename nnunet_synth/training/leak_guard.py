"""Who has seen which case: a bank may only be used where every validation case is new to its generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.preprocessed import FOLD_ALL
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class LeakError(UserError):
    """A bank that must not be used for this training."""


def refuse_leaks(folder: Path, record: BankRecord, here: Source, validation_cases: Sequence[str]) -> None:
    """Let a bank pass that belongs to this data, and whose generator saw no validation case.

    Args:
        folder: of the bank, for the message.
        record: of the bank.
        here: dataset, preprocessing, fold and training cases of the training that wants to use it.
        validation_cases: names of the cases that are to stay unseen.

    Raises:
        LeakError: what is wrong, and the commands that make a bank that fits.
    """
    remedy = (
        f"Make one for this fold: stylegan2-cond train {here.dataset_name} {here.configuration} {here.fold}, then "
        f"nnunet-synth bank {here.dataset_name} {here.configuration} {here.fold} -n {record.samples}"
    )
    made = record.source
    if made.dataset_name != here.dataset_name:
        raise LeakError(f"Bank {folder} is of {made.dataset_name}, this training of {here.dataset_name}. {remedy}")
    if made.preprocessing != here.preprocessing or made.data_identifier != here.data_identifier:
        raise LeakError(
            f"Bank {folder} was made from other preprocessing ({made.plans_name}, {made.configuration}) than this "
            f"training's ({here.plans_name}, {here.configuration}): its intensities mean something else. {remedy}"
        )
    if here.fold == FOLD_ALL:
        return
    if seen := sorted(set(made.training_cases) & set(validation_cases)):
        raise LeakError(
            f"Bank {folder} (fold {made.fold}) was drawn by a generator that saw {len(seen)} of the "
            f"{len(validation_cases)} validation cases of fold {here.fold}, {seen[0]} among them; validation would be "
            f"worth nothing. {remedy}"
        )
