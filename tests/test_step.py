"""One step: what both networks see, what they learn from it, and what it must not depend on."""

import math

import numpy as np
import pytest
import torch
from tiny import IGNORE, PAIRED, assert_same_way, step, tiny_patches, tiny_plan, tiny_state, weights
from tolerance import assert_rounded
from torch.nn import functional as F

from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.networks import build_discriminator, build_generator, layers
from stylegan2_cond.ops import convolve
from stylegan2_cond.random_streams import RandomStream
from stylegan2_cond.training.state import ADAM_BETAS
from stylegan2_cond.training.step import take_step

VARIANTS = ("pair", "mask", "image")
every_variant = pytest.mark.parametrize("variant", VARIANTS)
TERMS = 8 * 8 * 48  # that a gradient of a weight sums: samples, channels and voxels


def changes_of(variant):
    return PAIRED if variant == "image" else {}


def listen(network, heard):
    """Append what a network is given in each call."""
    network.register_forward_pre_hook(lambda _, inputs: heard.append(inputs))


def gradients_before(optimizer, heard):
    """Append the gradients that an optimizer is about to use, in each step."""
    original = optimizer.step

    def listening_step():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        heard.append([None if p.grad is None else p.grad.clone() for p in parameters])
        return original()

    optimizer.step = listening_step


# --- what is built


@pytest.mark.parametrize(("variant", "drawn", "seen"), [("pair", 6, 6), ("mask", 4, 4), ("image", 2, 6)])
def test_each_variant_generates_its_part_and_the_discriminator_sees_the_given_mask_too(variant, drawn, seen):
    plan = tiny_plan(variant)
    generator, discriminator = build_generator(plan), build_discriminator(plan)
    assert generator.synthesis.heads[0].bias.shape == (drawn,)
    modulated = sum(conv.given is not None for conv in generator.synthesis.convs)
    assert modulated == (len(plan.channels) if variant == "image" else 0)
    assert discriminator.entry.weight.shape[1] == seen


# --- parts of a batch


@every_variant
def test_a_batch_in_parts_teaches_what_it_teaches_whole(variant):
    plan = tiny_plan(variant, batch_size=16, augment_target=0.0, r1_interval=2, seed=1, **changes_of(variant))
    ends, reported = {}, {}
    for parts in (1, 2, 4):
        state = tiny_state(plan.model_copy(update={"accumulate": parts}), descent=1e-3)
        state.adaptive.p = 0.5
        start = weights(state)
        reported[parts] = [step(state) for _ in range(2)]
        ends[parts] = weights(state)
    for parts in (2, 4):
        assert_same_way(ends[parts], ends[1], start)
        for one, other in zip(reported[parts], reported[1], strict=True):
            assert one.keys() == other.keys()
            for name in one.keys() - {"spread"}:  # of samples that are compared within their part
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_no_more_is_coded_at_once_than_is_computed_at_once(monkeypatch):
    """One-hot masks of all labels take several times what is kept of them."""
    coded, encode = [], Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda *given: coded.append(len(given[1])) or encode(*given))
    step(tiny_state(tiny_plan(batch_size=8, accumulate=4)))
    assert max(coded) == 2
    assert sum(coded) == 8


@pytest.mark.parametrize(("batch_size", "accumulate"), [(6, 4), (3, 8), (5, 2)])
def test_a_batch_that_cannot_be_divided_so_is_computed_in_a_few_more_equal_parts(batch_size, accumulate):
    state = tiny_state(tiny_plan(batch_size=batch_size, accumulate=accumulate, r1_interval=2))
    sizes = []
    state.generator.synthesis.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert all(math.isfinite(value) for value in step(state).values())
    assert len(set(sizes)) == 1
    assert sum(sizes) == batch_size
    assert len(sizes) >= min(accumulate, batch_size)


# --- latents


def test_each_step_samples_other_latents_and_so_does_a_retry_after_a_rollback():
    seen = []
    for images, rollbacks in ((0, 0), (8, 0), (0, 1), (0, 0)):
        state = tiny_state(tiny_plan())
        listen(state.generator.mapping, seen)
        state.images_seen, state.rollbacks = images, rollbacks
        step(state)
    first, later, after, again = (z for z, _ in seen)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, after)


