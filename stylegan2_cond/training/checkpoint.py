"""Checkpoints: what is needed to go on training, exactly."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch

from stylegan2_cond.documents import write_atomically
from stylegan2_cond.errors import UserError
from stylegan2_cond.training.state import TrainingState

CHECKPOINT_FILE = "checkpoint_latest.pt"
GOOD_CHECKPOINT_FILE = "checkpoint_good.pt"  # of the newest snapshot; what a training that goes wrong returns to


def save_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> None:
    """Replace a checkpoint in `folder`; killed at any moment, either the old or the new one is there."""
    with write_atomically(folder / name) as temporary:
        torch.save(state.state_dict(), temporary)


def load_checkpoint(folder: Path, state: TrainingState, name: str = CHECKPOINT_FILE) -> bool:
    """Take over a checkpoint in `folder`; False where there is none.

    Raises:
        UserError: the checkpoint is damaged or of another plan.
    """
    path = folder / name
    if not path.exists():
        return False
    try:
        state.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(
            f"{path} is damaged or does not fit {folder / 'plan.json'} ({str(error).splitlines()[0]}). Move the folder "
            f"{folder} away to start again; its snapshots can still be drawn from."
        ) from None
    return True
