"""Checkpoints: what is needed to go on training, exactly."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import torch

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.snapshot.snapshot import sha256
from stylegan2_cond.training.profile_step import is_out_of_memory
from stylegan2_cond.training.state import TrainingState

CHECKPOINT_FILE = "checkpoint_latest.pt"
GOOD_CHECKPOINT_FILE = "checkpoint_good.pt"  # of the newest snapshot; what a training that goes wrong returns to
_MARK = b"sha256:"  # at the end of a checkpoint, where torch does not look; the checksum of all before follows it
_SEAL_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size


def save_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> None:
    """Replace a checkpoint in `folder`; killed at any moment, either the old or the new one is there."""
    with write_atomically(folder / name) as temporary:
        torch.save(state.state_dict(), temporary)
        seal = _MARK + sha256(temporary).encode()
        with temporary.open("ab") as file:
            file.write(seal)


def load_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> bool:
    """Take over a checkpoint in `folder`; False where there is none.

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
    except Exception as error:  # torch has no class of its own for what is wrong with a file
        if is_out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} does not fit {folder / 'plan.json'} ({said}). {_remedy(path)}") from None
    return True


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written, to the last bit."""
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
        return "Delete it, and run the same command again: training then returns to its start."
    good = path.with_name(GOOD_CHECKPOINT_FILE)
    again = f"Move the folder {path.parent} away to start again; its snapshots can still be drawn from."
    if not _is_whole(good):
        return again
    copy = shlex.join(["cp", str(good), str(path)])
    return f"To continue from the newest snapshot, type: {copy} and then the same command again. {again}"
