"""Real cases of a raw dataset: the files that nnU-Net finds in nnUNet_raw."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from stylegan2_cond.data.nnunet_folders import require_folder
from stylegan2_cond.errors import UserError


@dataclass(frozen=True)
class RawCase:
    """Files of a case; the image is one file per channel, or one for all channels."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """Content of `$nnUNet_raw/DatasetXXX_Name`; `cases` by name."""

    dataset_json: dict
    cases: dict[str, RawCase]

    @property
    def ending(self) -> str:
        """Of all image and label files, such as .nii.gz."""
        return self.dataset_json["file_ending"]


def find_raw_dataset(dataset_name: str, names: Sequence[str] | None = None) -> RawDataset:
    """The raw files of these cases; of the first one if `names` is None.

    Raises:
        UserError: there is no raw dataset, or files of a case are missing.
    """
    folder = require_folder("nnUNet_raw") / dataset_name
    try:
        dataset_json = json.loads((folder / "dataset.json").read_text())
        found = get_filenames_of_train_images_and_targets(str(folder), deepcopy(dataset_json))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The raw dataset {folder} can't be read ({type(error).__name__}: {error}). Its files are the model for "
            f"new ones. Set nnUNet_raw to the folder that holds it."
        ) from None
    names = sorted(found)[:1] if names is None else names
    cases = {
        name: RawCase(name, tuple(map(Path, found[name]["images"])), Path(found[name]["label"]))
        for name in names
        if name in found
    }
    complete = {
        case.name for case in cases.values() if case.images and all(p.is_file() for p in (*case.images, case.label))
    }
    if missing := sorted(set(names) - complete):
        raise UserError(
            f"{folder} lacks files of {len(missing)} of {len(names)} cases, the first is {missing[0]}. Restore them, "
            f"or set nnUNet_raw to the folder that holds them."
        )
    return RawDataset(dataset_json, cases)


def copy_case(case: RawCase, folder: Path, ending: str, *, link: bool) -> None:
    """Copy or link a case's files to `folder`/imagesTr and labelsTr, with nnU-Net's names.

    This includes the JSON files in which `Tiff3DIO` keeps the spacing of images and labels.
    """
    images = [(path, f"{case.name}_{number:04d}{ending}") for number, path in enumerate(case.images)]
    stem = case.images[0].name.removesuffix(ending)[: -len("_0000")]
    images.append((case.images[0].with_name(f"{stem}.json"), f"{case.name}.json"))
    labels = [(case.label, f"{case.name}{ending}"), (case.label.with_suffix(".json"), f"{case.name}.json")]
    for part, files in (("imagesTr", images), ("labelsTr", labels)):
        for source, name in files:
            if source.is_file() and link:
                os.symlink(source.resolve(), folder / part / name)
            elif source.is_file():
                shutil.copyfile(source, folder / part / name)
