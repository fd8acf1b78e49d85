"""Samples from a snapshot, in nnU-Net's units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.networks import Generator, build_generator
from stylegan2_cond.planning import Plan
from stylegan2_cond.snapshot.request import MaskSource, SampleRequest
from stylegan2_cond.snapshot.snapshot import CARD_FILE, WEIGHTS_FILE, Card, find_snapshots, sha256


class PairGenerator:
    """Generates samples from a snapshot. Sample i depends on the snapshot, the seed, the request and i alone."""

    def __init__(self, network: Generator, card: Card, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.card = card
        self.device = device

    @property
    def plan(self) -> Plan:
        """The plan of the training."""
        return self.card.plan

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        truncation: float = 1.0,
        request: SampleRequest = SampleRequest(),
        masks: MaskSource | None = None,
    ) -> SampleSet:
        """Generate samples `first` … `first + n - 1` of the stream that `seed` names.

        Args:
            n: number of samples.
            seed: of the stream.
            first: number of the first sample.
            truncation: below 1, samples are more typical and less varied, and follow the condition less.
            request: what the samples shall show.
            masks: what a snapshot of the variant `image` generates images for (see `open_masks`).

        Raises:
            ValueError: the request cannot be met, or masks are given to a snapshot that generates its own, or missing
                for one that does not.
        """
        numbers = range(first, first + n)
        return self.sample_numbers(numbers, seed=seed, truncation=truncation, request=request, masks=masks)

    def sample_numbers(
        self,
        numbers: Sequence[int],
        *,
        seed: int = 0,
        truncation: float = 1.0,
        request: SampleRequest = SampleRequest(),
        masks: MaskSource | None = None,
    ) -> SampleSet:
        """Generate the samples of a stream that have these numbers, in this order; otherwise as `sample`."""
        plan = self.plan
        if plan.given_mask and masks is None:
            raise ValueError("a snapshot of the variant 'image' needs masks, for example open_masks('deformed', plan)")
        if masks is not None and not plan.given_mask:
            raise ValueError(f"a snapshot of the variant '{plan.variant}' generates its own masks")
        size = max(1, plan.batch_size // plan.accumulate)
        batches = [
            self._batch(numbers[start : start + size], seed, truncation, request, masks)
            for start in range(0, len(numbers), size)
        ]
        nothing = SampleSet(
            image=np.empty((0, plan.codec.image_channels, *plan.patch_size), np.float32),
            label=np.empty((0, *plan.patch_size), np.int16),
            condition=np.empty((0, plan.conditions.width), np.float32),
        )
        return SampleSet.joined(batches or [nothing])

    def _batch(
        self, numbers: Sequence[int], seed: int, truncation: float, request: SampleRequest, masks: MaskSource | None
    ) -> SampleSet:
        codec, conditions, given = self.plan.codec, self.plan.conditions, None
        streams = [np.random.default_rng([seed, number]) for number in numbers]
        if masks is None:
            wanted = {"classes": request.classes, "position": request.position, "areas": request.areas}
            condition = torch.stack([conditions.sample(rng, **wanted) for rng in streams]).to(self.device)
        else:
            label, position = (torch.from_numpy(part).to(self.device) for part in masks.sample(seed, numbers, request))
            condition, given = conditions.measure(label, position), codec.encode_label(label)
            for rng in streams:
                conditions.skip(rng)
        z, *noises = (torch.stack(parts).to(self.device) for parts in zip(*map(self._latents, streams), strict=True))
        with torch.inference_mode():
            coded = codec.activate(self.network(z, condition, noises, truncation, given), given)
            image, label = codec.decode(coded)
        return SampleSet(image.cpu().numpy(), label.cpu().numpy(), condition=condition.cpu().numpy())

    def _latents(self, rng: np.random.Generator) -> list[torch.Tensor]:
        """The latent vector, then the noise of each layer."""
        shapes = [(self.plan.latent_dim,), *((1, *size) for size in self.network.synthesis.noise_sizes)]
        return [torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]


def load_generator(path: str | os.PathLike, device: str | torch.device = "cpu") -> PairGenerator:
    """Open a snapshot folder.

    Raises:
        UserError: no snapshot there, or its card or weights are damaged or do not belong together, or no such device.
    """
    folder = Path(path)
    if not (folder / CARD_FILE).exists() and (found := find_snapshots(folder)):
        raise UserError(f"{folder} holds {len(found)} snapshots. Name one of them, for example {found[-1]}")
    card = Card.load(folder / CARD_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or sha256(weights) != card.weights_sha256:
        state = "is missing" if not weights.is_file() else "is damaged: its checksum is not the card's"
        raise UserError(f"{weights} {state}. {Card.remedy}")
    try:
        with torch.device("meta"):  # no random numbers, and no time, for weights that are replaced
            network = build_generator(card.plan)
        state = load_file(weights)
        expected = network.state_dict()
        for key, weight in state.items():  # load_state_dict would take these
            if key in expected and weight.dtype != expected[key].dtype:
                raise ValueError(f"{key} is {weight.dtype}, not {expected[key].dtype}")
            if not weight.isfinite().all():
                raise ValueError(f"{key} is not finite")
        network.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        said = " ".join(str(error).split())  # torch lists every tensor on a line of its own
        raise UserError(f"{weights} does not fit its card ({said}). {Card.remedy}") from None
    return PairGenerator(network, card, open_device(device))


def open_device(name: str | torch.device) -> torch.device:
    """A device that can compute.

    Raises:
        UserError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` has tensors, and no numbers in them
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"Device '{name}' is not available ({str(error).splitlines()[0][:160]}). Try --device cpu"
        ) from None
    return device
