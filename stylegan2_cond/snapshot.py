"""A snapshot: what is needed to draw pairs, and nothing that could run code. Safe to share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from stylegan2_cond.documents import Document, write_atomically
from stylegan2_cond.errors import UserError
from stylegan2_cond.networks import Generator, build_generator
from stylegan2_cond.planning import Plan

WEIGHTS_FILE = "generator.safetensors"
CARD_FILE = "card.json"


class Card(Document):
    """What a generator is: its plan, which cases it saw, how far it was trained, and the checksum of its weights."""

    remedy: ClassVar[str] = "Choose another snapshot, or train the generator again: stylegan2-cond train …"
    plan: Plan
    images_seen: int
    weights_sha256: str
    created: str
    release: str


@dataclass(frozen=True)
class Pairs:
    """Drawn pairs in nnU-Net's units: image `[N, C, *canvas]` float32, label `[N, *canvas]` int16."""

    image: np.ndarray
    label: np.ndarray


class PairGenerator:
    """Draws pairs from a snapshot. Sample i depends on snapshot, seed and i alone."""

    def __init__(self, network: Generator, card: Card, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.card = card
        self.device = device

    @property
    def plan(self) -> Plan:
        return self.card.plan

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        truncation: float = 1.0,
        with_classes: Sequence[int] | None = None,
    ) -> Pairs:
        """Draw samples `first` … `first + n - 1` of the stream that `seed` names.

        Args:
            n: how many.
            seed: of the stream.
            first: number of the first sample.
            truncation: below 1, samples are more typical and less varied, and follow the condition less.
            with_classes: ask for exactly these classes; as often as in the training canvases, when None.

        Raises:
            ValueError: a class that the generator does not know.
        """
        batches = [
            self._batch(range(start, min(start + self.plan.batch_size, first + n)), seed, truncation, with_classes)
            for start in range(first, first + n, self.plan.batch_size)
        ]
        codec = self.plan.codec
        if not batches:
            return Pairs(
                np.empty((0, codec.image_channels, *self.plan.canvas), np.float32),
                np.empty((0, *self.plan.canvas), np.int16),
            )
        return Pairs(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))

    def _batch(
        self, indices: range, seed: int, truncation: float, with_classes: Sequence[int] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        drawn = [self._inputs(np.random.default_rng([seed, index]), with_classes) for index in indices]
        z, condition, *noises = (torch.stack(parts).to(self.device) for parts in zip(*drawn, strict=True))
        with torch.inference_mode():
            coded = self.plan.codec.activate(self.network(z, condition, noises, truncation))
            image, label = self.plan.codec.decode(coded)
        return image.cpu().numpy(), label.cpu().numpy()

    def _inputs(self, rng: np.random.Generator, with_classes: Sequence[int] | None) -> list[torch.Tensor]:
        conditions = self.plan.conditions
        condition = conditions.draw(rng) if with_classes is None else conditions.encode(with_classes)
        z = torch.from_numpy(rng.standard_normal(self.plan.latent_dim, dtype=np.float32))
        sizes = self.network.synthesis.noise_sizes
        noises = [torch.from_numpy(rng.standard_normal((1, *size), dtype=np.float32)) for size in sizes]
        return [z, condition, *noises]


def save_snapshot(folder: Path, network: Generator, plan: Plan, images_seen: int) -> None:
    """Write weights and card into `folder`; the card last, so that a folder with a card is whole."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with write_atomically(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save(state))  # save_file would leave it unreadable for others
    Card(
        plan=plan,
        images_seen=images_seen,
        weights_sha256=sha256(folder / WEIGHTS_FILE),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    ).save(folder / CARD_FILE)


def load_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> PairGenerator:
    """Open a snapshot folder.

    Raises:
        UserError: no snapshot there, or its card or weights are damaged or do not belong together, or no such device.
    """
    folder = Path(path)
    card = Card.load(folder / CARD_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.exists() or sha256(weights) != card.weights_sha256:
        state = "is missing" if not weights.exists() else "is damaged: its checksum is not the card's"
        raise UserError(f"{weights} {state}. {Card.remedy}")
    with torch.device("meta"):  # no random draws, no time spent on weights that are replaced
        network = build_generator(card.plan)
    try:
        network.load_state_dict(load_file(weights), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights} does not fit its card ({error}). {Card.remedy}") from None
    return PairGenerator(network, card, open_device(device))


def open_device(name: str | torch.device) -> torch.device:
    """A device that tensors can be put on.

    Raises:
        UserError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"Device '{name}' is not to be had here ({str(error).splitlines()[0]}). Try --device cpu"
        ) from None
    return device


def find_snapshots(run_folder: Path) -> list[Path]:
    """The whole snapshots of a generator run, oldest first."""
    return sorted(card.parent for card in (run_folder / "snapshots").glob(f"*/{CARD_FILE}"))


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
