"""Going on is the same as not having stopped; bad settings and full disks lose nothing."""

import errno
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from conftest import DATASET
from raw_cases import run_options
from safetensors.torch import load_file
from tiny import step, tiny_plan, tiny_state

from stylegan2_cond.cli import main, run_app
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder
from stylegan2_cond.io import write_atomically
from stylegan2_cond.planning import make_plan, run_folder
from stylegan2_cond.planning.heuristics import choose_batch_size, choose_length, default_hours
from stylegan2_cond.snapshot import Card, find_snapshots
from stylegan2_cond.training import run_logger, run_setup, snapshot_evaluation, state
from stylegan2_cond.training import train as loop
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE, GOOD_CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from stylegan2_cond.training.profile_step import StepCost
from stylegan2_cond.training.run_setup import plan_run
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.step import take_step
from stylegan2_cond.training.train import train


@pytest.fixture(scope="module")
def small(plan):
    """A plan of a part of the patch, which trains twice as fast."""
    return plan.model_copy(update={"patch_size": (20, 16)})


@pytest.fixture
def fresh_run(small, monkeypatch, tmp_path):
    """Start a training of the same plan in a folder of its own; returns the folder of `name`."""
    monkeypatch.setattr(snapshot_evaluation, "SAMPLES", {2: 24})
    monkeypatch.setattr(run_logger, "save_progress", lambda _: None)

    def begin(name, **changes):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / name))
        folder = run_folder(small.source)
        small.model_copy(update=changes).save(folder / "plan.json")
        return folder

    return begin


def newest_weights(folder):
    return load_file(find_snapshots(folder)[-1] / "generator.safetensors")