# --- conditions


def test_both_networks_see_the_condition_of_the_real_patch():
    plan = tiny_plan()
    state = tiny_state(plan)
    to_mapping, to_judges = [], []
    listen(state.generator.mapping, to_mapping)
    listen(state.discriminator, to_judges)
    step(state)
    _, label, position = tiny_patches(plan.patch_size, 0, plan.batch_size)
    expected = plan.conditions.measure(torch.from_numpy(label), torch.from_numpy(position))
    for _, condition, *_ in (*to_mapping, *to_judges):
        assert torch.equal(condition, expected)


@every_variant
def test_one_pass_of_the_discriminator_teaches_both_what_a_pass_for_each_would(variant):
    """Gradients, against separate passes: the generator's through a frozen discriminator, then the discriminator's."""
    plan = tiny_plan(variant, r1_weight=0.0, **changes_of(variant))
    state, found = tiny_state(plan), {}
    for name in ("generator", "discriminator"):
        gradients_before(getattr(state, f"{name}_optimizer"), found.setdefault(name, []))
    views = []
    listen(state.discriminator, views)
    made = []
    state.generator.synthesis.register_forward_pre_hook(lambda _, inputs: made.append(inputs))
    step(state)

    other = tiny_state(plan)
    (drawn, condition), (real, _) = views
    images = plan.codec.image_channels
    w, noises, given = made[0]
    w = other.generator.mapping(other_latents(other), condition)
    pairs = plan.codec.activate(other.generator.synthesis(w, noises, given), given)
    assert_rounded(pairs, drawn.detach(), terms=TERMS)
    score, features = other.discriminator(pairs, condition)
    real_score, real_features = other.discriminator(real, condition)
    loss = F.softplus(real_score.detach() - score).mean()
    if variant == "image":
        matched = [F.l1_loss(one, other.detach()) for one, other in zip(features, real_features, strict=True)]
        loss = loss + F.l1_loss(pairs[:, :images], real[:, :images]) + torch.stack(matched).mean()
    expected = {"generator": torch.autograd.grad(loss, [*other.generator.parameters()])}
    loss = F.softplus(
        other.discriminator(pairs.detach(), condition)[0] - other.discriminator(real, condition)[0]
    ).mean()
    expected["discriminator"] = torch.autograd.grad(loss, [*other.discriminator.parameters()])
    for name, gradients in expected.items():
        for ours, theirs in zip(found[name][0], gradients, strict=True):
            assert_rounded(ours, theirs, terms=TERMS, scale=max(theirs.abs().max().item(), 1e-3))


def other_latents(state):
    """The latents of a state's next step."""
    return torch.randn(state.plan.batch_size, state.plan.latent_dim, generator=state.rng(RandomStream.LATENTS))


# --- what the discriminator is shown


def shown_to_discriminator(state, steps=1):
    """The pairs of each step without penalties, drawn and real ones in turns."""
    calls = []
    listen(state.discriminator, calls)
    for _ in range(steps):
        step(state)
    assert len(calls) == 2 * steps
    return [pairs.detach() for pairs, *_ in calls]


@every_variant
def test_the_discriminator_sees_the_encoded_pairs_and_as_many_generated_ones(variant):
    plan = tiny_plan(variant, r1_weight=0.0)
    state = tiny_state(plan)
    judged, real = shown_to_discriminator(state)
    image, label, _ = (torch.from_numpy(part) for part in tiny_patches(plan.patch_size, 0, plan.batch_size))
    coded = plan.codec.encode(image[:, : plan.codec.image_channels], label)
    assert torch.equal(real, coded)
    images = plan.codec.image_channels
    assert not torch.equal(judged[:, :images], real[:, :images]) or variant == "mask"
    assert torch.equal(judged[:, images:], real[:, images:]) == (variant == "image")


