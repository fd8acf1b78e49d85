"""One real step: what it measures, how plans are changed until one fits, and what `plan` writes, reads and refuses."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from raw_cases import LABELS, NARROW, cohort, own_folders, preprocess, run_options
from tiny import tiny_plan

from stylegan2_cond.cli import main
from stylegan2_cond.errors import UserError
from stylegan2_cond.memory import is_out_of_memory
from stylegan2_cond.planning import Plan, planner, training_bytes
from stylegan2_cond.training import profile_step, run_setup
from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE
from stylegan2_cond.training.profile_step import OUT_OF_MEMORY, StepCost, measure_step
from stylegan2_cond.training.run_setup import (
    MAX_ATTEMPTS,
    describe_costs,
    load_or_make_plan,
    measure_until_it_fits,
    plan_run,
)
from stylegan2_cond.training.state import StepReport

CPU = torch.device("cpu")
NOTHING = StepReport((), torch.empty(0))

# --- the step itself


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells the peak of one process")
def test_a_real_step_takes_about_the_memory_that_was_estimated_and_leaves_this_process_alone():
    wide = {"patch_size": (48, 40), "factors": ((2, 2),) * 3, "channels": (96, 96, 64, 32), "augment_target": 0.6}
    plan = tiny_plan(batch_size=16, latent_dim=64, style_dim=64, **wide)
    before = profile_step.peak_bytes()
    found = measure_step(plan, CPU)
    assert 0.8 < found.peak_bytes / training_bytes(plan) < 1.6
    assert found.seconds_per_step > 0
    assert profile_step.peak_bytes() - before < 2**24


def test_a_step_that_no_memory_could_hold_says_so_by_its_exit_code(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["trial", "cpu"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(tiny_plan(patch_size=(400_000, 400_000)).model_dump_json()))
    assert profile_step.main() == OUT_OF_MEMORY


@pytest.mark.parametrize("code", [OUT_OF_MEMORY, -9, 137])
def test_a_measurement_that_runs_out_of_memory_is_reported_as_such(monkeypatch, code):
    monkeypatch.setattr(profile_step.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, "", ""))
    with pytest.raises(MemoryError, match="8 in 1 parts"):
        measure_step(tiny_plan(), CPU)


def test_a_trial_that_fails_for_another_reason_tells_it(monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "Traceback …\nIndexError: no such stage")
    monkeypatch.setattr(profile_step.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RuntimeError, match="IndexError: no such stage"):
        measure_step(tiny_plan(), CPU)


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx(...)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_who_says_that_memory_ran_out(error, so):
    assert is_out_of_memory(error) == so


@pytest.fixture
def steps(monkeypatch):
    """The states that steps began with, in the place of steps; each `takes` as many seconds as is said."""
    seen, clock = [], [0.0]

    def begin(*takes):
        durations = iter((0.0, *takes))  # the first, small one only loads libraries

        def take(state, image, label, position):
            seen.append((state, state.step_number, state.adaptive and state.adaptive.p))
            assert image.shape == (state.plan.batch_size, state.plan.codec.image_channels, *state.plan.patch_size)
            assert set(np.unique(label)) <= set(state.plan.codec.labels)
            assert len(position) == len(label) == state.plan.batch_size
            clock[0] += next(durations)
            return NOTHING

        monkeypatch.setattr(profile_step, "take_step", take)
        monkeypatch.setattr(profile_step.time, "perf_counter", lambda: clock[0])
        return seen

    return begin


@pytest.mark.parametrize("interval", [16, 3, 1])
def test_all_that_happens_now_and_then_happens_at_once_at_the_peak(steps, interval):
    seen = steps(5.0, 1.0, 3.0)
    plan = tiny_plan(r1_interval=interval, augment_target=0.6)
    profile_step.measure_step_here(plan, CPU)
    assert len(seen) == 4
    _, number, p = seen[1]
    assert number % interval == 0
    assert p == LARGEST_P


@pytest.mark.parametrize("variant", ["pair", "mask", "image"])
def test_the_mean_step_counts_what_is_rare_by_how_rare_it_is(steps, variant):
    steps(5.0, 1.0, 3.0)  # warming up, plain, with R1
    found = profile_step.measure_step_here(tiny_plan(variant, r1_interval=16), CPU)
    assert found.seconds_per_step == pytest.approx(1 + (3 - 1) / 16)


def test_without_regularisation_every_step_is_alike(steps):
    steps(5.0, 1.0, 1.0)
    assert profile_step.measure_step_here(tiny_plan(r1_weight=0.0), CPU).seconds_per_step == pytest.approx(1.0)


def test_a_step_that_takes_a_minute_is_not_taken_again(steps):
    seen = steps(61.0)
    assert profile_step.measure_step_here(tiny_plan(), CPU).seconds_per_step == 61.0
    assert len(seen) == 2


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_trial_has_the_precision_of_training(monkeypatch, precision):
    """TF32 for convolutions of plans that have it, and never for matrix products, which make warps and norms."""
    found = []

    def take(state, *_):
        found.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return NOTHING

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision != "tf32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr(profile_step, "take_step", take)
    try:
        profile_step.measure_step_here(tiny_plan(precision=precision), CPU)
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(found) == {(precision == "tf32", "highest")}


# --- until it fits


@pytest.fixture
def device(monkeypatch):
    """A device on which plans are tried, whose peaks, or None where memory runs out, are those of `peaks`."""

    class Device:
        peaks, tried = (), ()

    def measure_step(plan, _):
        peak = Device.peaks[len(Device.tried)] if len(Device.tried) < len(Device.peaks) else 2**20
        Device.tried = (*Device.tried, plan)
        if peak is None:
            raise MemoryError
        return StepCost(peak_bytes=peak, seconds_per_step=0.5)

    monkeypatch.setattr(run_setup, "measure_step", measure_step)
    return Device


def test_a_plan_that_fits_is_kept(device):
    plan = tiny_plan(batch_size=16)
    assert measure_until_it_fits(plan, CPU, 2**21) == (plan, StepCost(2**20, 0.5))


@pytest.mark.parametrize("budget", [2**21, None])
def test_a_plan_that_runs_out_of_memory_is_tried_in_more_parts(device, budget):
    device.peaks = (None, None)
    plan, found = measure_until_it_fits(tiny_plan(batch_size=16), CPU, budget)
    assert [tried.accumulate for tried in device.tried] == [1, 2, 4]
    assert plan.accumulate == 4
    assert found.peak_bytes == 2**20
    assert "ran out of memory" in plan.reasons["accumulate"]


def test_a_plan_above_its_budget_is_tried_in_more_parts_though_the_device_has_room(device):
    device.peaks = (2**22,)
    assert measure_until_it_fits(tiny_plan(batch_size=16), CPU, 2**21)[0].accumulate == 2


def test_trials_come_to_an_end(device):
    device.peaks = (3 * 2**30,) * 20
    with pytest.raises(UserError, match=r"needs about 3 GiB, 1 GiB are free.*--patch-size 4,4"):
        measure_until_it_fits(tiny_plan(batch_size=2**12), CPU, 2**30)
    assert len(device.tried) == MAX_ATTEMPTS


def test_a_plan_that_can_not_be_made_smaller_is_tried_once(device):
    device.peaks = (None,) * 9
    with pytest.raises(UserError, match="GiB are free"):
        measure_until_it_fits(tiny_plan(batch_size=1), CPU, 2**30)
    assert len(device.tried) == 1


# --- a plan in its folder


@pytest.fixture
def data(tmp_path, monkeypatch, device):
    monkeypatch.setattr(planner, "CONDITION_PATCHES", 20)
    return preprocess(own_folders(tmp_path, monkeypatch), cohort(5), LABELS)


def test_a_plan_is_written_and_read_again_as_it_is(data):
    made = plan_run(run_options(data, overrides=NARROW))
    assert made.is_new
    assert Plan.load(made.path) == made.plan
    text = made.path.read_text()
    for settings in ({}, {"overrides": NARROW}, {"seed": 0}):
        read = plan_run(run_options(data, **settings))
        assert not read.is_new
        assert read.plan == made.plan
        assert made.path.read_text() == text


def test_the_plan_that_is_written_is_the_one_that_fitted(data, device):
    device.peaks = (None,)
    assert Plan.load(plan_run(run_options(data, overrides=NARROW)).path).accumulate == 2


def test_training_makes_the_plan_that_the_command_plan_would_make(data, device):
    device.peaks = (None, 2**20, None)
    options = run_options(data, overrides=NARROW, seed=2)
    trained_by = load_or_make_plan(options, *options.open(), CPU)
    assert plan_run(options, overwrite=True).plan == trained_by.plan
    assert trained_by.plan.accumulate == 2


def test_each_process_is_tried_with_its_share(device):
    device.peaks = (2**22,)
    plan, _ = measure_until_it_fits(tiny_plan(batch_size=16), CPU, 2**22, processes=2)
    assert [tried.batch_size for tried in device.tried] == [8, 8]  # on a CPU, they share the memory
    assert (plan.batch_size, plan.accumulate) == (16, 2)


def test_nothing_is_written_of_a_plan_that_does_not_fit(data, device):
    device.peaks = (None,) * 9
    with pytest.raises(UserError, match="GiB are free"):
        plan_run(run_options(data, overrides=NARROW))
    assert not list((data.base.parent.parent / "nnUNet_results").rglob("*.json"))


def test_other_settings_are_refused_until_overwriting_is_asked_for(data):
    plan_run(run_options(data, overrides=NARROW))
    other = NARROW | {"batch_size": 8}
    with pytest.raises(UserError, match=r"another batch_size: 16, not 8.*--overwrite"):
        plan_run(run_options(data, overrides=other))
    anew = plan_run(run_options(data, overrides=other), overwrite=True)
    assert anew.is_new
    assert Plan.load(anew.path).batch_size == 8


def test_a_plan_that_is_damaged_is_made_anew_when_asked(data):
    path = plan_run(run_options(data, overrides=NARROW)).path
    path.write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON.*--overwrite"):
        plan_run(run_options(data))
    assert plan_run(run_options(data), overwrite=True).is_new


@pytest.mark.parametrize("sign", [CHECKPOINT_FILE, "snapshots/000001000/card.json"])
def test_the_plan_of_a_training_that_has_begun_stays(data, sign):
    path = plan_run(run_options(data, overrides=NARROW)).path
    (path.parent / sign).parent.mkdir(parents=True, exist_ok=True)
    (path.parent / sign).write_text("")
    with pytest.raises(UserError, match=r"Training by the plan .*Move the folder away"):
        plan_run(run_options(data), overwrite=True)
    with pytest.raises(UserError, match="another seed: 0, not 4") as caught:
        plan_run(run_options(data, seed=4))
    assert "--overwrite" not in str(caught.value)
    assert not plan_run(run_options(data)).is_new
    path.unlink()
    with pytest.raises(UserError, match=r"no plan\.json"):
        plan_run(run_options(data))


def test_someones_own_plan_that_runs_out_of_memory_is_not_changed(data, device):
    path = plan_run(run_options(data, overrides=NARROW)).path
    text = path.read_text()
    device.peaks = (None,) * 9
    with pytest.raises(UserError, match=r"runs out of memory on cpu.*accumulate to 2"):
        plan_run(run_options(data))
    assert path.read_text() == text


def test_the_budget_is_what_was_given_or_what_is_free(data, monkeypatch):
    monkeypatch.setattr(run_setup, "free_bytes", lambda device: 5 * 2**30)
    assert plan_run(run_options(data, overrides=NARROW)).budget == 5 * 2**30
    assert plan_run(run_options(data, memory_gb=1.5)).budget == 1.5 * 2**30
    with pytest.raises(UserError, match=r"0\.0009.. GiB are free"):
        plan_run(run_options(data, memory_gb=0.001), overwrite=True)


# --- the command


def typed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", "plan", "950", "2d", "all", "--device", "cpu", *arguments])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    return (code, *capsys.readouterr())


def test_the_command_tells_each_choice_memory_and_hours_and_where_the_plan_is(data, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = typed(monkeypatch, capsys, "--set", "channels=8,8", "--set", "batch_size=8", "--kimg", "40")
    assert code in (0, None)
    lines = out.splitlines()
    assert max(map(len, lines[:-2])) <= 120
    assert len(lines) < 45  # a screenful
    for key, value in (("batch_size", "8"), ("channels", "8,8"), ("kimg", "40"), ("patch_size", "16,14")):
        assert any(line.split()[:2] == [key, value] for line in lines)
    minutes = 0.5 / 8 * 40_000 / 60  # a step takes half a second
    assert f"62 s for 1,000 images, so {minutes:.0f} min for all 40,000" in out
    path = next((data.base.parent.parent / "nnUNet_results").rglob("plan.json"))
    train = f"Next: stylegan2-cond train {data.dataset_name} 2d all --device cpu"
    assert lines[-2:] == [f"Written to {path}", train]
    assert typed(monkeypatch, capsys)[1].splitlines()[-2:] == [f"Read from {path}", train]
    found = json.loads(typed(monkeypatch, capsys, "--json")[1])
    assert (found["path"], found["plan"]) == (str(path), json.loads(path.read_text()))
    assert found["step"] == {"peak_bytes": 2**20, "seconds_per_step": 0.5}


def test_memory_is_reported_as_measured_and_given(data):
    found = plan_run(run_options(data, overrides=NARROW, memory_gb=2))
    text = describe_costs(found)
    assert f"{2**20 / 2**30:.2g} GiB at the peak" in text
    assert "2 GiB are available" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "r1_wait=1"], "A plan has no key 'r1_wait'. Did you mean 'r1_weight'?"),
        (["--set", "batch_size=0"], "--set: key 'batch_size'"),
        (["--patch-size", "99,99"], "--patch-size [99, 99] must lie between"),
        (["--device", "nonsense"], "Device 'nonsense'"),
    ],
)
def test_bad_settings_end_with_one_paragraph_and_code_2(data, monkeypatch, capsys, arguments, words):
    code, _, errors = typed(monkeypatch, capsys, *arguments)
    assert code == 2
    assert errors.startswith(f"Error: {words}")


@pytest.mark.parametrize(
    ("kimg", "seconds", "text"),
    [
        (10.0, 0.5, "31 s for 1,000 images, so 5.2 min for all 10,000"),
        (800.0, 640.0, "40,000 s for 1,000 images, so 8,889 h for all 800,000"),
        (0.1, 0.5, "31 s for 1,000 images, so 3.1 s for all 100"),
    ],
)
def test_hours_are_reported_for_short_and_long_trainings(data, kimg, seconds, text):
    found = plan_run(run_options(data, overrides=NARROW | {"batch_size": 16}, kimg=kimg))
    assert text in describe_costs(replace(found, cost=StepCost(2**20, seconds)))
