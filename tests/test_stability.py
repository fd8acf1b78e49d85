"""A training that diverges or collapses rolls back to the last good checkpoint, at most three times."""

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from raw_cases import run_options
from safetensors.torch import load_file
from tiny import step, tiny_plan, tiny_state

from stylegan2_cond.cli import main
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import run_folder
from stylegan2_cond.snapshot import find_snapshots
from stylegan2_cond.training import run_logger, stability
from stylegan2_cond.training import train as loop
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE, GOOD_CHECKPOINT_FILE
from stylegan2_cond.training.stability import detect_failure, rollback_message
from stylegan2_cond.training.step import take_step

NAN = float("nan")


# --- what a failure is


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_scalar_that_is_not_finite_is_named(value):
    state = tiny_state(tiny_plan())
    assert detect_failure(state, {"loss_generator": 1.0, "r1": 0.0}) is None
    assert detect_failure(state, {"loss_generator": 1.0, "r1": value}) == "diverged: r1 not finite"


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_broken_weights_are_detected_although_the_scalars_are_finite(player):
    state = tiny_state(tiny_plan())
    next(iter(getattr(state, player).parameters())).data.view(-1)[0] = NAN
    assert detect_failure(state, {"loss_generator": 1.0}) == f"diverged: {player} not finite"


@pytest.mark.parametrize(
    ("images", "spread", "ill"), [(4_999, 0.0, False), (5_000, 0.099, True), (5_000, 0.1, False), (10**6, 0.05, True)]
)
def test_a_generator_of_one_picture_has_collapsed_unless_it_is_young(images, spread, ill):
    state = tiny_state(tiny_plan())
    state.images_seen, state.spread = images, spread
    failure = detect_failure(state, {})
    assert (failure is not None) == ill
    assert not ill or f"{spread:.0%}" in failure


@pytest.mark.parametrize("parts", [1, 2, 8])
@pytest.mark.parametrize("variant", ["pair", "mask"])
def test_pairs_that_are_all_the_same_have_no_spread_however_few_are_computed_at_once(variant, parts):
    state = tiny_state(tiny_plan(variant, batch_size=8, accumulate=parts))
    for head in state.generator.synthesis.heads:
        head.conv.weight.data.zero_()
    assert step(state)["spread"] == pytest.approx(0, abs=1e-4)


def test_a_rollback_is_reported_with_the_rate_that_follows_and_after_three_comes_advice():
    state = SimpleNamespace(plan=tiny_plan(learning_rate=0.004, r1_weight=0.5), images_seen=12_000, rollbacks=0)
    for rollbacks, rate in enumerate(("0.002", "0.001", "0.0005")):
        state.rollbacks = rollbacks
        message = rollback_message("diverged", state)
        assert "after 12,000 images" in message
        assert message.endswith(f"learning rate {rate}.")
    state.rollbacks = 3
    advice = r"diverged, after 12,000 images and 3 rollbacks.* --set r1_weight=2\."
    with pytest.raises(UserError, match=advice):
        rollback_message("diverged", state)


# --- what a training does about it


@pytest.fixture
def course(preprocessed, plan, monkeypatch, tmp_path):
    """Begin a run of 160 images, 8 a step, with a good checkpoint every 80; plant accidents and see its course."""
    small = plan.model_copy(update={"patch_size": (20, 16)})
    monkeypatch.setattr(loop, "SMALLEST_SNAPSHOT_INTERVAL", 80)
    monkeypatch.setattr(loop, "LOG_INTERVAL", 40)
    monkeypatch.setattr(run_logger.SnapshotScorer, "score", lambda *_: {})
    monkeypatch.setattr(run_logger, "save_progress", lambda _: None)

    def begin(name, accident):
        """Train in a folder of its own; `accident` may change the state after each step. Images seen before each."""
        monkeypatch.setenv("nnUNet_results", str(tmp_path / name))
        folder = run_folder(plan.source)
        if not folder.exists():
            small.save(folder / "plan.json")
        seen = []

        def fateful_step(state, *batch):
            seen.append(state.images_seen)
            reported = take_step(state, *batch)
            return accident(state, reported) or reported

        monkeypatch.setattr(loop, "take_step", fateful_step)
        return folder, seen

    return begin


def breaks(after, when=lambda state: state.rollbacks == 0, part="discriminator"):
    """An accident: a weight is no number any more after so many images."""

    def accident(state, reported):
        if state.images_seen == after and when(state):
            next(iter(getattr(state, part).parameters())).data.view(-1)[0] = NAN

    return accident


