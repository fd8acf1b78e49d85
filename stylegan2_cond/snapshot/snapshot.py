"""Snapshots: what is needed to generate samples, in files that can't run code and are safe to share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save

from stylegan2_cond.data.nnunet_folders import BEST
from stylegan2_cond.io import Record, write_atomically
from stylegan2_cond.networks import Generator
from stylegan2_cond.planning import Plan

WEIGHTS_FILE = "generator.safetensors"
CARD_FILE = "card.json"


class Card(Record):
    """A generator's plan, with its training cases, the number of images it was trained on, and its weights' checksum.

    `backends` are those of the ops in training, as `name_backend` names them, in the order of their use.
    """

    remedy: ClassVar[str] = "Choose another snapshot, or train the generator again: stylegan2-cond train …"
    format_version: int = 4
    plan: Plan
    images_seen: int
    weights_sha256: str
    backends: tuple[str, ...]
    created: str
    release: str


def save_snapshot(folder: Path, network: Generator, plan: Plan, images_seen: int, backends: Sequence[str] = ()) -> None:
    """Write weights and card to `folder`; the card last, so that a folder with a card is complete."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with write_atomically(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save(state))  # save_file makes it unreadable for other users
    Card(
        plan=plan,
        images_seen=images_seen,
        weights_sha256=sha256(folder / WEIGHTS_FILE),
        backends=tuple(backends),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    ).save(folder / CARD_FILE)


def find_snapshots(run_folder: Path) -> list[Path]:
    """The complete snapshots of a generator run, oldest first."""
    return sorted(card.parent for card in (run_folder / "snapshots").glob(f"*/{CARD_FILE}"))


def find_best(run_folder: Path) -> Path | None:
    """The best snapshot according to training, or else the newest; None where there is no snapshot."""
    best = run_folder / BEST
    if (best / CARD_FILE).exists():
        return best.resolve()
    return next(reversed(find_snapshots(run_folder)), None)


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
