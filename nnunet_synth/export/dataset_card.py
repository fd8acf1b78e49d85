"""`synthetic.json` of an exported dataset: which cases are synthetic, and where they come from."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import ClassVar, NamedTuple

from nnunetv2 import paths as nnunet_paths

from nnunet_synth.bank.provenance import BankProvenance
from nnunet_synth.export.intensities import ChannelInverse
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document, explained_write

CARD_FILE = "synthetic.json"
FIRST_ID = 500  # of new datasets; public ones mostly have smaller ids
LAST_ID = 999  # nnU-Net's names have three digits
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_NAME = re.compile(r"Dataset(\d{3})_(.+)")


class ExportSpec(NamedTuple):
    """What determines the files of an export; an unfinished export with the same specification is continued."""

    made_from: str
    record_sha256: str
    samples_per_case: int
    real: int
    links: bool


class DatasetCard(Document):
    """Written first, so that an interrupted export can be continued, and again at the end.

    Attributes:
        dataset: name of this folder.
        made_from: the dataset that cases and plans come from.
        bank: provenance of the samples.
        channels: how intensities were converted back.
        stored_as: type of the values in synthetic image files.
        spacing: of the voxels of synthetic images, in mm, with the axes of nnU-Net's reader.
        samples_per_case: above 1 where slices are stacked into volumes.
        synthetic: names of the synthetic cases.
        real, links: number of real cases, and whether they are links.
        clipped: per channel, the fraction of values outside the range of the files.
        complete: whether everything is written.
    """

    remedy: ClassVar[str] = "Delete the dataset's folder and export it again: nnunet-synth export-dataset …"
    format_version: int = 4
    dataset: str
    made_from: str
    bank: BankProvenance
    channels: tuple[ChannelInverse, ...]
    stored_as: str
    spacing: tuple[float, ...]
    samples_per_case: int
    synthetic: tuple[str, ...]
    real: int
    links: bool
    clipped: tuple[float, ...] = ()
    complete: bool = False
    release: str

    @property
    def spec(self) -> ExportSpec:
        """The specification of this export."""
        return ExportSpec(self.made_from, self.bank.record_sha256, self.samples_per_case, self.real, self.links)


def find_unfinished(target: Path, spec: ExportSpec, dataset_id: int | None) -> tuple[Path, DatasetCard] | None:
    """Folder and card of an export in `target` with this specification, and this id unless it is None."""
    for path in sorted(target.glob(f"Dataset*_{_new_name(spec.made_from)}/{CARD_FILE}")):
        with contextlib.suppress(UserError):  # another release's file, or not ours
            card = DatasetCard.load(path)
            if card.spec == spec and dataset_id in (None, _id_of(path.parent)):
                return path.parent, card
    return None


def make_folder(target: Path, made_from: str, dataset_id: int | None) -> Path:
    """Create the folder of a new dataset, with an id that no other dataset of nnU-Net's folders has.

    Raises:
        UserError: the id is taken, no id is free, or `target` is not writable.
    """
    bases = [target, *(Path(value) for name in _VARIABLES if (value := getattr(nnunet_paths, name).get()))]
    taken = {_id_of(path): path for base in bases if base.is_dir() for path in base.glob("Dataset*")}
    if dataset_id is not None and dataset_id in taken:
        raise UserError(f"Id {dataset_id} is taken by {taken[dataset_id]}. Choose another --id, or leave it out.")
    number = dataset_id or next((n for n in range(FIRST_ID, LAST_ID + 1) if n not in taken), None)
    if number is None:
        raise UserError(f"No id from {FIRST_ID} to {LAST_ID} is free. Choose a smaller one with --id.")
    folder = target / f"Dataset{number:03d}_{_new_name(made_from)}"
    with explained_write(folder):
        folder.mkdir(parents=True)
    return folder


def _new_name(made_from: str) -> str:
    found = _NAME.fullmatch(made_from)
    return f"{found[2] if found else made_from}Synth"


def _id_of(folder: Path) -> int | None:
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else None
