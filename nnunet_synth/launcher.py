"""Runs nnU-Net's own commands so that they find the plugin's trainers."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"
EXT_TRAINER = Path(__file__).parent / "ext_trainer"
DEFAULT_TRAINER = "nnUNetTrainerSynth"


def ext_trainer_path(before: str | None) -> str:
    """Value of the variable with the plugin's folder appended to what it held `before`."""
    folders = [folder for folder in (before or "").split(os.pathsep) if folder and folder != str(EXT_TRAINER)]
    return os.pathsep.join([*folders, str(EXT_TRAINER)])


def shell_line() -> str:
    """Shell command that sets the variable, for `eval`."""
    return f"export {VARIABLE}={shlex.quote(ext_trainer_path(os.environ.get(VARIABLE)))}"


def launch_training(arguments: Sequence[str]) -> None:
    """Run `nnUNetv2_train` in this process, with the plugin's trainer unless the arguments name one."""
    from nnunetv2.run.run_training import run_training_entry

    os.environ[VARIABLE] = ext_trainer_path(os.environ.get(VARIABLE))
    parser = argparse.ArgumentParser(add_help=False)  # as nnU-Net's own, it takes `-tr NAME` and `-tr=NAME`
    parser.add_argument("-tr")
    named = parser.parse_known_args(list(arguments))[0].tr is not None
    sys.argv = ["nnUNetv2_train", *arguments, *([] if named else ["-tr", DEFAULT_TRAINER])]
    run_training_entry()
