"""nnU-Net's preprocessed datasets: folds and cases, read by nnunetv2's own classes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from nnunetv2 import paths as nnunet_paths
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from stylegan2_cond.data.nnunet_files import check_configuration, open_plans
from stylegan2_cond.data.nnunet_folders import find_dataset, preprocess_command, require_folder
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json, write_atomically

# What determines the values of preprocessed voxels; two plans that agree in these can share cases.
_CONFIGURATION_KEYS = (
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
_PLANS_KEYS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")

OUTSIDE = -1  # nnU-Net's label for voxels outside of the (non-zero) image
FOLD_ALL = "all"


@dataclass(frozen=True)
class Fold:
    """The training and validation cases of a fold; all cases in both for fold `all`."""

    name: str
    training: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A preprocessed case: image `[C, z, y, x]` float32, label `[1, z, y, x]` integers, and voxels of each class.

    The arrays may be memory-mapped; slicing them gives numpy arrays. A 2-D dataset has z = 1. A scan is not
    `labelled`: its label is a pseudo-label.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    class_locations: Mapping[int | tuple[int, ...], np.ndarray]
    labelled: bool = True


class CaseLoader(Protocol):
    """What patches are cut from."""

    def load(self, name: str) -> Case:
        """Open one case.

        Raises:
            UserError: it cannot be read.
        """

    def unreadable(self, name: str, error: Exception) -> UserError:
        """What to raise if a case cannot be read, or not to its end."""


@dataclass(frozen=True)
class Preprocessed:
    """One configuration of one dataset, as nnU-Net preprocessed it."""

    dataset_name: str
    plans_manager: PlansManager
    configuration_name: str
    dataset_json: dict

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names in dataset.json, in the order of the channels."""
        names = self.dataset_json.get("channel_names") or self.dataset_json.get("modality") or {}
        return tuple(str(names[key]) for key in sorted(names, key=int))

    @property
    def plans_name(self) -> str:
        """Name of nnU-Net's plans."""
        return self.plans_manager.plans_name

    @cached_property
    def configuration(self) -> ConfigurationManager:
        """nnU-Net's configuration."""
        return self.plans_manager.get_configuration(self.configuration_name)

    @cached_property
    def label_manager(self) -> LabelManager:
        """nnU-Net's labels and regions."""
        return self.plans_manager.get_label_manager(self.dataset_json)

    @property
    def base(self) -> Path:
        """`$nnUNet_preprocessed/DatasetXXX_Name`."""
        return Path(nnunet_paths.nnUNet_preprocessed) / self.dataset_name

    @property
    def folder(self) -> Path:
        """The folder with the cases of this configuration."""
        return self.base / self.configuration.data_identifier

    @property
    def patch_size(self) -> tuple[int, ...]:
        """nnU-Net's patch size, in voxels."""
        return tuple(int(length) for length in self.configuration.patch_size)

    @cached_property
    def dataset_class(self) -> type:
        """nnU-Net's reader for the folder's format (`.b2nd` or `.npz`)."""
        return infer_dataset_class(str(self.folder))

    @cached_property
    def _dataset(self) -> nnUNetBaseDataset:
        """nnU-Net's dataset; it looks for no cases until one is loaded."""
        return self.dataset_class(str(self.folder), [])

    @property
    def preprocessing_hash(self) -> str:
        """SHA-256 of everything in the plans that determines the values of preprocessed voxels, and of the labels."""
        relevant = {key: self.configuration.configuration.get(key) for key in _CONFIGURATION_KEYS}
        relevant |= {key: self.plans_manager.plans.get(key) for key in _PLANS_KEYS}
        relevant |= {key: self.dataset_json.get(key) for key in ("labels", "channel_names", "modality")}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()

    def case_names(self) -> list[str]:
        """All cases of the folder, sorted."""
        return sorted(self.dataset_class.get_identifiers(str(self.folder)))

    def case_of(self, file: str) -> str:
        """The case to which a raw file or a prediction of nnU-Net belongs, by its name."""
        return Path(file).name.removesuffix(self.dataset_json["file_ending"])

    def load(self, name: str) -> Case:
        """Open one case.

        Raises:
            UserError: the case is in the split but not in the folder, or its files cannot be read.
        """
        try:
            image, label, _, properties = self._dataset.load_case(name)
            return Case(name, image, label, properties["class_locations"])
        except Exception as error:
            raise self.unreadable(name, error) from error

    def unreadable(self, name: str, error: Exception) -> UserError:
        """What to raise if a case cannot be read, or not to its end."""
        return UserError(
            f"Case {name} of {self.folder} cannot be read ({type(error).__name__}: {error}). Preprocess it again: "
            f"{self.preprocess_command}"
        )

    @property
    def preprocess_command(self) -> str:
        """The nnU-Net command that preprocesses this configuration."""
        return preprocess_command(self.dataset_name, self.configuration_name, self.plans_name)

    def fold(self, fold: int | str) -> Fold:
        """The cases of a fold, as nnU-Net's trainer splits them (`nnUNetTrainer.do_split`).

        `splits_final.json` is written where it is absent, with nnU-Net's own function and seed.

        Raises:
            UserError: no such fold, too few cases to split, or a split that names missing cases.
        """
        names = self.case_names()
        if str(fold) == FOLD_ALL:
            return Fold(FOLD_ALL, tuple(names), tuple(names))
        path = self.base / "splits_final.json"
        splits = self._splits(path, names)
        if str(fold) not in map(str, range(len(splits))):
            raise UserError(
                f"Fold {fold} does not exist: {path} has folds 0 to {len(splits) - 1}. Choose one of them, or 'all'."
            )
        training, validation = (tuple(splits[int(fold)][part]) for part in ("train", "val"))
        where = f"{path}, fold {fold},"
        if missing := sorted({*training, *validation} - set(names)):
            raise UserError(
                f"{where} names {len(missing)} cases that are not in {self.folder}, e.g. {missing[0]}. Preprocess them "
                f"({self.preprocess_command}) or fix the split."
            )
        if both := sorted(set(training) & set(validation)):
            raise UserError(
                f"{where} has {len(both)} cases in both 'train' and 'val', e.g. {both[0]}, which makes validation "
                f"worthless. Remove them from one of the lists."
            )
        if twice := [name for name in training if training.count(name) > 1]:
            raise UserError(f"{where} names {twice[0]} twice. Remove it once.")
        if not training:
            raise UserError(f"{where} has no training case.")
        return Fold(str(fold), training, validation)

    def folds_within(self, outer: Fold) -> list[Fold]:
        """The folds of `splits_final.json` that use only training cases of another fold: cross-validation within it."""
        path, inside = self.base / "splits_final.json", set(outer.training)
        splits = self._splits(path, []) if path.exists() else []
        numbers = [
            number  # not of a fold without cases, which only keeps others' numbers
            for number, split in enumerate(splits)
            if split["train"] and inside.issuperset(split["train"] + split["val"])
        ]
        return [self.fold(number) for number in numbers if str(number) != outer.name]

    def _splits(self, path: Path, names: list[str]) -> list[dict[str, list[str]]]:
        if path.exists():
            remedy = "Fix or delete it; nnU-Net and this command write it again."
            splits = read_json(path, remedy)
            if not _is_split(splits):
                raise UserError(f"{path} is not a list of folds, each with lists 'train' and 'val' of names. {remedy}")
            return splits
        if len(names) < 5:
            raise UserError(
                f"{self.dataset_name} has {len(names)} cases, too few for nnU-Net's five folds. Write a split of your "
                f"own to {path}, or use fold 'all'."
            )
        splits = [
            {part: [str(name) for name in members] for part, members in split.items()}
            for split in generate_crossval_split(names, seed=12345, n_splits=5)
        ]
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(splits, indent=4))
        return splits


