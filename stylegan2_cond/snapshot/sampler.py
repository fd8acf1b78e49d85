"""Drawing from a snapshot, in nnU-Net's units."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stylegan2_cond.errors import UserError
from stylegan2_cond.networks import Generator, build_generator
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot.mask_sources import DrawnMasks, MaskSource, open_real_masks
from stylegan2_cond.snapshot.snapshot import CARD_FILE, WEIGHTS_FILE, Card, find_snapshots, sha256


@dataclass(frozen=True)
class Pairs:
    """Drawn pairs in nnU-Net's units.

    Attributes:
        image: `[N, C, *spatial]` float32; a mask snapshot draws none, C is 0.
        label: `[N, *spatial]` int16.
        condition: `[N, width]` float32, what each was asked to be, as the plan's conditions encode it.
    """

    image: np.ndarray
    label: np.ndarray
    condition: np.ndarray | None = None


@dataclass(frozen=True)
class Ask:
    """What samples are asked to be; as in the training patches, where nothing is said.

    Attributes:
        classes: exactly these are shown.
        position: of a slice in its volume, from 0 to 1.
        areas: share of the patch that a class takes.
    """

    classes: Sequence[int] | None = None
    position: float | None = None
    areas: Mapping[int, float] | None = None


class PairGenerator:
    """Draws pairs from a snapshot. Sample i depends on snapshot, seed, what was asked, and i alone."""

    def __init__(self, network: Generator, card: Card, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.card = card
        self.device = device

    @property
    def plan(self) -> Plan:
        return self.card.plan

    @cached_property
    def _deformed_masks(self) -> MaskSource:
        """Opened once, so that its cases are read once."""
        return open_real_masks(self.plan, deformed=True)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        truncation: float = 1.0,
        with_classes: Sequence[int] | None = None,
        position: float | None = None,
        areas: Mapping[int, float] | None = None,
        masks: MaskSource | None = None,
    ) -> Pairs:
        """Draw samples `first` … `first + n - 1` of the stream that `seed` names.

        Args:
            n: how many.
            seed: of the stream.
            first: number of the first sample.
            truncation: below 1, samples are more typical and less varied, and follow the condition less.
            with_classes: ask for exactly these classes; as often as in the training patches, when None.
            position: ask for slices from there in the volume, from 0 (first) to 1 (last).
            areas: ask for the share of the patch that these classes take.
            masks: what a snapshot of the variant `image` draws images for; deformed masks of its training cases,
                when None.

        Raises:
            ValueError: a class that the generator does not know, a place or area that can't be, masks that are not
                wanted or that can't fit what is asked.
            UserError: the training cases, whose masks are wanted, are not there.
        """
        ask = Ask(with_classes, position, areas)
        return self._sample(range(first, first + n), seed, truncation, ask, masks)

    def sample_numbers(
        self,
        numbers: Sequence[int],
        *,
        seed: int = 0,
        with_classes: Sequence[int] | None = None,
        position: float | None = None,
        areas: Mapping[int, float] | None = None,
        masks: MaskSource | None = None,
    ) -> Pairs:
        """Draw these samples of a stream, in this order; otherwise as `sample`."""
        return self._sample(numbers, seed, 1.0, Ask(with_classes, position, areas), masks)

    def _sample(
        self, numbers: Sequence[int], seed: int, truncation: float, ask: Ask, masks: MaskSource | None
    ) -> Pairs:
        if masks is not None and not self.plan.given_mask:
            raise ValueError(f"a snapshot of the variant '{self.plan.variant}' draws its own masks")
        if masks is None and self.plan.given_mask:
            masks = self._deformed_masks
        size = max(1, self.plan.batch_size // self.plan.accumulate)
        batches = [
            self._batch(numbers[start : start + size], seed, truncation, ask, masks)
            for start in range(0, len(numbers), size)
        ]
        plan = self.plan
        if not batches:
            return Pairs(
                np.empty((0, plan.codec.image_channels, *plan.patch_size), np.float32),
                np.empty((0, *plan.patch_size), np.int16),
                np.empty((0, plan.conditions.width), np.float32),
            )
        return Pairs(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))

    def _batch(
        self, indices: Sequence[int], seed: int, truncation: float, ask: Ask, masks: MaskSource | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        codec, given = self.plan.codec, None
        drawn = [self._inputs(np.random.default_rng([seed, index]), ask) for index in indices]
        z, condition, *noises = (torch.stack(parts).to(self.device) for parts in zip(*drawn, strict=True))
        if masks is not None:
            label, place = masks.draw(seed, indices, ask)
            label = torch.from_numpy(label).to(self.device)
            condition = self.plan.conditions.measure(label, torch.from_numpy(place).to(self.device))
            given = codec.encode_label(label)
        with torch.inference_mode():
            coded = codec.activate(self.network(z, condition, noises, truncation, given), given)
            image, label = codec.decode(coded)
        return image.cpu().numpy(), label.cpu().numpy(), condition.cpu().numpy()

    def _inputs(self, rng: np.random.Generator, ask: Ask) -> list[torch.Tensor]:
        if self.plan.given_mask:  # what is asked for decides the mask, and the mask the condition
            ask = Ask()
        condition = self.plan.conditions.draw(rng, classes=ask.classes, position=ask.position, areas=ask.areas)
        z = torch.from_numpy(rng.standard_normal(self.plan.latent_dim, dtype=np.float32))
        sizes = self.network.synthesis.noise_sizes
        noises = [torch.from_numpy(rng.standard_normal((1, *size), dtype=np.float32)) for size in sizes]
        return [z, condition, *noises]


def load_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> PairGenerator:
    """Open a snapshot folder.

    Raises:
        UserError: no snapshot there, or its card or weights are damaged or do not belong together, or no such device.
    """
    folder = Path(path)
    _refuse_run_folder(folder)
    card = Card.load(folder / CARD_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or sha256(weights) != card.weights_sha256:
        state = "is missing" if not weights.is_file() else "is damaged: its checksum is not the card's"
        raise UserError(f"{weights} {state}. {Card.remedy}")
    try:
        with torch.device("meta"):  # no random draws, no time spent on weights that are replaced
            network = build_generator(card.plan)
        state = load_file(weights)
        _refuse_misfits(state, network.state_dict())
        network.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        said = " ".join(str(error).split())  # torch lists every tensor in a line of its own
        raise UserError(f"{weights} does not fit its card ({said}). {Card.remedy}") from None
    return PairGenerator(network, card, open_device(device))


def _refuse_misfits(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Weights that `load_state_dict` would take, though nothing could be drawn with them."""
    for name, weight in state.items():
        if name in expected and weight.dtype != expected[name].dtype:
            raise ValueError(f"{name} is {weight.dtype}, not {expected[name].dtype}")
        if not weight.isfinite().all():
            raise ValueError(f"{name} is not finite")


