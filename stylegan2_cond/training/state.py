"""What training changes, and how it is kept: networks, optimizers, counts. All randomness is of seed and step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from stylegan2_cond.networks import Discriminator, Generator, build_discriminator, build_generator
from stylegan2_cond.ops import name_backend
from stylegan2_cond.planning import Plan
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.training.augment import AdaptiveProbability, Augment
from stylegan2_cond.training.distributed import DistributedContext

ADAM_BETAS = (0.0, 0.99)
ADAM_EPS = 1e-8
SPREAD_IMAGES = 1_000


@dataclass
class TrainingState:
    """Networks, optimizers and counts; a checkpoint holds what changes of them, and nothing else.

    Attributes:
        average: the generator whose weights are the moving average; it is what draws.
        adaptive: how probable augmentation is; None where the plan has none.
        spread: running mean of how much drawn pairs differ from each other, as a share of how much real ones do.
        images_seen: real images that training has seen.
        rollbacks: how often training went back to an earlier checkpoint, each time to go on with half the step.
        figures: values of each figure since the last log line.
        backends: of the ops that computed this training, in the order of their use.
    """

    plan: Plan
    device: torch.device
    world: DistributedContext
    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    augment: Augment
    adaptive: AdaptiveProbability | None
    spread: float = 1.0
    images_seen: int = 0
    rollbacks: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)
    backends: tuple[str, ...] = ()
    _stateful: tuple[str, ...] = field(
        default=("generator", "discriminator", "average", "generator_optimizer", "discriminator_optimizer"), repr=False
    )

    @classmethod
    def start(cls, plan: Plan, device: torch.device, world: DistributedContext | None = None) -> TrainingState:
        """Fresh networks, drawn from the plan's seed; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(plan.seed, RandomStream.INITIALISATION, 0))
            networks = [build_generator(plan), build_discriminator(plan)]
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}[len(plan.patch_size)]  # 1.3× faster on a CPU
        generator, discriminator = (network.to(device, memory_format=layout) for network in networks)
        adaptive = (
            None
            if plan.augment_target is None
            else AdaptiveProbability(target=plan.augment_target, ramp_images=plan.augment_kimg * 1000)
        )
        return cls(
            plan=plan,
            device=device,
            world=world or DistributedContext(),
            generator=generator,
            discriminator=discriminator,
            average=copy.deepcopy(generator).eval().requires_grad_(False),
            generator_optimizer=_adam(generator, plan),
            discriminator_optimizer=_adam(discriminator, plan, plan.r1_interval if plan.r1_weight else 0),
            augment=Augment(plan.codec.image_channels, len(plan.patch_size), spacing=plan.spacing),
            adaptive=adaptive,
        )

    @property
    def step_number(self) -> int:
        return self.images_seen // self.plan.batch_size

    def rng(self, stream: RandomStream) -> torch.Generator:
        """Random numbers of this step; others after a rollback, so that the same accident need not happen again."""
        seed = stream_seed(self.plan.seed, stream, self.step_number, self.rollbacks)
        return torch.Generator(self.device).manual_seed(seed)

    def autocast(self) -> torch.autocast:
        """The networks' precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16")

    def note_backend(self) -> str | None:
        """Remember what computes the ops from here on; what computed them before, if that was something else."""
        before, now = self.backends[-1:], name_backend(self.device.type)
        if before == (now,):
            return None
        self.backends += (now,)
        return before[0] if before else None

    def track_spread(self, spread: float) -> None:
        """Move the running mean of the spread, over the last thousand images or so."""
        self.spread += (spread - self.spread) * min(1.0, self.plan.batch_size / SPREAD_IMAGES)

    def apply_rollback(self, rollbacks: int) -> None:
        """Go on from here for the so-many-th time, each time with half the step of the time before."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] /= 2 ** (rollbacks - self.rollbacks)
        self.rollbacks = rollbacks

    def state_dict(self) -> dict:
        """All that `load_state_dict` needs to go on exactly."""
        return {
            "images_seen": self.images_seen,
            "rollbacks": self.rollbacks,
            "spread": self.spread,
            "figures": {name: list(values) for name, values in self.figures.items()},
            "backends": self.backends,
            "adaptive": self.adaptive.state_dict() if self.adaptive else None,
            **{name: getattr(self, name).state_dict() for name in self._stateful},
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over a state of the same plan.

        Raises:
            ValueError: a part is of another type or shape, or holds a number that is not finite.
            Exception: what torch raises when a part is missing.
        """
        _refuse_misfits(state, self.state_dict())
        for name in self._stateful:
            getattr(self, name).load_state_dict(state[name])
        for name in ("generator_optimizer", "discriminator_optimizer"):
            for weight, moments in getattr(self, name).state.items():
                if any(moment.ndim and moment.shape != weight.shape for moment in moments.values()):
                    raise ValueError(f"{name} is of other weights")
        if self.adaptive:
            self.adaptive.load_state_dict(state["adaptive"])
        self.images_seen, self.rollbacks, self.spread = state["images_seen"], state["rollbacks"], state["spread"]
        self.figures.clear()
        self.figures.update({name: list(values) for name, values in state["figures"].items()})
        self.backends = tuple(state["backends"])


def _refuse_misfits(state: dict, expected: dict) -> None:
    """Compare what both have; of a fresh optimizer that is not everything."""
    kinds = {place: _kind(value) for place, value in _leaves(expected)}
    for place, value in _leaves(state):
        if _kind(value) != kinds.get(place, _kind(value)):
            raise ValueError(f"{place} is {_kind(value)}, not {kinds[place]}")
        if not _is_finite(value):
            raise ValueError(f"{place} is not finite")
    if min(state["images_seen"], state["rollbacks"]) < 0:
        raise ValueError("images_seen or rollbacks is negative")
    for name, values in state["figures"].items():
        if not all(isinstance(value, (int, float)) for value in values):
            raise ValueError(f"figures.{name} holds other things than numbers")


def _leaves(content: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested dictionaries, lists and tuples, by its place."""
    if not isinstance(content, (dict, list, tuple)):
        yield place, content
        return
    for key, part in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _leaves(part, f"{place}.{key}" if place else str(key))


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _is_finite(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all())
    return not isinstance(value, float) or math.isfinite(value)


def _adam(network: torch.nn.Module, plan: Plan, interval: int = 0) -> torch.optim.Adam:
    """Adam; one more step every `interval` makes steps and memory shorter (Karras et al. 2020, appendix B)."""
    ratio = interval / (interval + 1) if interval else 1.0
    return torch.optim.Adam(
        network.parameters(),
        lr=plan.learning_rate * ratio,
        betas=tuple(beta**ratio for beta in ADAM_BETAS),
        eps=ADAM_EPS,
    )


def set_precision(plan: Plan) -> None:
    """Let float32 be float32, but for convolutions where the plan has TF32.

    Matrix products make warps, styles and their norms; they take no time, and TF32 would shift a warp by a tenth of a
    pixel. The setting is this process's own.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = plan.precision == "tf32"


def stream_seed(seed: int, *place: int) -> int:
    """A seed for each place in each stream."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)
