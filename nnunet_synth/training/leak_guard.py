"""Refuses banks whose generator, teacher or masks saw a validation case, or that hold one.

Cases are compared by name and by the voxels of their images. This prevents accidents; it does not protect against
deliberate edits of the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_synth.bank.format import BankDescription, BankRecord, Generators, Scans
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class LeakError(UserError):
    """The bank must not be used for this training."""


def refuse_leaks(folder: Path, record: BankRecord, here: Source, validation: Mapping[str, str]) -> None:
    """Accept a bank that was made from this data, and that holds nothing of a validation case.

    Args:
        folder: of the bank, for messages.
        record: of the bank.
        here: dataset, preprocessing, fold and training cases of the training that would use it.
        validation: SHA-256 of the image of each validation case, by the case's name.

    Raises:
        LeakError: the bank does not fit; with the commands that make one that does.
    """
    place = f"{here.dataset_name} {here.configuration} {here.fold}"
    scans = isinstance(record.origin, Scans)
    remedy = "Make one for this fold: " + (
        f"nnunet-synth pseudo-label {place} -i FOLDER"
        if scans
        else f"stylegan2-cond train {place}, then nnunet-synth bank {place} -n {record.requested}"
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
    if seen := seen_in_bank(record, validation):
        masks = isinstance(record.origin, Generators) and record.origin.mask_scans
        maker = "has masks, or a generator, that saw" if masks else "comes from a generator that saw"
        maker = "holds, or has a teacher that saw," if scans else maker
        raise LeakError(
            f"Bank {folder} (fold {made.fold}) {maker} {len(seen)} of the {len(validation)} validation cases of fold "
            f"{here.fold}, {seen[0]} among them, so validation scores would be meaningless. {remedy}"
        )
    if seen := _seen(here.cases(), validation):
        raise LeakError(
            f"{len(seen)} of the {len(validation)} validation cases of fold {here.fold} are also training cases, "
            f"{seen[0]} among them, so validation scores would be meaningless. Correct splits_final.json."
        )


def seen_in_bank(bank: BankDescription, validation: Mapping[str, str]) -> list[str]:
    """The validation cases that a bank's generators or teachers saw, or that are among its scans or those of its masks.

    Args:
        bank: the bank, or its provenance.
        validation: SHA-256 of the image of each validation case, by the case's name.

    Returns:
        Names, with the names of cases of the same image. Scans that the bank declares as evaluation cases, and those
        that were refused, are left out.
    """
    cases = bank.source.cases()
    if isinstance(bank.origin, Scans):
        declared = bank.origin.evaluation_scans
        held = [scan for scan in bank.origin.scans if not scan.refused and scan.name not in declared]
        cases += [(scan.name, scan.image_sha256) for scan in held]
    elif isinstance(bank.origin, Generators) and bank.origin.mask_scans:
        cases += [(scan.name, scan.image_sha256) for scan in bank.origin.mask_scans.scans]
    return _seen(cases, validation)


def _seen(cases: Sequence[tuple[str, str]], validation: Mapping[str, str]) -> list[str]:
    """Describe the validation cases that are among `cases`, names and SHA-256, by name or by image."""
    names, images = {name for name, _ in cases}, {image: name for name, image in cases}
    return [
        name if name in names else f"{name} (which has the same image as {images[image]})"
        for name, image in sorted(validation.items())
        if name in names or image in images
    ]
