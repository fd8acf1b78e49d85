"""Checkpoints: what is needed to resume training exactly."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import torch

from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.io import write_atomically
from stylegan2_cond.memory import is_out_of_memory
from stylegan2_cond.snapshot.snapshot import sha256
from stylegan2_cond.training.state import TrainingState

CHECKPOINT_FILE = "checkpoint_latest.pt"
GOOD_CHECKPOINT_FILE = "checkpoint_good.pt"  # of the newest snapshot; a training that fails returns to it
_MARK = b"sha256:"  # at the end of a checkpoint, which torch ignores; a checksum follows
_SEAL_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size


def save_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> None:
    """Replace a checkpoint in `folder`; if the process is killed, either the old or the new one is there."""
    with write_atomically(folder / name) as temporary:
        torch.save(state.state_dict(), temporary)
        seal = _MARK + sha256(temporary).encode()
        with temporary.open("ab") as file:
            file.write(seal)


def load_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> bool:
    """Load a checkpoint from `folder` into `state`; False if there is none.

    Raises:
        UserError: the checkpoint is damaged or of another plan.
    """
    path = folder / name
    if not path.exists():
        return False
    if not _is_whole(path):
        raise UserError(f"{path} is damaged: its checksum differs. {_remedy(path)}")
    try:
        state.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch has no exception class for damaged files
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} does not fit {folder / 'plan.json'} ({first_line(error)}). {_remedy(path)}") from None
    return True


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint matches its checksum."""
    try:
        with path.open("rb") as file:
            digest, left = hashlib.sha256(), path.stat().st_size - _SEAL_BYTES
            while left > 0 and (block := file.read(min(left, 2**20))):
                digest.update(block)
                left -= len(block)
            return file.read() == _MARK + digest.hexdigest().encode()
    except OSError:
        return False


def _remedy(path: Path) -> str:
    """How to continue without a checkpoint."""
    if path.name == GOOD_CHECKPOINT_FILE:
        return "Delete it and run the same command again: training then starts from the beginning."
    good = path.with_name(GOOD_CHECKPOINT_FILE)
    again = f"Move the folder {path.parent} away to start again; its snapshots can still be sampled from."
    if not _is_whole(good):
        return again
    copy = shlex.join(["cp", str(good), str(path)])
    return f"To continue from the newest snapshot, type: {copy} and then the same command again. {again}"
