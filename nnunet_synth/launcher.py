"""Runs nnU-Net's own commands so that they find the plugin's trainers, and installed commands with a log."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stylegan2_cond.errors import UserError

VARIABLE = "nnUNet_extTrainer"
EXT_TRAINER = Path(__file__).parent / "ext_trainer"
DEFAULT_TRAINER = "nnUNetTrainerSynth"
PR_SET_PDEATHSIG = 1  # of Linux's prctl


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
    dataset = next(iter(arguments), "-")
    print(f"Next: nnunet-synth status {'DATASET' if dataset.startswith('-') else shlex.quote(dataset)}")


def nnunet_folders(root: Path) -> dict[str, str]:
    """nnU-Net's three environment variables, for folders within `root`."""
    return {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}


def run_logged(
    command: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    *,
    own_bar: bool = False,
    detached: bool = False,
    each_second: Callable[[], object] = lambda: None,
) -> int:
    """Run an installed command to its end, and append what it prints to a log.

    Args:
        command: a program, installed next to this Python or on the PATH, and its arguments.
        variables: environment variables beyond those of this process.
        own_bar: leave the command's progress bar, on stderr, to the terminal.
        detached: out of reach of the terminal's Ctrl-C, and killed when this process stops or is killed; otherwise the
            command is awaited, since Ctrl-C reaches it too.
        each_second: called while the command runs; what it raises stops the command.

    Returns:
        The exit code.

    Raises:
        UserError: the program is not installed.
    """
    program = _find_program(command[0])
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [program, *command[1:]],
            env=os.environ | dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=None if own_bar else file,
            start_new_session=detached,
            preexec_fn=_die_with_parent if detached else None,
        )
    try:
        while process.returncode is None:
            each_second()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
    except BaseException:
        if detached:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode


def run_training(arguments: Sequence[str], device: str) -> int:
    """Run `nnunet-synth train` in a process of its own, which prints what nnU-Net prints.

    Args:
        arguments: of nnUNetv2_train.
        device: `cpu`, `cuda`, or `cuda:1` for one of several.

    Returns:
        The exit code.
    """
    kind, _, index = device.partition(":")
    visible = {"CUDA_VISIBLE_DEVICES": index} if index else {}
    command = [_find_program("nnunet-synth"), "train", *arguments, "-device", kind]
    return subprocess.run(command, env=os.environ | visible, check=False).returncode


def _find_program(name: str) -> str:
    program = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        raise UserError(f"{name} is not installed next to {sys.executable}. Type: pip install nnunet-synth")
    return program


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is killed, which then could not do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