def open_masks(text: str, plan: Plan, device: str | torch.device = "cpu") -> MaskSource:
    """Masks for a generator of the variant `image`: `real`, `deformed`, or the folder of a mask snapshot.

    Raises:
        UserError: there is no such snapshot, or it draws other masks, or the training cases are gone.
    """
    if text in ("real", "deformed"):
        return open_real_masks(plan, deformed=text == "deformed")
    generator = load_generator(text, device)
    if generator.plan.variant == "image":
        raise UserError(f"{text} draws images, no masks. Give the folder of a snapshot of the variant mask.")
    for key, what in (("patch_size", "another patch"), ("source", "other cases")):
        if getattr(generator.plan, key) != getattr(plan, key):
            raise UserError(f"{text} learnt from {what}. Train one: stylegan2-cond train … --variant mask")
    return DrawnMasks(generator, plan)


def open_device(name: str | torch.device) -> torch.device:
    """A device that tensors can be put on.

    Raises:
        UserError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` has tensors, and no numbers in them
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"Device '{name}' is not to be had here ({str(error).splitlines()[0]}). Try --device cpu"
        ) from None
    return device


def _refuse_run_folder(folder: Path) -> None:
    if not (folder / CARD_FILE).exists() and (found := find_snapshots(folder)):
        raise UserError(f"{folder} holds {len(found)} snapshots. Name one of them, for example {found[-1]}")
