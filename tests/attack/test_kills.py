"""Killed at any moment and run again, commands end with what an uninterrupted run ends with, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from raw_files import NAME

import nnunet_synth.cli
import stylegan2_cond.cli
from attack.entries import digest_of_tree
from attack.killing import Command, after, kill_and_finish, leftovers, when_there_is
from attack.outcomes import outcome_of
from attack.victims import OVERRIDES, Victims, make_dataset

LONG_KILLS = int(os.environ.get("ATTACK_KILLS", 100))
SHARES = {"train": 0.5, "bank": 0.3, "benchmark": 0.2}  # of all kills of the long form


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Victims:
    """A dataset that no generator was trained on."""
    folder = tmp_path_factory.mktemp("kills") / "cases"
    made = outcome_of(lambda: str(make_dataset(folder).folder))
    assert made.kind == "taken", made.told
    return Victims(folder)


def own(cases: Victims, folder: Path) -> Victims:
    """The dataset for one training of its own."""
    shutil.copytree(cases.folder, folder, symlinks=True)
    return Victims(folder)


def training(victims: Victims, images: int) -> Command:
    """`stylegan2-cond train`, with a checkpoint at nearly every step, many log lines and little judging."""

    def prepare() -> None:
        from stylegan2_cond.planning import planner
        from stylegan2_cond.training import run_logger, snapshot_evaluation
        from stylegan2_cond.training import train as loop

        victims.enter()
        snapshot_evaluation.SAMPLES, planner.CONDITION_PATCHES = {2: 40}, 100
        run_logger.save_progress = lambda folder: None  # it takes longer than all the rest
        loop.CHECKPOINT_SECONDS, loop.LOG_INTERVAL, loop.SMALLEST_SNAPSHOT_INTERVAL = 0.02, 100, 320

    settings = [part for key, value in OVERRIDES.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    line = ("train", NAME, "2d", "0", "--kimg", str(images / 1000), "--device", "cpu", *settings)
    return Command(stylegan2_cond.cli.main, line, victims.folder / "train.log", prepare)


def filling(victims: Victims, samples: int) -> Command:
    """`nnunet-synth bank`, with all filters open."""
    line = ("bank", NAME, "2d", "0", "-n", str(samples), "--name", "killed", "--without", "all", "--device", "cpu")
    return Command(nnunet_synth.cli.main, line, victims.folder / "bank.log", victims.enter)


def trained(folder: Path) -> dict[str, object]:
    """All that a training leaves, as far as it is a training's and not a clock's."""
    import torch

    return {
        "weights": {path.parent.name: path.read_bytes() for path in sorted(folder.glob("snapshots/*/*.safetensors"))},
        "checkpoints": {
            path.name: digest_of_tree(torch.load(path, weights_only=True)) for path in sorted(folder.glob("*.pt"))
        },
        "log": [timeless(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()],
        "cards": [timeless(json.loads(path.read_text())) for path in sorted(folder.glob("snapshots/*/card.json"))],
        "best": os.readlink(folder / "best"),
    }


def timeless(content: dict) -> dict:
    """Without what tells when something was, or sums up all of it."""
    return {key: value for key, value in content.items() if key not in ("created", "checksum") and "second" not in key}


def filled(folder: Path) -> dict[str, object]:
    """All that a bank is."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("synth_")}
    return {"files": files, "record": timeless(json.loads((folder / "bank.json").read_text()))}


def kill_training(cases: Victims, folder: Path, images: int, kills: int) -> None:
    straight, killed = own(cases, folder / "straight"), own(cases, folder / "killed")
    assert training(straight, images).run() == 0
    expected = outcome_of(lambda: repr(trained(straight.run))).told
    rng, done, rounds = np.random.default_rng(kills), 0, 0
    while done < kills:
        shutil.rmtree(killed.run, ignore_errors=True)
        aimed = [
            when_there_is(killed.run, ".checkpoint_latest.pt*", int(rng.integers(1, 12))),
            when_there_is(killed.run, ".log.jsonl*"),
            when_there_is(killed.run, "snapshots/*/generator.safetensors"),
            after(rng.uniform(0, 3)),
            when_there_is(killed.run, "snapshots/*/.card.json*"),
            when_there_is(killed.run, ".checkpoint_good.pt*", 2),
            when_there_is(killed.run, "checkpoint_latest.pt"),
        ]
        moments = [aimed[(rounds + place) % len(aimed)] for place in range(min(5, kills - done))]
        command, rounds = training(killed, images), rounds + 1
        done += kill_and_finish(command, moments)
        assert outcome_of(lambda: repr(trained(killed.run))).told == expected
        assert not leftovers(killed.folder)
        assert rounds <= kills, "nothing is killed in time"


def kill_filling(victims: Victims, samples: int, kills: int) -> None:
    folder = victims.bank.parent / "killed"
    assert filling(victims, samples).run() == 0
    expected = filled(folder)
    rng, done, rounds = np.random.default_rng(kills), 0, 0
    while done < kills:
        shutil.rmtree(folder)
        aimed = [
            when_there_is(folder, ".filling_*", int(rng.integers(1, 3))),
            when_there_is(folder, ".bank.json*", int(rng.integers(2, 4))),
            when_there_is(folder, ".filling_*/*_seg.b2nd"),
            when_there_is(folder, f"synth_{rng.integers(1, 3):05d}.b2nd"),
            after(rng.uniform(0, 1.5)),
        ]
        moments = [aimed[(rounds + place) % len(aimed)] for place in range(min(4, kills - done))]
        rounds += 1
        done += kill_and_finish(filling(victims, samples), moments)
        assert filled(folder) == expected
        assert not leftovers(folder.parent)
        assert rounds <= kills, "nothing is killed in time"


def test_a_killed_training_ends_like_one_that_was_not(cases, tmp_path):
    kill_training(cases, tmp_path, 320, 3)


def test_a_killed_filling_ends_like_one_that_was_not(victims):
    kill_filling(victims, 200, 3)


@pytest.mark.attack
def test_a_training_that_is_killed_often_ends_like_one_that_was_not(cases, tmp_path):
    kill_training(cases, tmp_path, 1000, round(LONG_KILLS * SHARES["train"]))


@pytest.mark.attack
def test_a_filling_that_is_killed_often_ends_like_one_that_was_not(victims):
    kill_filling(victims, 400, round(LONG_KILLS * SHARES["bank"]))