def equal_bit_for_bit(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- going on


def leaves(content, path=()):
    """Every value of a checkpoint, by its place."""
    if isinstance(content, (dict, list)):
        for key, part in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(part, (*path, key))
    else:
        yield path, content


EVERYTHING = {
    "apart_share": 0.3,
    "r1_interval": 4,
    "augment_target": -1.0,  # any sign is above it, so augmentation grows likelier
    "augment_kimg": 0.15,
}


def test_a_training_with_everything_on_that_breaks_off_and_goes_on_has_the_checkpoint_of_one_that_did_not(
    fresh_run, preprocessed, monkeypatch
):
    """Weights, optimizers, average, augmentation, spread, counts: bit for bit."""
    whole = fresh_run("whole", **EVERYTHING)
    train(run_options(preprocessed, "0", kimg=0.096))
    parts = fresh_run("parts", **EVERYTHING)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def broken_off(state, *batch):
        told = take_step(state, *batch)
        if state.images_seen == 56:
            raise KeyboardInterrupt
        return told

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", broken_off)
        with pytest.raises(KeyboardInterrupt):
            train(run_options(preprocessed, "0", kimg=0.096))
    train(run_options(preprocessed, "0", kimg=0.096))
    one, other = (dict(leaves(torch.load(folder / CHECKPOINT_FILE))) for folder in (whole, parts))
    assert one.keys() == other.keys()
    different = [place for place, value in one.items() if not np.array_equal(value, other[place])]
    assert different == []
    assert one[("adaptive", "p")] == pytest.approx(
        2 * 32 / 150
    )  # two moves of 32 images; the third waits for the last step's report
    assert equal_bit_for_bit(newest_weights(whole), newest_weights(parts))


IMPATIENT = """
import os, sys
os.environ.update({variables!r})
sys.argv, sys.stderr = {arguments!r}, open({errors!r}, "w", buffering=1)
from stylegan2_cond.training import snapshot_evaluation, train as loop
loop.CHECKPOINT_SECONDS, snapshot_evaluation.SAMPLES, loop.LOG_INTERVAL = 0, {{2: 24}}, {interval}
from stylegan2_cond.cli import main
main()
"""
KIMG = 0.4
EVERY_LINE = 100  # images


def start_until_checkpoint(folder, errors):
    """A training that checkpoints at every step, in a process of its own, once its first checkpoint is there."""
    arguments = ["stylegan2-cond", "train", DATASET, "2d", "0", "--kimg", str(KIMG), "--device", "cpu"]
    variables = {name: os.environ[name] for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    context = multiprocessing.get_context("forkserver")  # imports torch and nnU-Net once for all
    context.set_forkserver_preload(["stylegan2_cond.cli", "stylegan2_cond.training.train"])
    code = IMPATIENT.format(variables=variables, arguments=arguments, errors=str(errors), interval=EVERY_LINE)
    process = context.Process(target=exec, args=(code, {}))
    process.start()
    deadline = time.monotonic() + 240
    while not (folder / CHECKPOINT_FILE).exists():
        assert process.is_alive(), errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def uninterrupted(preprocessed, small, tmp_path_factory):
    """Weights and log of a training of `KIMG` that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_evaluation, "SAMPLES", {2: 24})
        patch.setattr(loop, "LOG_INTERVAL", EVERY_LINE)
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("uninterrupted")))
        small.save(run_folder(small.source) / "plan.json")
        folder = train(run_options(preprocessed, "0", kimg=KIMG))
        return newest_weights(folder), (folder / "log.jsonl").read_text()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_stopped_and_started_again_equals_uninterrupted(
    fresh_run, preprocessed, uninterrupted, tmp_path, monkeypatch, how, code
):
    """Weights and log lines, bit for bit."""
    monkeypatch.setattr(loop, "LOG_INTERVAL", EVERY_LINE)
    stopped, errors = fresh_run("stopped"), tmp_path / "errors"
    process = start_until_checkpoint(stopped, errors)
    os.kill(process.pid, how)
    process.join(timeout=60)
    assert process.exitcode == code
    assert not find_snapshots(stopped), "the training was over before it was stopped: this test tests nothing"
    if how != signal.SIGKILL:
        assert "same command" in errors.read_text()
        assert "Traceback" not in errors.read_text()
    train(run_options(preprocessed, "0", kimg=KIMG))
    weights, log = uninterrupted
    assert equal_bit_for_bit(weights, newest_weights(stopped))
    assert len(log.splitlines()) == KIMG * 1000 / EVERY_LINE
    assert (stopped / "log.jsonl").read_text() == log


def test_a_stop_is_answered_at_once_though_the_step_takes_long(capfd):
    with loop.StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
        assert "saving" in capfd.readouterr().err


def test_steps_take_denormal_numbers_for_0_and_what_comes_after_does_not(fresh_run, preprocessed, monkeypatch):
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no such setting")
    torch.set_flush_denormal(False)
    fresh_run("denormal")
    halves = []

    def halving(*given):
        halves.append(torch.full((4,), 2e-39).mul(0.5).max().item())
        return take_step(*given)

    monkeypatch.setattr(loop, "take_step", halving)
    train(run_options(preprocessed, "0", kimg=0.016))
    assert {*halves} == {0.0}
    assert torch.full((4,), 2e-39).mul(0.5).max() > 0


def test_one_training_at_a_time_works_in_a_run_folder(fresh_run, preprocessed, monkeypatch):
    folder, refused = fresh_run("locked"), []
    plan = (folder / "plan.json").read_text()

    def second(state, *batch):
        if not refused:
            for start in (train, partial(plan_run, overwrite=True)):
                with pytest.raises(UserError) as caught:
                    start(run_options(preprocessed, "0", kimg=0.5))
                refused.append(str(caught.value))
        return take_step(state, *batch)

    monkeypatch.setattr(loop, "take_step", second)
    train(run_options(preprocessed, "0", kimg=0.016))
    assert len(refused) == 2
    for message in refused:
        assert str(folder) in message
        assert f"process {os.getpid()} on {socket.gethostname()}" in message
    assert json.loads(plan) | {"kimg": 0.016} == json.loads((folder / "plan.json").read_text())
    train(run_options(preprocessed, "0", kimg=0.024))  # the lock was given back


def test_a_killed_training_holds_no_lock(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom stylegan2_cond.folders import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False).returncode == -signal.SIGKILL
    with lock_folder(tmp_path / "run"):
        pass


def test_a_run_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=str(tmp_path / "file")), lock_folder(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("after", [8, 16])  # a checkpoint is due; a snapshot is
def test_a_run_folder_that_is_moved_during_training_is_not_made_again(fresh_run, preprocessed, monkeypatch, after):
    folder = fresh_run(f"moved_{after}")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def moved(state, *batch):
        told = take_step(state, *batch)
        if state.images_seen == after:
            folder.rename(folder.with_name("elsewhere"))
        return told

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", moved)
        with pytest.raises(UserError, match=re.escape(str(folder))):
            train(run_options(preprocessed, "0", kimg=0.016))
    assert not folder.exists()
    folder.with_name("elsewhere").rename(folder)
    assert len(find_snapshots(train(run_options(preprocessed, "0", kimg=0.016)))) == 1


def test_what_computed_the_ops_is_recorded_and_a_change_is_announced(fresh_run, preprocessed, monkeypatch, capsys):
    folder = fresh_run("backends")
    monkeypatch.setenv("STYLEGAN2_COND_OPS", "native")
    train(run_options(preprocessed, "0", kimg=0.008))
    assert "cpu native" not in capsys.readouterr().out
    monkeypatch.setattr(state, "name_backend", lambda device: f"{device} compiled")
    train(run_options(preprocessed, "0", kimg=0.016))
    said = capsys.readouterr().out
    assert "'cpu native'" in said
    assert "'cpu compiled'" in said
    train(run_options(preprocessed, "0", kimg=0.024))
    assert "cpu native" not in capsys.readouterr().out
    cards = [Card.load(snapshot / "card.json").backends for snapshot in find_snapshots(folder)]
    assert cards == [("cpu native",), ("cpu native", "cpu compiled"), ("cpu native", "cpu compiled")]


def test_seeds_decide_the_weights(plan):
    states = [TrainingState.start(plan.model_copy(update={"seed": seed}), torch.device("cpu")) for seed in (0, 0, 1)]
    same, again, other = (state.generator.state_dict() for state in states)
    assert equal_bit_for_bit(same, again)
    assert not equal_bit_for_bit(same, other)


def test_torchs_random_state_is_left_alone(plan):
    before = torch.get_rng_state()
    TrainingState.start(plan, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_reaches_its_patch_and_shows_what_it_learnt(generator_run):
    for name in (
        "plan.json",
        CHECKPOINT_FILE,
        GOOD_CHECKPOINT_FILE,
        "log.jsonl",
        "progress.png",
        "tensorboard",
        "best",
    ):
        assert (generator_run / name).exists()
    newest = find_snapshots(generator_run)[-1]
    assert (generator_run / "previews" / f"{newest.name}.png").stat().st_size > 1000


def test_another_seed_or_patch_for_a_run_that_exists_is_refused(generator_run, preprocessed):
    with pytest.raises(UserError, match=r"plan\.json was made with another seed: 0, not 7"):
        train(run_options(preprocessed, "0", seed=7))
    with pytest.raises(UserError, match="another patch"):
        train(run_options(preprocessed, "0", patch_size=(24, 24)))


def test_no_augmentation_for_a_run_that_has_it_is_refused(fresh_run, preprocessed):
    fresh_run("augmented", augment_target=0.6)
    with pytest.raises(UserError, match=r"augment_target: 0\.6, not None"):
        train(run_options(preprocessed, "0", kimg=0.016, overrides={"augment_target": None}))
    fresh_run("plain", augment_target=None)
    assert train(run_options(preprocessed, "0", kimg=0.008, overrides={"augment_target": None}))


@pytest.mark.parametrize("kimg", [math.inf, math.nan, 1e308])
def test_a_length_that_is_not_finite_leaves_the_plan_as_it_was(fresh_run, preprocessed, kimg):
    folder = fresh_run("endless")
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(UserError, match="kimg"):
        train(run_options(preprocessed, "0", kimg=kimg))
    assert (folder / "plan.json").read_bytes() == before


def test_a_run_of_other_cases_is_refused(fresh_run, preprocessed, plan):
    folder = fresh_run("other")
    fewer = {key: getattr(plan.source, key)[:-1] for key in ("training_cases", "training_sha256")}
    source = plan.source.model_copy(update=fewer)
    plan.model_copy(update={"source": source}).save(folder / "plan.json")
    with pytest.raises(UserError, match=r"another source .*cases, scans or preprocessing changed"):
        train(run_options(preprocessed, "0", kimg=0.1))


def test_a_damaged_checkpoint_says_so_and_stays(fresh_run, preprocessed, plan):
    folder = fresh_run("damaged")
    save_checkpoint(folder, TrainingState.start(plan, torch.device("cpu")))
    path = folder / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoint_latest.pt is damaged"):
        train(run_options(preprocessed, "0", kimg=0.1))
    assert path.stat().st_size == 1000


def test_what_a_checkpoint_brings_back_lies_on_the_devices_where_a_fresh_training_has_it(tmp_path):
    """Adam's counters are on the CPU; on the networks' device, each step would wait for it once per weight."""
    plan, networks = tiny_plan(), ("generator", "discriminator")
    state = tiny_state(plan)
    step(state)
    save_checkpoint(tmp_path, state)
    fresh, resumed = (TrainingState.start(plan, torch.device("meta")) for _ in range(2))
    for name in networks:
        for weight in getattr(fresh, name).parameters():
            weight.grad = torch.zeros_like(weight)
        getattr(fresh, f"{name}_optimizer").step()
    assert load_checkpoint(tmp_path, resumed)
    for name in networks:
        expected, found = (getattr(one, f"{name}_optimizer").state.values() for one in (fresh, resumed))
        assert len(found) == len(expected) > 0
        for mine, theirs in zip(found, expected, strict=True):
            assert {key: value.device for key, value in mine.items()} == {
                key: value.device for key, value in theirs.items()
            }


def test_a_full_disk_leaves_the_checkpoint_before_it(plan, tmp_path, monkeypatch):
    state = TrainingState.start(plan, torch.device("cpu"))
    save_checkpoint(tmp_path, state)
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"No space left while writing .*checkpoint_latest.pt"):
        save_checkpoint(tmp_path, state)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_a_full_disk_is_reported_however_torch_reports_it(plan, tmp_path, monkeypatch):
    def enforce_fail(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", enforce_fail)
    state = TrainingState.start(plan, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="enforce fail"):
        save_checkpoint(tmp_path, state)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(tmp_path, state)


def test_a_disk_that_is_really_full_is_reported(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def write():
        with write_atomically(tmp_path / "x") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("content")

    with pytest.raises(UserError, match="No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_patch_larger_than_memory_names_a_smaller_one(preprocessed):
    fold = preprocessed.fold(0)
    with pytest.raises(UserError, match=r"needs about .* GiB, .* are\s+free.*--patch-size \d+,\d+"):
        make_plan(run_options(preprocessed, "0"), preprocessed, fold, budget=10 * 2**20)
    with pytest.raises(UserError, match=r"must lie between \[4, 4\] and the patch size"):
        make_plan(run_options(preprocessed, "0", patch_size=(100_000, 100_000)), preprocessed, fold)


def test_running_out_of_memory_names_a_smaller_patch(fresh_run, preprocessed, monkeypatch):
    fresh_run("memory")
    errors = iter([RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), MemoryError()])

    def exhausted(*_):
        raise next(errors)

    monkeypatch.setattr(loop, "take_step", exhausted)
    for said in ("CUBLAS_STATUS_ALLOC_FAILED", "MemoryError"):
        with pytest.raises(UserError, match=rf"Out of memory at patch .*{said}.*accumulate in plan.json"):
            train(run_options(preprocessed, "0", kimg=0.1))


def test_the_command_ends_with_the_paths_of_its_results(generator_run, run_here):
    code, printed, _ = run_here("stylegan2-cond", "train", "901", "2d", "0", "--device", "cpu")
    assert code == 0
    assert str(find_snapshots(generator_run)[-1]) in printed
    assert "coverage" in printed
    assert "--kimg" in printed  # 480 images are too few, and the command says so


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "901", "2d", "9"], "Fold 9 does not exist"),
        (["train", "901", "2d", "0", "--patch-size", "a,b"], "--patch-size a,b is not a list of sizes"),
        (["train", "901", "2d", "0", "--device", "nonsense"], "Device 'nonsense'"),
        (["train", "77", "2d", "0"], "Dataset '77' is not in"),
        (["train", "901", "2d", "٠"], "Fold ٠ does not exist"),
        (["train", "901", "2d", "00"], "Fold 00 does not exist"),
        (["train", "901", "2d", "0", "--device", "meta"], "Device 'meta'"),
    ],
)
def test_bad_input_ends_with_one_paragraph_and_code_2(generator_run, arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"Error: {words}")


def test_a_missing_results_variable_is_named(preprocessed, monkeypatch, run_here):
    monkeypatch.delenv("nnUNet_results")
    code, _, errors = run_here("stylegan2-cond", "train", "901", "2d", "0")
    assert code == 2
    assert "export nnUNet_results=" in errors


@pytest.mark.parametrize("option", ["--kimg", "--memory-gb"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e308", "1e400"])
def test_a_number_that_is_not_finite_is_refused_at_the_command_line(option, value, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", "train", "901", "2d", "0", option, value])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert option in capsys.readouterr().err


def test_a_training_that_is_shorter_than_it_was_and_has_no_snapshot_says_so(tmp_path, plan):
    assert "--kimg" in loop.describe_outcome(tmp_path, plan)


def test_a_terminal_that_knows_ascii_alone_gets_every_line(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    app = typer.Typer()
    app.command()(lambda: print("48×32"))
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        run_app(app)
    stream.flush()
    assert end.value.code == 0
    assert stream.buffer.getvalue() == b"48?32\n"


def test_a_results_folder_that_cannot_be_written_is_named_before_planning(preprocessed, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setattr(run_setup.os, "access", lambda path, mode: False)
    monkeypatch.setattr(run_setup, "load_or_make_plan", lambda *arguments: pytest.fail("a plan is made"))
    with pytest.raises(UserError, match=rf"No permission to write {tmp_path}\."):
        train(run_options(preprocessed, "0", kimg=0.01))


def test_a_results_folder_that_can_not_be_one_is_named(preprocessed, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", "/dev/null")
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", "train", "901", "2d", "0", "--kimg", "0.1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "/dev/null" in capsys.readouterr().err


def test_a_plan_with_an_unknown_key_names_the_nearest(fresh_run, preprocessed):
    folder = fresh_run("typo")
    content = json.loads((folder / "plan.json").read_text())
    content["r1_wait"] = content.pop("r1_weight")
    (folder / "plan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"plan\.json: .*'r1_wait' \(did you mean 'r1_weight'\?\)"):
        train(run_options(preprocessed, "0", kimg=0.1))
    shutil.rmtree(folder)


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_without_a_gpu_of_its_own_no_graph_is_planned(device, processes, preprocessed, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr(run_setup, "free_bytes", lambda device: None)
    options = run_options(preprocessed, "0", overrides={"cuda_graphs": True})
    _, fold = options.open()
    with pytest.raises(UserError, match="cuda_graphs=true"):
        run_setup.load_or_make_plan(options, preprocessed, fold, torch.device(device), processes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/dev/null/folder", "x" * 300])
def test_a_path_that_cannot_be_is_named_in_one_line(path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_app(lambda: os.stat(f"{path}/file"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {path}")


def test_an_error_of_no_path_stays_a_traceback():
    def app() -> None:
        raise OSError("of no path")

    with pytest.raises(OSError, match="of no path"):
        run_app(app)


# --- a time budget


def test_the_length_follows_from_hours_and_the_measured_step(preprocessed, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr(run_setup, "measure_step", lambda plan, device: StepCost(0, seconds_per_step=0.5))
    found = plan_run(run_options(preprocessed, "0", hours=2.0, overrides={"batch_size": 8})).plan
    assert found.kimg == pytest.approx(2 * 3600 / 0.5 * 8 / 1000, rel=0.05)  # rounded to two digits
    assert "2 hours" in found.reasons["kimg"]
    again = plan_run(run_options(preprocessed, "0", hours=2.0))  # the same command goes on
    assert (again.is_new, again.plan) == (False, found)
    with pytest.raises(UserError, match=r"another hours: 2\.0, not 3\.0"):
        plan_run(run_options(preprocessed, "0", hours=3.0))
    assert plan_run(run_options(preprocessed, "0", kimg=9.0)).plan.hours is None


def test_without_hours_a_cpu_trains_for_what_the_data_need_and_a_gpu_for_eight_hours():
    assert default_hours(torch.device("cpu")) is None
    assert default_hours(torch.device("cuda")) == 8
    assert choose_length(8, 10.0, most=5000).value == 2900
    assert choose_length(8, 1.0, most=5000).value == 5000


def test_a_gpu_gets_larger_batches_of_small_patches():
    small, large, volume = (64, 64), (256, 200), (64, 64, 64)
    for device, sizes in {"cpu": (16, 16, 8), "cuda": (32, 16, 8)}.items():
        chosen = (choose_batch_size(patch_size, torch.device(device)).value for patch_size in (small, large, volume))
        assert (*chosen,) == sizes


@pytest.mark.parametrize("options", [{"hours": 0.0}, {"hours": -1.0}, {"hours": math.inf}, {"hours": 1.0, "kimg": 5.0}])
def test_hours_that_make_no_sense_are_refused(preprocessed, options):
    with pytest.raises(UserError, match="--hours"):
        run_options(preprocessed, "0", **options)
