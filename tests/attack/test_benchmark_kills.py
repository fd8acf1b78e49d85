"""A benchmark whose parent, group or jobs are killed does everything once, and leaves no process behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from raw_files import NAME

import nnunet_synth.cli
from attack.killing import LIMIT_SECONDS, Command, leftovers
from attack.test_kills import LONG_KILLS, SHARES, cases, filled, own, trained
from attack.victims import Victims

assert cases  # a fixture
pytestmark = pytest.mark.attack
ARM = "pair-unfiltered"
LEAVES_SECONDS = 60  # that orphans may take to end


def benchmark(victims: Victims) -> Command:
    """A quick one of two arms: four runs, a generator and a bank whose filters are open."""
    line = (
        *("benchmark", NAME, "2d", "--quick", "-o", str(victims.benchmark), "--sizes", "4", "--training-sets", "1"),
        *("--test-cases", "5", "--arm", ARM, "--steps", "4", "--kimg", "0.048"),
        *("--jobs", "1", "--device", "cpu"),
    )
    return Command(nnunet_synth.cli.main, line, victims.folder / "benchmark.log", victims.enter)


def processes(folder: Path) -> dict[int, str]:
    """Running processes whose command or environment names a folder, beside this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
                named = str(folder).encode() in line + (entry / "environ").read_bytes()
                if named and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found


def kill_one(victims: Victims, command: Command, what: str) -> None:
    """Kill the parent alone, the whole group, submitit's controller, or the job that it controls."""
    if what in ("group", "parent"):
        command.kill(group=what == "group")
        return
    word = "submitit" if what == "controller" else "_submit"
    for process, line in processes(victims.benchmark).items():
        if word in line:
            os.kill(process, signal.SIGKILL)
            return


def left(victims: Victims) -> dict[str, object]:
    """What the seeds decide: the generator and the bank, and that all runs are done once."""
    folder = victims.benchmark / "nnUNet_preprocessed" / NAME
    (run,) = victims.benchmark.glob("nnUNet_results/*/StyleGAN2Cond_*/fold_0")
    (bank,) = folder.glob("*_synth/fold_0/*/bank.json")
    with (victims.benchmark / "scores.csv").open() as file:
        scores = sorted((row["arm"], row["run"], row["case"], row["label"]) for row in csv.DictReader(file))
    with (victims.benchmark / "runs.csv").open() as file:
        runs = [(row["arm"], row["run"], row["state"], row["error"]) for row in csv.DictReader(file)]
    return {"weights": trained(run)["weights"], "log": trained(run)["log"], "bank": filled(bank.parent)["files"],
            "scores": scores, "runs": runs}  # fmt: skip


@pytest.fixture(scope="module")
def straight(cases, tmp_path_factory) -> tuple[dict[str, object], float]:
    """What a benchmark leaves that nobody kills, and how many seconds its tasks take."""
    victims = own(cases, tmp_path_factory.mktemp("kills") / "straight")
    assert benchmark(victims).run() == 0
    tasks = (victims.benchmark / "tasks").glob("*.json")
    return left(victims), sum(json.loads(path.read_text())["seconds"] for path in tasks)


@pytest.mark.parametrize("what", ["parent", "job", "controller", "group"])
def test_a_benchmark_that_is_killed_does_everything_once(cases, straight, tmp_path, what):
    killed, (expected, took) = own(cases, tmp_path / "killed"), straight
    command, rng = benchmark(killed), np.random.default_rng(len(what))
    for _ in range(max(1, round(LONG_KILLS * SHARES["benchmark"] / 4))):
        command.start()
        until = time.monotonic() + rng.uniform(2, took / 2)
        while (code := command.ended()) is None and time.monotonic() < until:
            time.sleep(0.05)
        if code is not None:
            break
        kill_one(killed, command, what)
        if what in ("job", "controller"):
            assert command.wait() in (0, 1, 2), command.told[-3000:]  # 2: no cell is left to compare with
    until = time.monotonic() + LIMIT_SECONDS
    while (code := command.run()) != 0:  # what was killed counts as failed, and is tried again
        assert code in (1, 2), command.told[-3000:]
        assert time.monotonic() < until
    assert "Traceback" not in command.told, command.told[-3000:]
    assert left(killed) == expected
    assert not leftovers(killed.folder)
    until = time.monotonic() + LEAVES_SECONDS
    while (still := processes(killed.benchmark)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not still


def test_a_killed_parent_takes_its_jobs_with_it_or_awaits_them(cases, tmp_path):
    victims = own(cases, tmp_path / "killed")
    command = benchmark(victims)
    command.start()
    until = time.monotonic() + 120
    while not list((victims.benchmark / "tasks").glob("*.log")) and time.monotonic() < until:
        time.sleep(0.1)
    command.kill(group=False)
    assert command.run() == 0, command.told[-3000:]
    with (victims.benchmark / "runs.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["done"] * 4