def go(preprocessed):
    return loop.train(run_options(preprocessed, "0", kimg=0.16))


def logged(folder):
    return [json.loads(line)["images"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("after", "noticed", "back_to"),
    # Between two good checkpoints, by the next step's scalars, read after one more; before the first; at the end.
    [(104, 120, 80), (40, 40, 0), (160, 160, 80)],
)
def test_broken_weights_roll_back_to_the_last_good_checkpoint(
    course, preprocessed, plan, capsys, after, noticed, back_to
):
    folder, seen = course("broken", breaks(after))
    go(preprocessed)
    assert seen == [*range(0, noticed, 8), *range(back_to, 160, 8)]
    rate = plan.learning_rate / 2
    printed = capsys.readouterr().out
    assert re.search(f"Training diverged: .*discriminator not finite, after {noticed} images", printed)
    assert f"learning rate {rate:g}." in printed
    assert logged(folder) == list(range(40, 161, 40))
    assert [int(path.name) for path in find_snapshots(folder)] == [80, 160]
    for name in (CHECKPOINT_FILE, GOOD_CHECKPOINT_FILE):
        state = torch.load(folder / name)
        assert (state["images_seen"], state["rollbacks"]) == (160, 1)
        assert state["generator_optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate)
        assert state["discriminator_optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate * 16 / 17)  # lazy R1
        assert all(value.isfinite().all() for value in state["discriminator"].values())


def test_a_collapse_rolls_back_too(course, preprocessed, capsys, monkeypatch):
    monkeypatch.setattr(stability, "GRACE_IMAGES", 100)

    def accident(state, reported):
        if state.images_seen == 128 and state.rollbacks == 0:
            state.spread = 0.02

    folder, seen = course("collapsed", accident)
    go(preprocessed)
    assert seen == [*range(0, 128, 8), *range(80, 160, 8)]
    assert re.search("Training collapsed: .* 2%", capsys.readouterr().out)
    assert torch.load(folder / CHECKPOINT_FILE)["spread"] > 0.1  # the memory of the collapse is gone too


def test_a_scalar_that_is_not_finite_rolls_back_before_it_is_logged(course, preprocessed):
    def accident(state, reported):
        if state.images_seen == 120 and state.rollbacks == 0:
            return replace(reported, values=reported.values * NAN)

    folder, seen = course("figure", accident)
    go(preprocessed)
    assert seen == [*range(0, 128, 8), *range(80, 160, 8)]  # noticed after one more step
    assert logged(folder) == list(range(40, 161, 40))
    assert "NaN" not in (folder / "log.jsonl").read_text()


def test_after_three_rollbacks_training_fails_with_code_2_and_keeps_its_snapshots(
    course, preprocessed, plan, monkeypatch, capsys
):
    folder, seen = course("hopeless", breaks(128, when=lambda state: True))
    monkeypatch.setattr(
        sys, "argv", ["stylegan2-cond", *["train", "901", "2d", "0", "--kimg", "0.16", "--device", "cpu"]]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert seen == [*range(0, 144, 8), *[*range(80, 144, 8)] * 3]
    said = capsys.readouterr()
    assert [f"learning rate {plan.learning_rate / 2**n:g}." in said.out for n in range(1, 5)] == [True] * 3 + [False]
    assert "not finite, after 144 images and 3 rollbacks" in said.err
    assert [int(path.name) for path in find_snapshots(folder)] == [80]
    rate = torch.load(folder / CHECKPOINT_FILE)["generator_optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(plan.learning_rate / 8)


@pytest.mark.parametrize("seconds", [0.0, 120.0])
def test_killed_after_a_rollback_and_started_again_equals_uninterrupted(course, preprocessed, monkeypatch, seconds):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    whole, _ = course("whole", breaks(128))
    go(preprocessed)

    def killed(state, reported):
        breaks(128)(state, reported)
        if state.images_seen == 104 and state.rollbacks == 1:
            raise KeyboardInterrupt

    parts, _ = course("parts", killed)
    with pytest.raises(KeyboardInterrupt):
        go(preprocessed)
    _, seen = course("parts", breaks(128))
    go(preprocessed)
    assert seen == list(range(96 if seconds == 0 else 80, 160, 8))
    one, other = (load_file(find_snapshots(folder)[-1] / "generator.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(parts) == logged(whole) == list(range(40, 161, 40))