@pytest.mark.parametrize("variant", ["pair", "mask"])
def test_ignored_voxels_are_hidden_in_real_and_generated_masks(variant):
    plan = tiny_plan(variant, ignore=IGNORE, r1_weight=0.0)
    state = tiny_state(plan)
    calls = []
    listen(state.discriminator, calls)
    image, label, position = tiny_patches(plan.patch_size, 0, plan.batch_size)
    label[:, :3] = IGNORE
    take_step(state, image, label, position)
    for pairs, *_ in calls:
        masks = pairs[:, plan.codec.image_channels :]
        assert not masks[:, :, :3].any()
        assert masks[:, :, 3:].any()


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_of_some_pairs_the_discriminator_is_shown_image_or_mask_alone(share):
    plan = tiny_plan(apart_share=share, batch_size=64, r1_weight=0.0)
    calls = shown_to_discriminator(tiny_state(plan), steps=8)
    no_image, no_mask = [], []
    for judged, real in zip(calls[0::2], calls[1::2], strict=True):
        blank = [~pairs[:, part].flatten(1).any(dim=1) for pairs in (judged, real) for part in (slice(2), slice(2, 6))]
        assert torch.equal(blank[0], blank[2])  # of the drawn pair, what is hidden of the real one
        assert torch.equal(blank[1], blank[3])
        assert not (blank[0] & blank[1]).any()
        no_image += blank[0].tolist()
        no_mask += blank[1].tolist()
    error = 4 * math.sqrt(0.25 / len(no_image))
    assert np.mean(no_image) == pytest.approx(share / 2, abs=error)
    assert np.mean(no_mask) == pytest.approx(share / 2, abs=error)


def test_a_given_mask_is_never_shown_alone_and_masks_of_a_mask_generator_never_hidden():
    plan = tiny_plan("image", apart_share=1.0, batch_size=32, r1_weight=0.0)
    for pairs in shown_to_discriminator(tiny_state(plan)):
        assert pairs[:, :2].flatten(1).any(dim=1).all()
        assert not pairs[:, 2:].any()
    for pairs in shown_to_discriminator(tiny_state(tiny_plan("mask", apart_share=1.0, r1_weight=0.0))):
        assert pairs.flatten(1).any(dim=1).all()


def test_what_is_hidden_of_a_pair_teaches_the_generator_nothing():
    plan = tiny_plan(apart_share=0.7, batch_size=32, r1_weight=0.0)
    plan = plan.model_copy(update={"codec": plan.codec.model_copy(update={"outside": None})})
    state, raw = tiny_state(plan), []

    def keep(_, inputs, drawn):
        drawn.retain_grad()
        raw.append(drawn)

    state.generator.synthesis.register_forward_hook(keep)
    shown = shown_to_discriminator(state)[1]
    for part in (slice(0, 2), slice(2, 6)):
        taught = raw[0].grad[:, part].flatten(1).any(dim=1)
        assert torch.equal(taught, shown[:, part].flatten(1).any(dim=1))
        assert 0 < taught.sum() < 32


def test_real_and_generated_pairs_undergo_the_same_augmentation():
    plan = tiny_plan(augment_target=0.0, r1_weight=0.0)
    plain = shown_to_discriminator(tiny_state(plan))
    state = tiny_state(plan)
    state.adaptive.p = 0.7
    applied = []
    augment = state.augment
    state.augment = lambda pairs, parameters: applied.append(parameters) or augment(pairs, parameters)
    state.augment.sample = augment.sample
    views = shown_to_discriminator(state)
    assert len({id(parameters) for parameters in applied}) == 1
    assert torch.equal(views[1], augment(plain[1], applied[0]))
    torch.testing.assert_close(views[0], augment(plain[0], applied[0]))
    assert not torch.equal(views[1], plain[1])


# --- paired losses


@pytest.mark.parametrize(("weight", "figure"), [("l1_weight", "l1"), ("feature_weight", "features")])
def test_a_paired_loss_weighs_in_the_generators_gradient_in_proportion(weight, figure):
    found = []
    for value in (0.0, 1.0, 2.0):
        state = tiny_state(tiny_plan("image", l1_weight=0.0, feature_weight=0.0).model_copy(update={weight: value}))
        gradients = []
        gradients_before(state.generator_optimizer, gradients)
        reported = step(state)
        assert reported.get(figure, 0.0) > 0 or value == 0
        found.append(torch.cat([gradient.flatten() for gradient in gradients[0]]))
    assert (found[1] - found[0]).abs().max() > 1e-4
    assert_rounded(found[2] - found[0], 2 * (found[1] - found[0]), terms=TERMS, scale=found[2].abs().max().item())


