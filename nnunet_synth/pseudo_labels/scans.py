"""Unlabelled scans: image files in nnU-Net's naming, or preprocessed cases that the fold does not use."""

from __future__ import annotations

import glob
import gzip
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from nnunetv2 import paths as nnunet_paths
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Fold, Preprocessed
from stylegan2_cond.data.untrusted_files import is_plain_name
from stylegan2_cond.errors import UserError, first_line

_AXES_OF_A_VOLUME = 3


class UnreadableScan(Exception):
    """Why one scan cannot be used; the others can."""


@dataclass(frozen=True)
class Scan:
    """One unlabelled scan.

    Attributes:
        name: of the case, without channel and file ending.
        files: one for each channel; empty for a preprocessed case of the dataset.
    """

    name: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class PreprocessedScan:
    """A scan as nnU-Net preprocesses it for one configuration.

    Attributes:
        image: `[C, z, y, x]` float32 in nnU-Net's units.
        label: `[z, y, x]` integers. Only the dataset's own cases have labels; of others it is 0, and for all -1 outside
            of the (non-zero) image.
        spacing: of the voxels in mm, along `[z, y, x]`.
        orientation: signs and order of the axes in the patient, where the file tells them; `""` where it does not.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, ...]
    orientation: str = ""

    @property
    def outside(self) -> np.ndarray:
        """`[z, y, x]` booleans, True outside of the (non-zero) image."""
        return self.label == OUTSIDE


def find_scans(preprocessed: Preprocessed, fold: Fold, source: str | Path) -> list[Scan]:
    """The scans in a folder, or those of the dataset's preprocessed cases that a list names.

    Args:
        preprocessed: the dataset.
        fold: whose training and validation cases are no unlabelled scans.
        source: a folder of images named `<case>_<four digits of the channel><ending>`; a text file with a preprocessed
            case in each line; or names, separated by commas.

    Raises:
        UserError: nothing is found, channels are missing, a name occurs twice, or a case is of the fold.
    """
    path = Path(source or "(nothing)")
    if os.path.isdir(path):  # a list of names may be longer than any path, at which path.is_dir() raises an error
        return _scans_in(preprocessed, fold, path)
    names = path.read_text().split() if os.path.isfile(path) else [name for name in str(source).split(",") if name]
    known = set(preprocessed.case_names())
    if not names or not known.issuperset(names):
        what = f"'{next(name for name in names if name not in known)}' is not a case of" if names else "no case of"
        raise UserError(
            f"-i {source} is neither a folder nor a list of preprocessed cases: {what} {preprocessed.folder}. Type a "
            f"folder of images, a text file with a case in each line, or names separated by commas."
        )
    _refuse_twice(names, source)
    _refuse_labelled(names, fold, source)
    return [Scan(name) for name in sorted(names)]


def _scans_in(preprocessed: Preprocessed, fold: Fold, folder: Path) -> list[Scan]:
    reader = preprocessed.plans_manager.image_reader_writer_class
    endings = sorted(reader.supported_file_endings, key=len, reverse=True)
    pattern = re.compile(rf"(.+)_(\d{{4}})({'|'.join(map(re.escape, endings))})", re.IGNORECASE)
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := pattern.fullmatch(path.name)):
            found[match[1]][match[2]].append(path)
    expected = [f"{channel:04d}" for channel in range(len(preprocessed.channel_names))]
    if not found:
        raise UserError(
            f"{folder} has no image named <case>_0000 with one of the endings that the dataset's reader, "
            f"{reader.__name__}, takes: {', '.join(endings)}."
        )
    for name, channels in found.items():
        if twice := next((paths for paths in channels.values() if len(paths) > 1), None):
            raise UserError(f"{folder} has case {name} twice: {twice[0].name} and {twice[1].name}. Remove one.")
        if sorted(channels) != expected:
            raise UserError(
                f"Case {name} in {folder} has the channels {', '.join(sorted(channels))}, the dataset has "
                f"{', '.join(expected)} ({', '.join(preprocessed.channel_names)}). Add or remove files."
            )
        if not is_plain_name(name):
            raise UserError(f"Case {name!r} in {folder} has a name that cannot be a plain file name. Rename it.")
    _refuse_labelled(sorted(found), fold, folder)
    return [Scan(name, tuple(found[name][channel][0] for channel in expected)) for name in sorted(found)]


def find_test_scans(preprocessed: Preprocessed) -> list[Scan]:
    """The dataset's test images in `$nnUNet_raw`; none where there is no such folder."""
    raw = nnunet_paths.nnUNet_raw.get()
    folder = Path(raw or ".") / preprocessed.dataset_name / "imagesTs"
    if not raw or not folder.is_dir():
        return []
    ending = preprocessed.dataset_json["file_ending"]
    names = sorted({path.name[: -len(ending) - 5] for path in folder.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")})
    return [Scan(name, tuple(sorted(folder.glob(f"{glob.escape(name)}_????{ending}")))) for name in names]


def _refuse_twice(names: Sequence[str], source: object) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"-i {source} names {twice} twice. Remove it once.")


def _refuse_labelled(names: Sequence[str], fold: Fold, source: object) -> None:
    if labelled := sorted(set(names) & set(fold.training)):
        raise UserError(
            f"-i {source} has {len(labelled)} training cases of fold {fold.name}, e.g. {labelled[0]}, which are "
            f"labelled. Remove them, or rename them if they only have the same names."
        )


def read_scan(preprocessed: Mapping[str, Preprocessed], scan: Scan) -> dict[str, PreprocessedScan]:
    """A scan, preprocessed by nnU-Net for each of several configurations of the same plans.

    Args:
        preprocessed: the configurations, by name.
        scan: to read.

    Returns:
        The scan for each configuration, by name.

    Raises:
        UnreadableScan: its files cannot be read, or do not fit to the dataset.
    """
    if not scan.files:
        return {name: read_case(one, scan.name) for name, one in preprocessed.items()}
    first = next(iter(preprocessed.values()))
    plans = first.plans_manager
    try:
        for path in scan.files:
            _read_to_its_end(path)
        with redirect_stdout(StringIO()):  # the reader prints a table of shapes before it raises an empty error
            image, properties = plans.image_reader_writer_class().read_images([str(path) for path in scan.files])
    except Exception as error:  # each of nnU-Net's readers raises errors of its library
        raise UnreadableScan(f"cannot be read ({first_line(error)})") from error
    channels = determine_num_input_channels(plans, first.configuration, first.dataset_json)
    if image.shape[0] != channels:
        raise UnreadableScan(f"has {image.shape[0]} channels, the dataset has {channels}")
    if not np.isfinite(image).all():
        raise UnreadableScan("has voxels that are NaN or infinite")
    if not image.any():
        raise UnreadableScan("is empty: all its voxels are 0")
    found = {}
    for name, one in preprocessed.items():
        preprocessor = one.configuration.preprocessor_class(verbose=False)
        data, label, done = preprocessor.run_case_npy(
            image, None, {**properties}, plans, one.configuration, one.dataset_json
        )
        found[name] = PreprocessedScan(data, label[0], voxel_spacing(one, done["spacing"]), orientation(done))
    return found


def _read_to_its_end(path: Path) -> None:
    """Raise an error if a compressed file is truncated or damaged, which ITK reads as zeros."""
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            while file.read(2**24):
                pass


def read_case(preprocessed: Preprocessed, name: str) -> PreprocessedScan:
    """A preprocessed case of the dataset, with its label.

    Raises:
        UnreadableScan: it is missing or damaged.
    """
    try:
        image, label, _, done = preprocessed.dataset_class(str(preprocessed.folder), [name]).load_case(name)
        spacing = voxel_spacing(preprocessed, done["spacing"])
        return PreprocessedScan(np.asarray(image[:], np.float32), np.asarray(label[0]), spacing, orientation(done))
    except Exception as error:
        raise UnreadableScan(
            f"cannot be read from {preprocessed.folder} ({first_line(error)}). Preprocess it: "
            f"{preprocessed.preprocess_command}"
        ) from error


def voxel_spacing(preprocessed: Preprocessed, original: Sequence[float]) -> tuple[float, ...]:
    """Spacing after preprocessing, in mm along `[z, y, x]`; 2-D configurations keep the distance between slices.

    original: nnU-Net's property `spacing` of the case.
    """
    spacing = [float(length) for length in preprocessed.configuration.spacing]
    if len(spacing) < _AXES_OF_A_VOLUME:
        spacing = [float(original[preprocessed.plans_manager.transpose_forward[0]]), *spacing]
    return tuple(spacing)


def orientation(properties: Mapping) -> str:
    """The patient axis (1 to 3) and direction along which each voxel axis runs, for example `+1 +2 +3`."""
    stuff = properties.get("sitk_stuff") or {}
    if len(direction := stuff.get("direction", ())) != _AXES_OF_A_VOLUME**2:
        return ""
    matrix = np.reshape(direction, (_AXES_OF_A_VOLUME, _AXES_OF_A_VOLUME))
    axes = np.abs(matrix).argmax(axis=0)
    return " ".join(f"{'+' if matrix[axis, column] > 0 else '-'}{axis + 1}" for column, axis in enumerate(axes))
