"""The state of a training: networks, optimizers, moving average, counts. Randomness depends on seed and step alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from stylegan2_cond.networks import Discriminator, Generator, build_discriminator, build_generator
from stylegan2_cond.ops import name_backend
from stylegan2_cond.planning import Plan
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.training.augment import AdaptiveProbability, Augment
from stylegan2_cond.training.distributed import DistributedContext
from stylegan2_cond.training.step_graphs import CudaRecorder, StepGraphs

ADAM_BETAS = (0.0, 0.99)
ADAM_EPS = 1e-8
FUSED = ("cpu", "cuda")  # devices for which torch has an Adam in one pass
SPREAD_IMAGES = 1_000
OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")
STATEFUL = ("generator", "discriminator", "average", *OPTIMIZERS)
LONGEST_HALF_LIFE = 20_000  # images, of the moving average; Karras et al. 2020b use 5,000 to 20,000


@dataclass(frozen=True)
class StepReport:
    """Scalars of a step, which the device may still be computing.

    Attributes:
        names: of the scalars.
        values: `[scalars]`, on the CPU.
        ready: when the values are there; None if they are.
    """

    names: tuple[str, ...]
    values: torch.Tensor
    ready: torch.cuda.Event | None = None

    @classmethod
    def of(cls, names: Iterable[str], values: torch.Tensor) -> StepReport:
        """The report of values on any device, `[scalars]`; does not wait for them."""
        if values.device.type != "cuda":
            return cls(tuple(names), values.cpu())
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return cls(tuple(names), host, ready)

    def read(self) -> dict[str, float]:
        """Wait for the scalars."""
        if self.ready is not None:
            self.ready.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


@dataclass
class TrainingState:
    """Networks, optimizers and counts; a checkpoint holds what changes of them, and nothing else.

    Attributes:
        average: the generator with the moving average of the weights; samples come from it.
        adaptive: probability of augmentation; None if the plan has no augmentation.
        spread: running mean of how much generated pairs vary, as a fraction of how much real ones do.
        images_seen: number of real images that training has seen.
        rollbacks: how often training returned to an earlier checkpoint, each time halving the learning rate.
        scalars: values of each scalar since the last log line.
        pending: report of the last step, which is read after the next one was started; None if there is none.
        backends: ops backends that computed this training, in the order of their use.
        graphs: of the work on the GPU; None if the plan has no `cuda_graphs`.
    """

    plan: Plan
    device: torch.device
    distributed: DistributedContext
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
    scalars: dict[str, list[float]] = field(default_factory=dict)
    pending: StepReport | None = None
    backends: tuple[str, ...] = ()
    graphs: StepGraphs | None = None

    @classmethod
    def start(cls, plan: Plan, device: torch.device, distributed: DistributedContext | None = None) -> TrainingState:
        """Untrained networks, initialised from the plan's seed; torch's global random state does not change."""
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
            distributed=distributed or DistributedContext(),
            generator=generator,
            discriminator=discriminator,
            average=copy.deepcopy(generator).eval().requires_grad_(False),
            generator_optimizer=_adam(generator, plan),
            discriminator_optimizer=_adam(discriminator, plan, plan.r1_interval if plan.r1_weight else 0),
            augment=Augment(
                plan.codec.image_channels,
                len(plan.patch_size),
                spacing=plan.spacing,
                fixed_shapes=plan.cuda_graphs,
            ),
            adaptive=adaptive,
            graphs=StepGraphs(CudaRecorder(device)) if plan.cuda_graphs else None,
        )

    @property
    def step_number(self) -> int:
        """Number of steps taken so far."""
        return self.images_seen // self.plan.batch_size

    def rng(self, stream: RandomStream, device: str | None = None) -> torch.Generator:
        """Random numbers of this step, on the state's device or another.

        They depend on the number of rollbacks, so that a retry sees other noise.
        """
        seed = stream_seed(self.plan.seed, stream, self.step_number, self.rollbacks)
        return torch.Generator(device or self.device).manual_seed(seed)

    def autocast(self) -> torch.autocast:
        """Context in which the networks compute in the plan's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16")

    def note_backend(self) -> str | None:
        """Record the ops backend that is used from now on; returns the previous one if it was another."""
        before, now = self.backends[-1:], name_backend(self.device.type)
        if before == (now,):
            return None
        self.backends += (now,)
        return before[0] if before else None

    def track_spread(self, spread: float) -> None:
        """Update the running mean of the spread, over about the last `SPREAD_IMAGES` images."""
        self.spread += (spread - self.spread) * min(1.0, self.plan.batch_size / SPREAD_IMAGES)

    def apply_rollback(self, rollbacks: int) -> None:
        """Continue after rollback number `rollbacks`, halving the learning rate each time."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] /= 2 ** (rollbacks - self.rollbacks)
        self.rollbacks = rollbacks
        if self.graphs:
            self.graphs.clear()

    def state_dict(self) -> dict:
        """Everything that `load_state_dict` needs to resume exactly."""
        return {
            "images_seen": self.images_seen,
            "rollbacks": self.rollbacks,
            "spread": self.spread,
            "scalars": {name: list(values) for name, values in self.scalars.items()},
            "pending": self.pending.read() if self.pending else {},
            "backends": self.backends,
            "adaptive": self.adaptive.state_dict() if self.adaptive else None,
            **{name: getattr(self, name).state_dict() for name in STATEFUL},
        }

    def load_state_dict(self, state: dict) -> None:
        """Load the state of a training with the same plan.

        Raises:
            ValueError: a part has another type or shape, or holds a number that is not finite.
            Exception: what torch raises when a part is missing.
        """
        for name in OPTIMIZERS:  # what computes a step is this device's choice
            for saved, own in zip(state[name]["param_groups"], getattr(self, name).param_groups, strict=True):
                saved |= {key: own[key] for key in ("fused", "capturable") if key in own}
        _refuse_misfits(state, self.state_dict())
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        if self.graphs:
            self.graphs.clear()
        for name in OPTIMIZERS:
            for weight, moments in getattr(self, name).state.items():
                if any(moment.ndim and moment.shape != weight.shape for moment in moments.values()):
                    raise ValueError(f"{name} belongs to other weights")
        if self.adaptive:
            self.adaptive.load_state_dict(state["adaptive"])
        self.images_seen, self.rollbacks, self.spread = state["images_seen"], state["rollbacks"], state["spread"]
        self.scalars.clear()
        self.scalars.update({name: list(values) for name, values in state["scalars"].items()})
        pending = state.get("pending", {})  # older checkpoints have none
        self.pending = StepReport.of(pending, torch.tensor([*pending.values()])) if pending else None
        self.backends = tuple(state["backends"])


def ema_decay(images_seen: int, batch_size: int, share: float) -> float:
    """Decay per step for a half-life of `share` of the images seen so far (ramp-up of Karras et al. 2020b).

    A fixed half-life keeps the random first weights in the average for most of a short training; an unlimited one
    averages over weights that are far apart in a long one.
    """
    half_life = min(max(images_seen * share, 1e-8), LONGEST_HALF_LIFE)
    return 0.5 ** (batch_size / half_life)


@torch.no_grad()
def update_ema(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move `average` towards `network`; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mean, current in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(current)


def _refuse_misfits(state: dict, expected: dict) -> None:
    """Compare what both have: a fresh optimizer lacks moments."""
    kinds = {place: _kind(value) for place, value in _leaves(expected)}
    for place, value in _leaves(state):
        if _kind(value) != kinds.get(place, _kind(value)):
            raise ValueError(f"{place} is {_kind(value)}, not {kinds[place]}")
        if isinstance(value, (float, torch.Tensor)) and not torch.as_tensor(value).isfinite().all():
            raise ValueError(f"{place} is not finite")
    if min(state["images_seen"], state["rollbacks"]) < 0:
        raise ValueError("images_seen or rollbacks is negative")
    for name, values in state["scalars"].items():
        if not all(isinstance(value, (int, float)) for value in values):
            raise ValueError(f"scalars.{name} does not hold numbers only")


def _leaves(content: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested dictionaries, lists and tuples, with its place."""
    if not isinstance(content, (dict, list, tuple)):
        yield place, content
        return
    for key, part in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _leaves(part, f"{place}.{key}" if place else str(key))


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _adam(network: torch.nn.Module, plan: Plan, interval: int = 0) -> torch.optim.Adam:
    """Adam, adjusted for one more step every `interval` steps (lazy regularisation, Karras et al. 2020, appendix B)."""
    ratio = interval / (interval + 1) if interval else 1.0
    return torch.optim.Adam(
        network.parameters(),
        lr=plan.learning_rate * ratio,
        betas=tuple(beta**ratio for beta in ADAM_BETAS),
        eps=ADAM_EPS,
        fused=next(network.parameters()).device.type in FUSED,
        capturable=plan.cuda_graphs,
    )


def set_precision(plan: Plan) -> None:
    """Compute float32 in full precision, except for convolutions if the plan says TF32.

    Matrix products compute warps, styles and norms; they take little time, and TF32 would shift a warp by a tenth of a
    pixel. The setting applies to this process.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = plan.precision == "tf32"


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Let this thread, and those that PyTorch starts meanwhile, take denormal numbers for 0.

    Where a generator is sure of a mask, its gradients are denormal, and CPUs are many times slower with such numbers.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def stream_seed(seed: int, *place: int) -> int:
    """A seed for each place in each random stream."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)
