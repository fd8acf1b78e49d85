"""Starting nnU-Net's own commands so that they find the plugin's trainers."""

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
    """The variable's value with the plugin's folder in it, after whatever it held `before`."""
    folders = [folder for folder in (before or "").split(os.pathsep) if folder and folder != str(EXT_TRAINER)]
    return os.pathsep.join([*folders, str(EXT_TRAINER)])


def shell_line() -> str:
    """The line to eval in a shell."""
    return f"export {VARIABLE}={shlex.quote(ext_trainer_path(os.environ.get(VARIABLE)))}"


def launch_training(arguments: Sequence[str]) -> None:
    """Run `nnUNetv2_train` in this process, with the plugin's trainer unless another is named."""
    from nnunetv2.run.run_training import run_training_entry

    os.environ[VARIABLE] = ext_trainer_path(os.environ.get(VARIABLE))
    trainer = [] if _names_trainer(arguments) else ["-tr", DEFAULT_TRAINER]
    sys.argv = ["nnUNetv2_train", *arguments, *trainer]
    run_training_entry()


def _names_trainer(arguments: Sequence[str]) -> bool:
    """Whether argparse, which nnU-Net uses, finds the option -tr here: `-tr NAME` or `-tr=NAME`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-tr")
    return parser.parse_known_args(list(arguments))[0].tr is not None