def test_features_for_matching_come_from_the_scores_and_not_from_another_pass(monkeypatch):
    state = tiny_state(tiny_plan("image", feature_weight=1.0, r1_weight=0.0))
    judged = []
    listen(state.discriminator, judged)
    step(state)
    assert len(judged) == 2  # drawn and real, for both players


def test_the_l1_is_that_between_the_image_and_the_real_one_of_its_mask():
    plan = tiny_plan("image", l1_weight=1.0, r1_weight=0.0)
    state = tiny_state(plan)
    judged, real = shown_to_discriminator(state)
    reported = step(tiny_state(plan))
    assert reported["l1"] == pytest.approx((judged - real)[:, :2].abs().mean().item(), rel=1e-5)


# --- regularisation


def test_regularisation_comes_once_in_its_interval():
    state = tiny_state(tiny_plan(r1_interval=3))
    reported = [step(state) for _ in range(7)]
    assert ["r1" in scalars for scalars in reported] == [True, False, False] * 2 + [True]
    assert all(("r2" in scalars) == ("r1" in scalars) for scalars in reported)
    assert "r1" not in step(tiny_state(tiny_plan(r1_weight=0.0)))


def test_what_comes_seldom_weighs_so_much_the_more():
    """Karras et al. 2020, section 3.1: the weight is multiplied by the interval."""
    found = {}
    for weight, interval in ((2.0, 1), (2.0, 5), (4.0, 1)):
        state = tiny_state(tiny_plan(r1_weight=weight, r1_interval=interval), descent=1e-3)
        gradients = []
        gradients_before(state.discriminator_optimizer, gradients)
        step(state)
        found[weight, interval] = torch.cat([one.flatten() for one in gradients[1] if one is not None])
    assert found[2.0, 1].any()
    assert_rounded(found[2.0, 5], 5 * found[2.0, 1], terms=TERMS)
    assert_rounded(found[4.0, 1], 2 * found[2.0, 1], terms=TERMS)


@pytest.mark.parametrize(("weight", "interval"), [(0.0, 4), (1.0, 4), (1.0, 16)])
def test_an_optimizer_that_takes_one_more_step_has_shorter_steps_and_memory(weight, interval):
    """Karras et al. 2020, appendix B: c = k / (k + 1)."""
    plan = tiny_plan(r1_weight=weight, r1_interval=interval)
    state = tiny_state(plan)
    (group,) = state.generator_optimizer.param_groups
    assert (group["lr"], group["betas"]) == (plan.learning_rate, ADAM_BETAS)
    ratio = interval / (interval + 1) if weight else 1.0
    (group,) = state.discriminator_optimizer.param_groups
    assert group["lr"] == pytest.approx(plan.learning_rate * ratio)
    assert group["betas"] == pytest.approx([beta**ratio for beta in ADAM_BETAS])


def test_without_gradient_penalty_the_discriminator_takes_one_step():
    for weight, steps in ((0.0, 1), (1.0, 2)):
        state = tiny_state(tiny_plan(r1_weight=weight))
        gradients = []
        gradients_before(state.discriminator_optimizer, gradients)
        step(state)
        assert len(gradients) == steps


# --- augmentation's probability, spread


@pytest.mark.parametrize(("target", "rises"), [(-1.0, True), (1.0, False)])
def test_augmentation_grows_likelier_while_real_pairs_are_recognised_too_well(target, rises):
    state = tiny_state(tiny_plan(augment_target=target, augment_kimg=1.0))
    reported = [step(state) for _ in range(8)]
    assert all(-1 < scalars["sign_real"] < 1 for scalars in reported)
    expected = [0.0] * 3 + [0.032] * 4 + [0.064]  # every 4 steps of 8 images, of 1000 that p needs to reach 1
    assert [scalars["augment_p"] for scalars in reported] == pytest.approx(expected if rises else [0.0] * 8)


