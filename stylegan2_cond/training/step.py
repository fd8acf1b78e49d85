"""One training step of generator and discriminator on a batch of real patches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stylegan2_cond.data.transfer import to_device
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.training.augment import AugmentParameters
from stylegan2_cond.training.losses import feature_matching, gradient_penalty, relativistic_loss
from stylegan2_cond.training.state import StepReport, TrainingState, ema_decay, update_ema
from stylegan2_cond.training.step_graphs import map_tensors

Scalars = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Encoded real pairs and all random inputs of the step, one entry per sample.

    Attributes:
        real: `[N, C + K, *patch_size]`; label channels are 0 where the label is ignored.
        known: `[N, 1, *patch_size]`, 0 where the label is ignored; None if the dataset has no ignore label.
        condition: `[N, width]`.
        z: latents `[N, latent_dim]`.
        noises: `[N, 1, *size]` for each convolution of the generator.
        augmentation: applied to real and generated pairs alike; None for no augmentation.
        visible: `[N, C + K, 1, …]`, 0 for what is hidden from the discriminator; None if it sees all pairs whole.
    """

    real: torch.Tensor
    known: torch.Tensor | None
    condition: torch.Tensor
    z: torch.Tensor
    noises: list[torch.Tensor]
    augmentation: AugmentParameters | None
    visible: torch.Tensor | None

    def __getitem__(self, part: slice) -> Batch:
        return map_tensors(lambda _, tensor: tensor[part], self)

    def split(self, count: int) -> list[Batch]:
        """The batch in `count` parts of equal size, or in the next larger number of parts that divides it."""
        total = len(self.real)
        count = next(number for number in range(min(count, total), total + 1) if total % number == 0)
        return [self[start : start + total // count] for start in range(0, total, total // count)]


def take_step(
    state: TrainingState,
    image: np.ndarray,
    label: np.ndarray,
    position: np.ndarray,
    labelled: np.ndarray | None = None,
) -> StepReport:
    """Train both networks on this process's share of a batch of real patches.

    Both learn from the same generated pairs.

    Args:
        state: changed in place.
        image: `[N, C, *patch_size]` in nnU-Net's units.
        label: `[N, *patch_size]` integers.
        position: `[N]`, position of each 2-D patch in its volume, from 0 to 1.
        labelled: `[N]` booleans, false for patches of scans, whose labels are pseudo-labels; None if there are none.

    Returns:
        losses, mean scores and other scalars by name, averaged over all processes; `finish_step` reads them, after the
        next step was started, so that a GPU is never idle.
    """
    plan = state.plan
    batch = _prepare(state, image, label, position, labelled)
    penalize = plan.r1_weight > 0 and state.step_number % plan.r1_interval == 0
    train = partial(_train, state, penalize)
    names, values = state.graphs.run(penalize, train, batch) if state.graphs else train(batch)
    state.distributed.average([values])
    state.images_seen += plan.batch_size
    update_ema(state.average, state.generator, ema_decay(state.images_seen, plan.batch_size, plan.ema_share))
    return StepReport.of(names, values)


def finish_step(state: TrainingState, report: StepReport) -> dict[str, float]:
    """Wait for a step's scalars, and let augmentation and the running spread follow them."""
    scalars = report.read()
    if state.adaptive:
        state.adaptive.update(scalars["sign_real"], state.plan.batch_size)
        scalars["augment_p"] = state.adaptive.p
    state.track_spread(scalars["spread"])
    return scalars


def _train(state: TrainingState, penalize: bool, batch: Batch) -> tuple[list[str], torch.Tensor]:
    """All of a step that `StepGraphs` may replay; returns names and values of its scalars."""
    parts = batch.split(state.plan.accumulate)
    generated, scalars = _train_both(state, parts)
    if penalize:
        scalars |= _penalize_gradients(state, parts, generated)
    return list(scalars), torch.stack([value.float().reshape([]) for value in scalars.values()])


def _train_both(state: TrainingState, parts: list[Batch]) -> tuple[list[torch.Tensor], Scalars]:
    """One step of each network: each raises the scores of its pairs above those of the other's.

    One forward pass of the discriminator serves both. Its scores of generated pairs are differentiated twice: to its
    input, from where the gradient goes on to the generator, and to its weights.

    Returns:
        What the discriminator saw of the generated pairs of each part, and scalars.
    """
    plan, channels = state.plan, state.plan.codec.image_channels
    views, found, previous = [], [], None
    weights = list(state.discriminator.parameters())
    w_mean = torch.zeros_like(state.generator.mapping.average)
    state.generator_optimizer.zero_grad(set_to_none=True)
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    for part in parts:
        with state.autocast():
            w = state.generator.mapping(part.z, part.condition)
            given = part.real[:, channels:] if plan.given_mask else None
            pairs = plan.codec.activate(state.generator.synthesis(w, part.noises, given), given)
            pairs = plan.codec.hide(pairs, part.known)  # as the real pairs
            drawn = _view(state, part, pairs)
            view = drawn.detach().requires_grad_(True)
            score, features = _discriminate(state, part, view)
            real_score, real_features = _discriminate(state, part, _view(state, part, part.real))
            generator_loss = relativistic_loss(score, real_score.detach())
            discriminator_loss = relativistic_loss(real_score, score)
            scalars = {
                "loss_generator": generator_loss.detach(),
                "loss_discriminator": discriminator_loss.detach(),
                "score_real": real_score.detach().mean(),
                "score_generated": score.detach().mean(),
                "sign_real": (real_score - score).detach().sign().mean(),  # a score alone has no meaning
                "spread": _spread(part.real, pairs, previous),
            }
            ends = [drawn]
            if plan.given_mask:  # the image should be near the real one of the same mask, in voxels and in features
                l1 = F.l1_loss(pairs[:, :channels], part.real[:, :channels])
                matching = feature_matching(real_features, features)
                generator_loss = generator_loss + plan.feature_weight * matching
                scalars |= {"l1": l1.detach(), "features": matching.detach()}
                ends.append(plan.l1_weight * l1 / len(parts))
        (gradient,) = torch.autograd.grad(generator_loss / len(parts), view, retain_graph=True)
        (discriminator_loss / len(parts)).backward(inputs=weights)
        torch.autograd.backward(ends, [gradient, None][: len(ends)])
        w_mean += w.detach().float().mean(dim=0) / len(parts)
        views.append(view.detach())
        found.append(scalars)
        previous = part.real, pairs.detach()
    if len(parts[0].real) == 1:  # the first part had no other sample to be compared with
        found[0]["spread"] = found[min(1, len(found) - 1)]["spread"]
    _descend(state, state.generator, state.generator_optimizer)
    _descend(state, state.discriminator, state.discriminator_optimizer)
    state.distributed.average([w_mean])
    state.generator.mapping.track_average(w_mean)
    return views, _mean(found)


def _penalize_gradients(state: TrainingState, parts: list[Batch], generated: list[torch.Tensor]) -> Scalars:
    """R1 and R2, every `r1_interval` steps with as many times the weight (Karras et al. 2020, section 3.1)."""
    plan, found = state.plan, []
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    for part, view in zip(parts, generated, strict=True):
        scalars = {}
        for name, pairs in (("r1", _view(state, part, part.real)), ("r2", view)):
            pairs = pairs.detach().requires_grad_(True)
            with state.autocast():
                penalty = gradient_penalty(_discriminate(state, part, pairs)[0], pairs)
            (penalty * plan.r1_weight * plan.r1_interval / len(parts)).backward()
            scalars[name] = penalty.detach()
        found.append(scalars)
    _descend(state, state.discriminator, state.discriminator_optimizer)
    return _mean(found)


def _view(state: TrainingState, part: Batch, pairs: torch.Tensor) -> torch.Tensor:
    """Pairs as the discriminator sees them: real and generated ones undergo the same augmentation."""
    pairs = pairs if part.augmentation is None else state.augment(pairs, part.augmentation)
    return pairs if part.visible is None else pairs * part.visible


def _discriminate(
    state: TrainingState, part: Batch, view: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
    """Scores `[N]` float32, and the features of each block if they are to be matched."""
    score, features = state.discriminator(view, part.condition)
    return score.float(), features if state.plan.given_mask else None


def _prepare(
    state: TrainingState, image: np.ndarray, label: np.ndarray, position: np.ndarray, labelled: np.ndarray | None
) -> Batch:
    """Encode the real pairs, part by part; draw random inputs for the whole batch, and keep this process's share."""
    plan, codec, device = state.plan, state.plan.codec, state.device
    labels, images = (to_device(torch.from_numpy(part), device) for part in (label, image[:, : codec.image_channels]))
    size = max(1, len(labels) // plan.accumulate)
    real = torch.empty(len(labels), codec.channels, *labels.shape[1:], device=device)
    for target, *pair in zip(real.split(size), images.split(size), labels.split(size), strict=True):
        target.copy_(codec.encode(*pair))
    known = codec.known(labels)
    rng, share = state.rng(RandomStream.LATENTS), state.distributed.share(plan.batch_size)
    z = torch.randn(plan.batch_size, plan.latent_dim, generator=rng, device=device)
    sizes = state.generator.synthesis.noise_sizes
    noises = [torch.randn(plan.batch_size, 1, *size, generator=rng, device=device) for size in sizes]
    augmentation = None
    if state.adaptive is not None and state.adaptive.p > 0:
        numbers = state.rng(RandomStream.AUGMENTATION, "cpu"), state.rng(RandomStream.AUGMENTATION_NOISE)
        augmentation = state.augment.sample(plan.batch_size, state.adaptive.p, plan.patch_size, *numbers)[share]
    return Batch(
        real=codec.hide(real, known),
        known=known,
        condition=plan.conditions.measure(labels, to_device(torch.from_numpy(position), device)),
        z=z[share],
        noises=[noise[share] for noise in noises],
        augmentation=augmentation,
        visible=_visibility(state, share, labelled),
    )


def _visibility(state: TrainingState, share: slice, labelled: np.ndarray | None) -> torch.Tensor | None:
    """Hide the image or the mask of some samples, so that a good image does not excuse a poor mask, or the reverse.

    A given mask is real and never shown alone. The masks of scans are hidden unless the plan trusts them, and so are
    those of the generated samples next to them: all images teach how a scan looks, labelled pairs alone which mask
    belongs to it (semanticGAN, Li et al. 2021, section 3.2).
    """
    plan, codec = state.plan, state.plan.codec
    unsure = None if labelled is None or plan.trust_masks or labelled.all() else torch.from_numpy(~labelled)
    if not codec.image_channels or not (plan.apart_share or unsure is not None):
        return None
    chance = torch.rand(plan.batch_size, generator=state.rng(RandomStream.VISIBILITY), device=state.device)[share]
    no_mask = chance < (plan.apart_share if plan.given_mask else plan.apart_share / 2)
    no_image = (chance < plan.apart_share) & ~no_mask
    if unsure is not None:
        unsure = to_device(unsure, state.device)
        no_mask, no_image = no_mask | unsure, no_image & ~unsure
    hidden = torch.stack([no_image] * codec.image_channels + [no_mask] * len(codec.labels), dim=1)
    return (~hidden).float().reshape(*hidden.shape, *[1] * len(plan.patch_size))


def _spread(
    real: torch.Tensor, generated: torch.Tensor, previous: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """Standard deviation over generated pairs, as a fraction of that over real ones.

    A part with a single sample is compared with the `previous` part.
    """
    if len(real) < 2 and previous is not None:
        real, generated = torch.cat([previous[0], real]), torch.cat([previous[1], generated])
    if len(real) < 2:
        return real.new_ones([])
    real, generated = (
        (x - x.mean(dim=0)).square().mean(dim=0).sqrt().mean() for x in (real, generated.detach().float())
    )
    return generated / real.clamp_min(1e-8)


def _descend(state: TrainingState, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step along the gradient, averaged over all processes."""
    state.distributed.average([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    optimizer.step()


def _mean(found: list[Scalars]) -> Scalars:
    return {name: torch.stack([scalars[name].float() for scalars in found]).mean() for name in found[0]}
