"""What training changes, and one step of it. All randomness is a function of seed and step."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from stylegan2_cond.networks import Discriminator, Generator, build_discriminator, build_generator
from stylegan2_cond.planning import Plan
from stylegan2_cond.training.ema import ema_decay, update_ema
from stylegan2_cond.training.losses import discriminator_loss, generator_loss, r1_penalty

ADAM_BETAS = (0.0, 0.99)
ADAM_EPS = 1e-8
INITIALISATION, LATENTS = 0, 1  # which stream of random numbers


@dataclass
class TrainingState:
    """Networks, optimizers and the count of real images seen; a checkpoint holds nothing else."""

    plan: Plan
    device: torch.device
    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    images_seen: int = 0

    @classmethod
    def start(cls, plan: Plan, device: torch.device) -> TrainingState:
        """Fresh networks, drawn from the plan's seed; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_stream_seed(plan.seed, INITIALISATION, 0))
            networks = [build_generator(plan), build_discriminator(plan)]
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}[len(plan.canvas)]  # 1.3× faster on a CPU
        generator, discriminator = (network.to(device, memory_format=layout) for network in networks)
        return cls(
            plan=plan,
            device=device,
            generator=generator,
            discriminator=discriminator,
            average=copy.deepcopy(generator).eval().requires_grad_(False),
            generator_optimizer=torch.optim.Adam(
                generator.parameters(), lr=plan.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS
            ),
            discriminator_optimizer=_lazy_adam(discriminator, plan),
        )

    @property
    def step_number(self) -> int:
        return self.images_seen // self.plan.batch_size

    def step(self, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """One step of both networks on real canvases: image `[N, C, *canvas]`, label `[N, *canvas]`.

        The batch that the generator was judged by serves the discriminator too, which saves drawing another.

        Returns:
            losses and mean scores by name.
        """
        plan, codec = self.plan, self.plan.codec
        label_tensor = torch.from_numpy(label).to(self.device)
        condition = plan.conditions.measure(label_tensor)
        known = codec.known(label_tensor)
        real = codec.hide(codec.encode(torch.from_numpy(image).to(self.device), label_tensor), known)

        z, noises = self._latents(len(image))
        drawn = codec.hide(codec.activate(self.generator(z, condition, noises)), known)
        self.discriminator.requires_grad_(False)
        loss_generator = generator_loss(self.discriminator(drawn, condition))
        _descend(self.generator_optimizer, loss_generator)
        self.discriminator.requires_grad_(True)

        real_scores = self.discriminator(real, condition)
        drawn_scores = self.discriminator(drawn.detach(), condition)
        loss_discriminator = discriminator_loss(real_scores, drawn_scores)
        _descend(self.discriminator_optimizer, loss_discriminator)

        figures = {
            "loss_generator": loss_generator.item(),
            "loss_discriminator": loss_discriminator.item(),
            "score_real": real_scores.mean().item(),
            "score_drawn": drawn_scores.mean().item(),
        }
        if self.step_number % plan.r1_interval == 0:
            penalty = r1_penalty(self.discriminator, real, condition)
            _descend(self.discriminator_optimizer, penalty * plan.r1_weight * plan.r1_interval)
            figures["r1"] = penalty.item()

        self.images_seen += len(image)
        update_ema(self.average, self.generator, ema_decay(self.images_seen, len(image), plan.ema_share))
        return figures

    def _latents(self, count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Latents `[count, latent_dim]` and noise of this step."""
        rng = torch.Generator(self.device).manual_seed(_stream_seed(self.plan.seed, LATENTS, self.step_number))
        shapes = [(self.plan.latent_dim,), *((1, *size) for size in self.generator.synthesis.noise_sizes)]
        z, *noises = (torch.randn(count, *shape, generator=rng, device=self.device) for shape in shapes)
        return z, noises

    def state_dict(self) -> dict:
        """All that `load_state_dict` needs to go on exactly."""
        return {
            "images_seen": self.images_seen,
            **{name: getattr(self, name).state_dict() for name in _STATEFUL},
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over a state of the same plan."""
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.images_seen = state["images_seen"]


_STATEFUL = ("generator", "discriminator", "average", "generator_optimizer", "discriminator_optimizer")


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _lazy_adam(discriminator: Discriminator, plan: Plan) -> torch.optim.Adam:
    """Adam that takes one more step every `r1_interval`: step and memory shortened (Karras et al. 2020, B)."""
    ratio = plan.r1_interval / (plan.r1_interval + 1)
    return torch.optim.Adam(
        discriminator.parameters(),
        lr=plan.learning_rate * ratio,
        betas=tuple(beta**ratio for beta in ADAM_BETAS),
        eps=ADAM_EPS,
    )


def _stream_seed(seed: int, stream: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1, np.uint64)[0] >> 1)
