"""Which folder an exported dataset goes to: one begun by the same wish, or a new one under a free id."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from nnunetv2 import paths as nnunet_paths

from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard, Wish
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write

FIRST_ID = 500  # that is given out; public datasets mostly have smaller ones
LAST_ID = 999  # nnU-Net's names have three digits
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_NAME = re.compile(r"Dataset(\d{3})_(.+)")


def find_begun(target: Path, wish: Wish, dataset_id: int | None) -> tuple[Path, DatasetCard] | None:
    """Folder and card of an export with this wish (and id, if one is asked for) in `target`."""
    for path in sorted(target.glob(f"Dataset*_{_ending(wish.made_from)}/{CARD_FILE}")):
        with contextlib.suppress(UserError):  # of another release, or not ours
            card = DatasetCard.load(path)
            if card.wish == wish and dataset_id in (None, _number(path.parent)):
                return path.parent, card
    return None


def new_folder(target: Path, made_from: str, dataset_id: int | None) -> Path:
    """Make the folder of a new dataset, under an id that no dataset has which nnU-Net would find.

    Raises:
        UserError: the id is taken, or none is free, or `target` can't be written to.
    """
    taken = {number: path for path in _datasets(target) if (number := _number(path)) is not None}
    if dataset_id in taken:
        raise UserError(f"Id {dataset_id} is taken by {taken[dataset_id]}. Choose another --id, or leave it out.")
    number = dataset_id or next((n for n in range(FIRST_ID, LAST_ID + 1) if n not in taken), None)
    if number is None:
        raise UserError(f"No id from {FIRST_ID} to {LAST_ID} is free. Choose a smaller one with --id.")
    folder = target / f"Dataset{number:03d}_{_ending(made_from)}"
    with explained_write(folder):
        folder.mkdir(parents=True)
    return folder


def _ending(made_from: str) -> str:
    found = _NAME.fullmatch(made_from)
    return f"{found[2] if found else made_from}Synth"


def _number(folder: Path) -> int | None:
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def _datasets(target: Path) -> list[Path]:
    bases = [target, *(Path(value) for name in _VARIABLES if (value := getattr(nnunet_paths, name).get()))]
    return [path for base in bases if base.is_dir() for path in base.glob("Dataset*")]
