"""One step of both players, on a batch of real patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.training.augment import AugmentParameters
from stylegan2_cond.training.ema import ema_decay, update_ema
from stylegan2_cond.training.losses import (
    feature_matching,
    gradient_penalty,
    relativistic_loss,
)
from stylegan2_cond.training.state import TrainingState


Figures = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Real pairs, coded, and what is drawn beside them; every member has one entry a sample.

    Attributes:
        real: `[N, C + K, *spatial]`; label channels are 0 where the label is ignored.
        known: `[N, 1, *spatial]`, 0 where the label is ignored; None where none ever is.
        condition: `[N, width]`.
        z: latents `[N, latent_dim]`.
        noises: `[N, 1, *size]` for each convolution.
        augmentation: what the discriminator's view of the sample goes through; None is nothing.
        visible: `[N, C + K, 1, …]`, 0 for what the discriminator is not shown of a sample; None where it sees all.
    """

    real: torch.Tensor
    known: torch.Tensor | None
    condition: torch.Tensor
    z: torch.Tensor
    noises: list[torch.Tensor]
    augmentation: AugmentParameters | None
    visible: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, chosen: slice) -> Batch:
        values = {name.name: getattr(self, name.name) for name in fields(self)}
        parts = {
            name: [one[chosen] for one in value]
            if isinstance(value, list)
            else None
            if value is None
            else value[chosen]
            for name, value in values.items()
        }
        return replace(self, **parts)

    def parts(self, count: int) -> Iterator[Batch]:
        """`count` parts of the same length, one after the other; a few more where the batch can't be divided so."""
        count = next(number for number in range(min(count, len(self)), len(self) + 1) if len(self) % number == 0)
        size = len(self) // count
        return (self[start : start + size] for start in range(0, len(self), size))


def take_step(state: TrainingState, image: np.ndarray, label: np.ndarray, position: np.ndarray) -> dict[str, float]:
    """Let both players learn from this process's share of a batch of real patches.

    The pairs that the generator was judged by serve the discriminator too, which saves drawing others.

    Args:
        state: is changed.
        image: `[N, C, *spatial]` in nnU-Net's units.
        label: `[N, *spatial]` integers.
        position: `[N]`, where in their volumes 2-D patches were cut, from 0 to 1.

    Returns:
        losses, mean scores and other figures by name, averaged over all processes.
    """
    plan = state.plan
    batch = _prepare(state, image, label, position)
    parts = list(batch.parts(plan.accumulate))
    seen, figures = _generator_step(state, parts)
    figures |= _discriminator_step(state, parts, seen)
    if plan.r1_weight and state.step_number % plan.r1_interval == 0:
        figures |= _gradient_step(state, parts, seen)
    told = _tell(state, figures)
    if state.adaptive:
        state.adaptive.update(told["sign_real"], plan.batch_size)
        told["augment_p"] = state.adaptive.p
    state.track_spread(told["spread"])
    state.images_seen += plan.batch_size
    update_ema(state.average, state.generator, ema_decay(state.images_seen, plan.batch_size, plan.ema_share))
    return told


