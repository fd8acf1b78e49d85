"""At a look, an arm on which there is a decision is stopped: no training sets after that, and no other verdict."""

from __future__ import annotations

import numpy as np
import pytest
from made_benchmark import make_benchmark

from nnunet_synth.benchmark import run as benchmark_run
from nnunet_synth.benchmark.analysis import analyse, decide
from nnunet_synth.benchmark.design import DESIGN_FILE, Design, load_or_create
from nnunet_synth.benchmark.protocol import LOOKS, Effect
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.tasks import make_tasks

# With so little luck, what is 0 is equivalent after 6 sets, and what is large is found after 12: no permutation test of
# 6 sets can reach the level of the first look.
QUIET = {"sizes": (4,), "run_luck": 0.0005, "set_luck": 0.02}
EFFECTS = {"da5": 0.0, "pairs": 0.03, "half": -0.03}


def made(folder, sets, effects=EFFECTS, **changes) -> Design:
    return Design.load(make_benchmark(folder, effects, training_sets=sets, **QUIET | changes) / DESIGN_FILE)


def sets_of(design: Design, arm: str) -> set[int]:
    return {task.training_set for task in make_tasks(design).values() if task.kind == "run" and task.target == arm}


def test_an_arm_that_does_not_matter_is_given_up_at_the_first_look(tmp_path):
    made(tmp_path / "six", 6)
    looked = decide(tmp_path / "six", made(tmp_path / "twelve", 12), 6)
    assert [(stop.arm, stop.size, stop.sets, stop.effect) for stop in looked.stopped] == [
        ("da5", 4, 6, Effect.EQUIVALENT)
    ]
    assert sets_of(looked, "da5") == {*range(6)}
    for arm in ("nnunet", "pairs", "half"):
        assert sets_of(looked, arm) == {*range(12)}
    assert Design.load(tmp_path / "six" / DESIGN_FILE) == looked
    assert "“Stronger augmentation (DA5)” with 4 training cases was decided by 6 training sets" in looked.notes()[-1]


def test_arms_that_help_or_harm_stop_at_the_second_look_and_nnunet_alone_with_the_last_of_them(tmp_path):
    design = made(tmp_path, 12)
    grown = make_benchmark(tmp_path / "grown", EFFECTS, training_sets=18, **QUIET)
    looked = decide(tmp_path, design.model_copy(update={"looked": 6}), 12)
    assert {stop.arm: stop.effect for stop in looked.stopped} == {
        "da5": Effect.EQUIVALENT, "pairs": Effect.HELPS, "half": Effect.HARMS
    }  # fmt: skip
    larger = Design.load(grown / DESIGN_FILE).model_copy(update={"looked": 12, "stopped": looked.stopped})
    assert all(sets_of(larger, arm.name) == {*range(12)} for arm in larger.arms)


@pytest.mark.parametrize("sets", [5, 7, 11])
def test_nothing_is_decided_between_looks(tmp_path, sets):
    design = made(tmp_path, sets)
    assert decide(tmp_path, design, sets) == design
    assert not Design.load(tmp_path / DESIGN_FILE).stopped


def test_a_look_happens_once(tmp_path):
    design = decide(tmp_path, made(tmp_path, 6), 6)
    make_benchmark(tmp_path / "other", {"da5": 0.1}, training_sets=6, **QUIET)
    for table in ("scores.csv", "runs.csv"):
        (tmp_path / "other" / table).replace(tmp_path / table)
    assert decide(tmp_path, design, 6) == design


def test_a_verdict_stays_what_it_was_at_the_stop(tmp_path):
    """More runs of other arms change Holm's correction, so that p alone would no longer say it."""
    rng = np.random.default_rng(0)
    effects = {"pairs": 0.011, **{f"arm{n}": float(rng.normal(0, 0.004)) for n in range(3)}}
    design = made(tmp_path, 12, effects, run_luck=0.006)
    for effect in (Effect.HELPS, Effect.EQUIVALENT, Effect.HARMS):
        stop = {"arm": "pairs", "size": 4, "sets": 12, "effect": effect}
        Design.model_validate(design.model_dump() | {"looked": 12, "stopped": (stop,)}).save(tmp_path / DESIGN_FILE)
        assert analyse(read_benchmark(tmp_path)).row("pairs", 4)["effect"] == effect.value


def test_runs_that_were_stopped_are_not_missing(tmp_path):
    looked = decide(tmp_path, made(tmp_path, 6), 6)
    larger = make_benchmark(tmp_path / "larger", EFFECTS, training_sets=12, **QUIET)
    design = Design.load(larger / DESIGN_FILE).model_copy(update={"looked": 6, "stopped": looked.stopped})
    design.save(larger / DESIGN_FILE)
    runs = read_benchmark(larger).runs
    assert (runs["arm"] == "da5").sum() == 6
    assert (runs["arm"] == "pairs").sum() == 12


def test_a_benchmark_that_grows_keeps_its_decisions(tmp_path):
    looked = decide(tmp_path, made(tmp_path, 6), 6)
    requested = looked.model_copy(update={"looked": 0, "stopped": (), "runs": 2})
    grown = load_or_create(requested, tmp_path)
    assert (grown.looked, grown.stopped, grown.runs) == (6, looked.stopped, 2)


def test_the_command_looks_after_each_number_of_sets(tmp_path, monkeypatch):
    """Each look comes when the runs of its sets are done, and before those of the next."""
    happened = []

    class Scheduler:
        def __init__(self, folder, design, resources, table):
            self.design, self.tasks, self.records = design, {}, {}

        def finish(self, sets):
            happened.append(("runs", sets))

        def keep(self, design):
            self.design = design

    design = made(tmp_path, 18)
    monkeypatch.setattr(benchmark_run, "Scheduler", Scheduler)
    for name in ("open_preprocessed", "choose_resources", "choose_arms", "prepare_workspace", "write_tables"):
        monkeypatch.setattr(benchmark_run, name, lambda *_: None)
    monkeypatch.setattr(benchmark_run, "make_design", lambda *_: design)
    monkeypatch.setattr(benchmark_run, "load_or_create", lambda *_: design)
    monkeypatch.setattr(benchmark_run, "write_report", lambda folder: folder)
    monkeypatch.setattr(
        "nnunet_synth.benchmark.analysis.decide",
        lambda folder, design, sets: happened.append(("look", sets)) or design,
    )
    benchmark_run.run_benchmark(benchmark_run.BenchmarkOptions("4", "2d", folder=tmp_path))
    assert happened == [(what, sets) for sets in LOOKS for what in ("runs", "look")]