def test_a_plan_without_a_target_has_no_augmentation():
    state = tiny_state(tiny_plan(augment_target=None))
    assert "augment_p" not in step(state)
    assert state.adaptive is None


def test_the_sign_is_that_of_the_lead_of_real_scores():
    state = tiny_state(tiny_plan(batch_size=32, r1_weight=0.0))
    state.discriminator.score.bias.data.fill_(100.0)  # every score is positive
    scores = []
    state.discriminator.register_forward_hook(lambda *taken: scores.append(taken[2][0].detach()))
    reported = step(state)
    assert reported["sign_real"] == pytest.approx((scores[1] - scores[0]).sign().mean().item())


def test_the_spread_compares_generated_pairs_with_real_ones():
    state = tiny_state(tiny_plan(r1_weight=0.0))
    judged, real = shown_to_discriminator(state)
    reported = step(tiny_state(tiny_plan(r1_weight=0.0)))
    expected = judged.numpy().std(axis=0, ddof=1).mean() / real.numpy().std(axis=0, ddof=1).mean()
    assert reported["spread"] == pytest.approx(expected, rel=1e-4)
    assert state.spread == pytest.approx(1 + (expected - 1) * 8 / 1000, rel=1e-4)  # over a thousand images


# --- learning


@every_variant
@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns(variant, dims):
    plan = tiny_plan(variant, dims, r1_interval=2, **changes_of(variant))
    state = tiny_state(plan)
    before = weights(state)
    reported = [step(state) for _ in range(3)]
    assert all(math.isfinite(value) for scalars in reported for value in scalars.values())
    still = [name for name, value in weights(state).items() if torch.equal(value, before[name])]
    # The scores' bias cancels in differences of scores; Adam may or may not make a step of what rounding leaves.
    free = [name for name in still if name.endswith("score.bias")]
    assert [name for name in still if name not in free] == []


@every_variant
def test_bfloat16_learns_roughly_what_float32_learns(variant, monkeypatch):
    """And R1 and R2 differentiate twice through it."""
    ways, kinds = {}, []
    monkeypatch.setattr(layers, "convolve", lambda *given: kinds.append((y := convolve(*given)).dtype) or y)
    for precision in ("float32", "bfloat16"):
        plan = tiny_plan(variant, precision=precision, r1_interval=2, **changes_of(variant))
        state = tiny_state(plan, descent=1e-3)
        start = weights(state)
        kinds.clear()
        reported = step(state)
        assert all(math.isfinite(value) for value in reported.values())
        assert set(kinds) == {torch.float32, getattr(torch, precision)}  # what stays in float32, test_networks says
        end = weights(state)
        assert all(value.dtype == torch.float32 for value in end.values())
        ways[precision] = {name: end[name] - start[name] for name in end}
    for player in ("generator", "discriminator"):
        one, other = (
            torch.cat([way.flatten() for name, way in ways[precision].items() if name.startswith(player)])
            for precision in ("float32", "bfloat16")
        )
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98


def test_a_step_counts_its_images_and_moves_the_average():
    plan = tiny_plan(ema_share=0.5)
    state = tiny_state(plan)
    before = state.average.synthesis.constant.clone()
    step(state)
    assert (state.images_seen, state.step_number) == (8, 1)
    decay = 0.5 ** (1 / plan.ema_share)  # the half-life is a share of the images seen, and these are one batch
    expected = decay * before + (1 - decay) * state.generator.synthesis.constant
    torch.testing.assert_close(state.average.synthesis.constant, expected)


def test_torchs_global_random_state_decides_nothing_and_is_left_alone():
    ends = []
    for seed in (0, 1):
        state = tiny_state(tiny_plan(augment_target=0.0, apart_share=0.5, r1_interval=2))
        state.adaptive.p = 0.5
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            step(state)
            assert torch.equal(torch.get_rng_state(), before)
        ends.append(weights(state))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