def _prepare(state: TrainingState, image: np.ndarray, label: np.ndarray, position: np.ndarray) -> Batch:
    """Code the real pairs, part by part; draw all that is random for the whole batch, and keep this process's share."""
    plan, codec, device = state.plan, state.plan.codec, state.device
    labels = torch.from_numpy(label).to(device, non_blocking=True)
    images = torch.from_numpy(image[:, : codec.image_channels]).to(device, non_blocking=True)
    known = codec.known(labels)
    size = max(1, len(labels) // plan.accumulate)
    real = torch.empty(len(labels), codec.channels, *labels.shape[1:], device=device)
    for part, *given in zip(real.split(size), images.split(size), labels.split(size), strict=True):
        part.copy_(codec.encode(*given))
    real = codec.hide(real, known)
    z, noises = _latents(state)
    share = state.world.share(plan.batch_size)
    return Batch(
        real=real,
        known=known,
        condition=plan.conditions.measure(labels, torch.from_numpy(position).to(device)),
        z=z[share],
        noises=[noise[share] for noise in noises],
        augmentation=_augmentation(state, share),
        visible=_visibility(state, share),
    )


def _latents(state: TrainingState) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Latents `[batch_size, latent_dim]`, and noise of this step."""
    count, device, rng = state.plan.batch_size, state.device, state.rng(RandomStream.LATENTS)
    sizes = state.generator.synthesis.noise_sizes
    z = torch.randn(count, state.plan.latent_dim, generator=rng, device=device)
    noises = [torch.randn(count, 1, *size, generator=rng, device=device) for size in sizes]
    return z, noises


def _augmentation(state: TrainingState, share: slice) -> AugmentParameters | None:
    if state.adaptive is None or state.adaptive.p == 0:
        return None
    plan = state.plan
    drawn = state.augment.sample(
        plan.batch_size, state.adaptive.p, plan.patch_size, state.rng(RandomStream.AUGMENTATION), state.device
    )
    return drawn[share]


def _visibility(state: TrainingState, share: slice) -> torch.Tensor | None:
    """Which parts of each sample the discriminator is shown: of some, the image or the mask alone.

    A part that is judged alone can't be excused by the other one. A given mask is real, and never judged alone.
    """
    plan, codec = state.plan, state.plan.codec
    if not plan.apart_share or not codec.image_channels:
        return None
    chance = torch.rand(plan.batch_size, generator=state.rng(RandomStream.VISIBILITY), device=state.device)[share]
    no_mask = chance < (plan.apart_share if plan.given_mask else plan.apart_share / 2)
    no_image = (chance < plan.apart_share) & ~no_mask
    hidden = torch.stack([no_image] * codec.image_channels + [no_mask] * len(codec.labels), dim=1)
    return (~hidden).float().reshape(*hidden.shape, *[1] * len(plan.patch_size))


def _draw(state: TrainingState, batch: Batch, w: torch.Tensor) -> torch.Tensor:
    """Coded pairs `[N, C + K, *spatial]`, with label channels hidden where the real label is ignored."""
    codec = state.plan.codec
    given = batch.real[:, codec.image_channels :] if state.plan.given_mask else None
    raw = state.generator.synthesis(w, batch.noises, given)
    return codec.hide(codec.activate(raw, given), batch.known)


def _view(state: TrainingState, pairs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Pairs as the discriminator is shown them: real and drawn ones go through the same augmentation."""
    pairs = pairs if batch.augmentation is None else state.augment(pairs, batch.augmentation)
    return pairs if batch.visible is None else pairs * batch.visible


def _scores(state: TrainingState, pairs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """`[N]` float32."""
    return state.discriminator(pairs, batch.condition)[0].float()


def _scores_and_features(
    state: TrainingState, pairs: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
    """`[N]` float32, and the features of each block where the plan matches them."""
    if not (state.plan.given_mask and state.plan.feature_weight):
        return _scores(state, pairs, batch), None
    scores, features = state.discriminator(pairs, batch.condition)
    return scores.float(), features


def _generator_step(state: TrainingState, parts: list[Batch]) -> tuple[list[torch.Tensor], Figures]:
    """The generator learns; returns what the discriminator was shown of each part."""
    plan, shown, found = state.plan, [], []
    state.discriminator.requires_grad_(False)
    state.generator_optimizer.zero_grad(set_to_none=True)
    w_mean, before = torch.zeros_like(state.generator.mapping.average), None
    for part in parts:
        with state.autocast():
            w = state.generator.mapping(part.z, part.condition)
            pairs = _draw(state, part, w)
            view = _view(state, pairs, part)
            drawn_scores, features = _scores_and_features(state, view, part)
            with torch.no_grad():
                real_scores, real_features = _scores_and_features(state, _view(state, part.real, part), part)
            loss = relativistic_loss(drawn_scores, real_scores)
            figures = {"loss_generator": loss.detach(), "spread": _spread(part.real, pairs, before)}
            if plan.given_mask:
                paired, paired_figures = _paired_loss(state, part, pairs, features, real_features)
                loss, figures = loss + paired, figures | paired_figures
        (loss / len(parts)).backward()
        w_mean += w.detach().float().mean(dim=0) / len(parts)
        shown.append(view.detach())
        found.append(figures)
        before = part.real, pairs.detach()
    found[0]["spread"] = found[min(1, len(found) - 1)]["spread"] if len(parts[0]) == 1 else found[0]["spread"]
    _descend(state, state.generator, state.generator_optimizer)
    state.discriminator.requires_grad_(True)
    state.world.average([w_mean])
    state.generator.mapping.track_average(w_mean)
    return shown, _mean(found)


def _paired_loss(
    state: TrainingState,
    part: Batch,
    pairs: torch.Tensor,
    features: list[torch.Tensor] | None,
    real_features: list[torch.Tensor] | None,
) -> tuple[torch.Tensor, Figures]:
    """What an image owes to the real one of its mask: near in intensity, and in the discriminator's features."""
    plan, channels = state.plan, state.plan.codec.image_channels
    l1 = F.l1_loss(pairs[:, :channels], part.real[:, :channels])
    loss, figures = plan.l1_weight * l1, {"l1": l1.detach()}
    if plan.feature_weight:
        apart = feature_matching(real_features, features)
        loss, figures = loss + plan.feature_weight * apart, figures | {"features": apart.detach()}
    return loss, figures


def _discriminator_step(state: TrainingState, parts: list[Batch], shown: list[torch.Tensor]) -> Figures:
    """The discriminator learns to tell the real pairs from those that the generator was judged by."""
    found = []
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    for part, drawn in zip(parts, shown, strict=True):
        with state.autocast():
            real_scores = _scores(state, _view(state, part.real, part), part)
            drawn_scores = _scores(state, drawn, part)
            loss = relativistic_loss(real_scores, drawn_scores)
        (loss / len(parts)).backward()
        found.append(
            {
                "loss_discriminator": loss.detach(),
                "score_real": real_scores.detach().mean(),
                "score_drawn": drawn_scores.detach().mean(),
                "sign_real": (real_scores - drawn_scores).detach().sign().mean(),  # a score alone means nothing
            }
        )
    _descend(state, state.discriminator, state.discriminator_optimizer)
    return _mean(found)


def _gradient_step(state: TrainingState, parts: list[Batch], shown: list[torch.Tensor]) -> Figures:
    """R1 and R2, once in `r1_interval` steps and so much the heavier."""
    plan, found = state.plan, []
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    for part, drawn in zip(parts, shown, strict=True):
        figures = {}
        for name, view in (("r1", _view(state, part.real, part)), ("r2", drawn)):
            inputs = view.detach().requires_grad_(True)
            with state.autocast():
                penalty = gradient_penalty(_scores(state, inputs, part), inputs)
            (penalty * plan.r1_weight * plan.r1_interval / len(parts)).backward()
            figures[name] = penalty.detach()
        found.append(figures)
    _descend(state, state.discriminator, state.discriminator_optimizer)
    return _mean(found)


def _descend(state: TrainingState, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step along the gradient, averaged over all processes."""
    state.world.average([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    optimizer.step()


def _spread(
    real: torch.Tensor, drawn: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """How much the drawn pairs of a part differ from each other, as a share of how much the real ones do.

    Of a part of one, those of the part `before` are looked at too.
    """
    if len(real) < 2 and before is not None:
        real, drawn = torch.cat([before[0], real]), torch.cat([before[1], drawn])
    if len(real) < 2:
        return real.new_ones([])
    real, drawn = ((x - x.mean(dim=0)).square().mean(dim=0).sqrt().mean() for x in (real, drawn.detach().float()))
    return drawn / real.clamp_min(1e-8)


def _mean(found: list[Figures]) -> Figures:
    return {name: torch.stack([figures[name].float() for figures in found]).mean() for name in found[0]}


def _tell(state: TrainingState, figures: Figures) -> dict[str, float]:
    """Figures as numbers, averaged over all processes; the device is waited for once."""
    values = torch.stack([value.float().reshape([]) for value in figures.values()])
    state.world.average([values])
    return dict(zip(figures, values.tolist(), strict=True))