def open_preprocessed(dataset: str | int, configuration: str, plans_name: str = "nnUNetPlans") -> Preprocessed:
    """Find a preprocessed dataset by id or name, as nnU-Net's commands do.

    Args:
        dataset: `4`, `"4"` or `"Dataset004_Hippocampus"`.
        configuration: e.g. `"2d"`.
        plans_name: the plans file without its ending.

    Raises:
        UserError: a variable is not set, or dataset, plans or configuration do not exist, or nothing is preprocessed.
    """
    base = require_folder("nnUNet_preprocessed")
    name = find_dataset(str(dataset), base)
    plans_path = base / name / f"{plans_name}.json"
    if not plans_path.exists():
        known = []
        for path in plans_path.parent.glob("*.json"):
            with contextlib.suppress(UserError, TypeError):
                known += [path.stem] if "configurations" in read_json(path, "") else []
        raise UserError(
            f"Plans {plans_path} do not exist. "
            + (f"There are: {', '.join(sorted(known))}; choose one with -p. " if known else "")
            + f"Or make them: {preprocess_command(name, configuration, plans_name)}"
        )
    remedy = f"Write it again: {preprocess_command(name, configuration, plans_name)}"
    plans = open_plans(read_json(plans_path, remedy), plans_path, remedy)
    if configuration not in plans.available_configurations:
        raise UserError(
            f"Configuration '{configuration}' is not in {plans_path}. "
            f"It has: {', '.join(plans.available_configurations)}."
        )
    dataset_json = read_json(base / name / "dataset.json", remedy)
    check_configuration(plans, configuration, dataset_json, plans_path, remedy)
    found = Preprocessed(name, plans, configuration, dataset_json)
    if not found.folder.is_dir() or not any(found.folder.iterdir()):
        raise UserError(f"{found.folder} has no cases: not preprocessed yet. Type: {found.preprocess_command}")
    return found


def _is_split(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(fold, dict)
        and all(isinstance(fold.get(part), list) for part in ("train", "val"))
        and all(isinstance(name, str) for name in (*fold["train"], *fold["val"]))
        for fold in content
    )
