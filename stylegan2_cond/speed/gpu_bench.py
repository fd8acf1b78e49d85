"""What the checks of a GPU share: how much they ask of it, states to train, and measures of difference."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch

from stylegan2_cond.planning import Plan
from stylegan2_cond.planning.heuristics import choose_precision
from stylegan2_cond.speed.step import speed_plan
from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.distributed import DistributedContext
from stylegan2_cond.training.profile_step import random_patches
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import finish_step, take_step

Figures = dict[str, float | int | str]


class CheckFailed(Exception):
    """The device does something else than it should."""


class Skipped(Exception):
    """There is nothing to check here."""


@dataclass(frozen=True)
class Sizes:
    """How large the checks are.

    Attributes:
        op_shapes: batch, channels and spatial size of activations.
        plan: arguments of `speed_plan` for all that trains or samples.
        volume: those for the check of memory.
        parts: numbers of parts of a batch whose memory is measured.
        steps: before and after the stop of a training.
        rounds: of a measurement of time.
    """

    op_shapes: tuple[tuple[int, int, tuple[int, ...]], ...]
    plan: dict[str, int]
    volume: dict[str, int]
    parts: tuple[int, ...]
    steps: int
    rounds: int


FULL = Sizes(
    op_shapes=((16, 64, (64, 64)), (4, 32, (256, 256)), (2, 32, (64, 64, 64))),
    plan={"side": 256, "batch_size": 16, "finest": 32, "most": 512},
    volume={"side": 128, "dims": 3, "image_channels": 4, "batch_size": 8, "finest": 32, "most": 256},
    parts=(1, 2, 4, 8),
    steps=4,
    rounds=5,
)
SMALL = Sizes(  # for a CPU
    op_shapes=((2, 8, (8, 8)), (1, 4, (6, 6, 6))),
    plan={"side": 16, "batch_size": 8, "finest": 4, "most": 8},
    volume={"side": 16, "dims": 3, "image_channels": 4, "batch_size": 2, "finest": 4, "most": 4},
    parts=(1,),
    steps=1,
    rounds=1,
)


@dataclass
class Bench:
    """A device, how much to ask of it, and the figures that a check writes down, also before it fails."""

    device_name: str
    sizes: Sizes
    gpus: int = 0
    figures: Figures = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(self.device_name)

    def plan(self, precision: str | None = None) -> Plan:
        """As training by default would have it; in the device's own precision if None."""
        precision = precision or choose_precision(self.device).value
        return speed_plan(**self.sizes.plan).model_copy(update={"precision": precision})


def require(condition: bool, otherwise: str) -> None:
    """Fail the check, for the reason given, unless a condition holds."""
    if not condition:
        raise CheckFailed(otherwise)


def difference(mine: torch.Tensor, theirs: torch.Tensor, terms: int) -> float:
    """Of two results, relative to their root mean square; sums of many terms of random sign may cancel."""
    mine, theirs = mine.detach().double(), theirs.detach().double()
    scale = max(theirs.square().mean().sqrt().item(), math.sqrt(terms / theirs.numel()), 1e-30)
    error = (mine - theirs).square().mean().sqrt().item() / scale
    return math.inf if math.isnan(error) else error  # so that it is the largest


def busy_state(plan: Plan, device: torch.device, distributed: DistributedContext | None = None) -> TrainingState:
    """A fresh state in which all that a step can do is done: noise, and every augmentation."""
    set_precision(plan)
    state = TrainingState.start(plan, device, distributed)
    for network in (state.generator, state.average):
        for conv in network.synthesis.convs:
            conv.noise_strength.data.fill_(0.5)
    state.adaptive.p = LARGEST_P
    return state


def train(state: TrainingState, steps: int) -> TrainingState:
    """The state after steps on random patches."""
    for _ in range(steps):
        finish_step(state, take_step(state, *random_patches(state.plan)))
    return state


def weights(state: TrainingState) -> torch.Tensor:
    """All weights of both networks and of the average, as one vector on the CPU."""
    networks = (state.generator, state.discriminator, state.average)
    return torch.cat([w.detach().flatten().double().cpu() for network in networks for w in network.parameters()])


def gradients(
    plan: Plan, device: torch.device, distributed: DistributedContext | None = None, *, repeats: int = 1
) -> dict[str, torch.Tensor]:
    """Of both networks' losses, and of the penalties, at the first weights; on the CPU. The last of `repeats` count."""
    state, found = busy_state(plan, device, distributed), {}
    names = {"generator": state.generator, "discriminator": state.discriminator}
    state.generator_optimizer, state.discriminator_optimizer = (
        torch.optim.SGD(network.parameters(), lr=0.0) for network in names.values()
    )
    share = state.distributed.share(plan.batch_size)
    for step in ("with penalties", "plain") * repeats:
        take_step(state, *(part[share] for part in random_patches(plan))).read()
        for name, network in names.items():
            each = [torch.zeros_like(w) if w.grad is None else w.grad for w in network.parameters()]
            found[f"{name}, {step}"] = torch.cat([one.flatten().cpu() for one in each])
    return found


def compare_gradients(bench: Bench, mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference; all are written down."""
    errors = {name: difference(mine[name], gradient, 0) for name, gradient in theirs.items()}
    bench.figures |= errors
    return max(errors.values())


@contextmanager
def deterministic() -> Iterator[None]:
    """Within it, sums are added in the same order each time, where PyTorch can do so."""
    before = torch.are_deterministic_algorithms_enabled()
    with patch.dict(os.environ, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about operations that PyTorch cannot make deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


@contextmanager
def waiting_refused(device: torch.device) -> Iterator[None]:
    """CUDA refuses to wait."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
