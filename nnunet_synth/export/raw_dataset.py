"""The real cases of a dataset: the files that nnU-Net finds in nnUNet_raw, and the same beside synthetic ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from stylegan2_cond.data.nnunet_dataset import Preprocessed, require_folder
from stylegan2_cond.errors import UserError


@dataclass(frozen=True)
class RealCase:
    """Files of a case; its image is one file for each channel, or one for all."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """What lies in `$nnUNet_raw/DatasetXXX_Name`."""

    dataset_json: dict
    cases: dict[str, RealCase]

    @property
    def ending(self) -> str:
        return self.dataset_json["file_ending"]


def find_raw(preprocessed: Preprocessed, names: Sequence[str]) -> RawDataset:
    """The raw files of these cases.

    Raises:
        UserError: no raw dataset, or a case without files.
    """
    folder = require_folder("nnUNet_raw") / preprocessed.dataset_name
    try:
        dataset_json = json.loads((folder / "dataset.json").read_text())
        found = get_filenames_of_train_images_and_targets(str(folder), deepcopy(dataset_json))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The raw dataset {folder} can't be read ({type(error).__name__}: {error}). New files are made like its "
            f"own. Set nnUNet_raw to where it lies."
        ) from None
    cases = {
        name: RealCase(name, tuple(map(Path, found[name]["images"])), Path(found[name]["label"]))
        for name in names
        if name in found
    }
    whole = {
        case.name for case in cases.values() if case.images and all(p.is_file() for p in (*case.images, case.label))
    }
    if missing := sorted(set(names) - whole):
        raise UserError(
            f"{folder} lacks files of {len(missing)} of {len(names)} cases, the first is {missing[0]}. Put them back, "
            f"or set nnUNet_raw to where they lie."
        )
    return RawDataset(dataset_json, cases)


def put_case(case: RealCase, folder: Path, ending: str, *, link: bool) -> None:
    """Copy or link a case's files to `folder`/imagesTr and labelsTr, by nnU-Net's names.

    `Tiff3DIO` keeps spacings in JSON files beside images and labels; they come along.
    """
    images = [(path, f"{case.name}_{number:04d}{ending}") for number, path in enumerate(case.images)]
    beside = case.images[0].name.removesuffix(ending)[: -len("_0000")]
    images.append((case.images[0].with_name(f"{beside}.json"), f"{case.name}.json"))
    labels = [(case.label, f"{case.name}{ending}"), (case.label.with_suffix(".json"), f"{case.name}.json")]
    for part, files in (("imagesTr", images), ("labelsTr", labels)):
        for source, name in files:
            if not source.is_file():
                continue
            if link:
                os.symlink(source.resolve(), folder / part / name)
            else:
                shutil.copyfile(source, folder / part / name)
