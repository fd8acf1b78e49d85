"""Where nnU-Net and this project keep their files. What only lists them imports nothing that takes seconds."""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path

from nnunetv2 import paths as nnunet_paths
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

from stylegan2_cond import Variant
from stylegan2_cond.errors import UserError

PLAN_FILE = "plan.json"  # in the folder of a generator
BEST = "best"  # link there, to a snapshot
GENERATOR = "StyleGAN2Cond_"  # first word of its name
RECORD_FILE = "bank.json"  # in the folder of a bank
BANK_FORMAT = 5
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")  # of nnU-Net
SYNTHETIC_DATA_FILE = "synthetic_data.json"  # next to them: which synthetic data were used
SUMMARY = "validation/summary.json"  # of nnU-Net's fold


def require_folder(variable: str) -> Path:
    """The folder that an nnU-Net variable names.

    Raises:
        UserError: the variable is not set.
    """
    value = getattr(nnunet_paths, variable).get()
    if not value:
        raise UserError(f"The variable {variable} is not set. Type: export {variable}=/path/to/{variable}")
    return Path(value)


def find_dataset(dataset: str, base: Path) -> str:
    """Name of a dataset in `base`, an `nnUNet_preprocessed`, by its number or name.

    Raises:
        UserError: it is not there.
    """
    known = sorted(path.name for path in base.glob("Dataset*") if path.is_dir())
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError):
        name = dataset
    if name in known:
        return name
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"There: {', '.join(known) or 'no dataset'}."
    example = "A dataset is a number or a name: 4 or Dataset004_Hippocampus."
    named = re.fullmatch(r"\d+|Dataset\d{3}_.+", dataset)
    remedy = f"To preprocess it: {preprocess_command(dataset, '2d')}" if named else example
    raise UserError(f"Dataset '{dataset}' is not in {base}. {hint} {remedy}")


def preprocess_command(dataset_name: str, configuration: str, plans_name: str = "nnUNetPlans") -> str:
    """The nnU-Net command that preprocesses a dataset."""
    number = (
        dataset_name.removeprefix("Dataset")[:3].lstrip("0") if dataset_name.startswith("Dataset") else dataset_name
    )
    plans = "" if plans_name == "nnUNetPlans" else f" -overwrite_plans_name {plans_name}"
    return f"nnUNetv2_plan_and_preprocess -d {number} -c {configuration}{plans}"


def fold_command(
    program: str,
    dataset_name: str,
    configuration: str,
    fold: str,
    *options: str,
    plans_name: str = "nnUNetPlans",
    variant: Variant = "pair",
    with_bank: str | None = None,
) -> str:
    """A command for a fold, with the options that name plans and a generator, where they are not the default."""
    words = [dataset_name, configuration, fold, *options]
    words += ["-p", plans_name] if plans_name != "nnUNetPlans" else []
    words += ["--variant", variant] if variant != "pair" else []
    words += ["--with-bank", with_bank] if with_bank else []
    return f"{program} {shlex.join(words)}"


def run_folder_in(
    results: Path,
    dataset_name: str,
    plans_name: str,
    configuration: str,
    fold: str | int,
    variant: Variant = "pair",
    with_bank: str | None = None,
) -> Path:
    """Folder of a generator below `results`, an `nnUNet_results`; named as nnU-Net names its models."""
    name = GENERATOR + variant + (f"_with_{with_bank}" if with_bank else "")
    model = convert_trainer_plans_config_to_identifier(name, plans_name, configuration)
    return results / dataset_name / model / f"fold_{fold}"


def best_snapshot_images(folder: Path) -> int | None:
    """Number of images seen by the snapshot that `best` links to; None if there is no such link."""
    link = folder / BEST
    name = link.readlink().name if link.is_symlink() else ""
    return int(name) if name.isdecimal() else None


def banks_folder(base: Path, data_identifier: str, fold: str | int) -> Path:
    """Folder of the banks of a fold, next to nnU-Net's own folder of cases.

    Args:
        base: `nnUNet_preprocessed/DatasetXXX_Name`.
        data_identifier: of the configuration; `*` in a pattern for all.
        fold: `0` to `4`, or `all`; `*` in a pattern for all.
    """
    return base / f"{data_identifier}_synth" / f"fold_{fold}"
