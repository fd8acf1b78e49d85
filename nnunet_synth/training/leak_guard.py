"""Who has seen which case: a bank may only be used where every validation case is new to its generator.

Cases are known by their names and by the voxels of their images. This guards against accidents, not against someone
who edits the records on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.preprocessed import FOLD_ALL
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class LeakError(UserError):
    """A bank that must not be used for this training."""


def refuse_leaks(folder: Path, record: BankRecord, here: Source, validation: Mapping[str, str]) -> None:
    """Let a bank pass that belongs to this data, and whose generator saw no validation case.

    Args:
        folder: of the bank, for the message.
        record: of the bank.
        here: dataset, preprocessing, fold and training cases of the training that wants to use it.
        validation: SHA-256 of the image of each case that is to stay unseen, by the case's name.

    Raises:
        LeakError: what is wrong, and the commands that make a bank that fits.
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
            f"training's ({here.plans_name}, {here.configuration}): its intensities mean something else. {remedy}"
        )
    if here.fold == FOLD_ALL:
        return
    by_image = dict(zip(made.training_sha256, made.training_cases, strict=True))
    seen = {
        name: name if name in made.training_cases else by_image[image]
        for name, image in sorted(validation.items())
        if name in made.training_cases or image in by_image
    }
    if seen:
        case, known_as = next(iter(seen.items()))
        same = "" if case == known_as else f" (it has the same image as {known_as}, which the generator learnt from)"
        raise LeakError(
            f"Bank {folder} (fold {made.fold}) was drawn by a generator that saw {len(seen)} of the "
            f"{len(validation)} validation cases of fold {here.fold}, {case} among them{same}; validation would be "
            f"worth nothing. {remedy}"
        )
