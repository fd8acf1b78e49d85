"""`make gpu-check` on a CPU: every check works, notices what it is made for, and leaves the others alone."""

import os
import signal
import sys
import time

import pytest
import torch
from tape import Tape, use_tapes

from stylegan2_cond.ops import autograd, backends
from stylegan2_cond.ops.bindings import find_library
from stylegan2_cond.planning.heuristics import Setting
from stylegan2_cond.snapshot import sampler
from stylegan2_cond.speed import gpu_bench, gpu_check, gpu_checks, timing
from stylegan2_cond.speed.gpu_bench import SMALL, Bench, CheckFailed, Skipped
from stylegan2_cond.speed.gpu_check import GpuReport, report_text, run_checks
from stylegan2_cond.speed.gpu_checks import CHECKS
from stylegan2_cond.training import profile_step, run_setup
from stylegan2_cond.training.distributed import DistributedContext
from stylegan2_cond.training.state import TrainingState

NEEDS_GPU = ("no waiting", "graphs")


@pytest.fixture
def here(monkeypatch):
    """Checks in a GPU's precision, but a step is measured in the check's own process, and times are taken once."""
    for module in (gpu_bench, gpu_checks):
        monkeypatch.setattr(module, "choose_precision", lambda device: Setting("bfloat16", "as on a GPU"))
    for module in (run_setup, gpu_checks):
        monkeypatch.setattr(module, "measure_step", profile_step.measure_step_here)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)


def failure(name):
    with pytest.raises(CheckFailed) as found:
        CHECKS[name](Bench("cpu", SMALL))
    return str(found.value)


def test_all_checks_pass_on_a_cpu_and_are_reported(here, monkeypatch, tmp_path, capsys):
    file = tmp_path / "new" / "check.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "-o", str(file)])
    assert gpu_check.main() == 0
    report, text, printed = GpuReport.load(file), file.with_suffix(".md").read_text(), capsys.readouterr().out
    assert report_text(report) == text
    has_kernels = not isinstance(find_library("cpu"), str)
    for check in report.checks:
        skipped = check.name in NEEDS_GPU or (check.name == "kernels" and not has_kernels)
        assert check.state == ("skipped" if skipped else "passed"), check
        assert check.why
        assert check.figures or skipped
        assert f"| {check.name} | {check.state} |" in text
        assert check.why in printed
    assert [check.name for check in report.checks] == list(CHECKS)
    assert torch.__version__ in report.machine["torch"]


def test_a_check_that_fails_crashes_or_hangs_does_not_stop_the_others(monkeypatch, tmp_path, capfd):
    def fails(bench):
        bench.figures |= {"measured": 3, "infinite": float("inf")}
        raise CheckFailed("too large")

    def skips(bench):
        raise Skipped("it takes two GPUs")

    monkeypatch.setattr(gpu_check, "LIMIT", 1)
    checks = {
        "fails": fails,
        "breaks": lambda bench: {}["missing"],
        "crashes": lambda bench: os.kill(os.getpid(), signal.SIGKILL),
        "hangs": lambda bench: time.sleep(60),
        "skips": skips,
        "passes": lambda bench: "well",
    }
    report = run_checks("cpu", checks)
    states = {check.name: (check.state, check.why) for check in report.checks}
    assert states == {
        "fails": ("failed", "too large"),
        "breaks": ("failed", "KeyError: 'missing'"),
        "crashes": ("failed", "its process ended with code -9"),
        "hangs": ("failed", "it took more than 1 s"),
        "skips": ("skipped", "it takes two GPUs"),
        "passes": ("passed", "well"),
    }
    assert report.failed
    report.save(tmp_path / "check.json")
    text = report_text(GpuReport.load(tmp_path / "check.json"))
    assert text.startswith("# GPU check: 1 passed, 4 failed, 1 skipped")
    assert "- measured: 3\n- infinite: inf\n" in text
    assert "Traceback" in text

    monkeypatch.setattr(gpu_check, "run_checks", lambda device: report)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "-o", str(tmp_path / "check.json")])
    assert gpu_check.main() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_checked_and_the_cpu_is_named(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "-o", str(tmp_path / "check.json")])
    assert gpu_check.main() == 2
    assert "--device cpu" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


# --- what each check is made for


@pytest.mark.parametrize("kernel", ["bias_act", "bias_act_grad", "bias_act_grad_grad", "resample"])
def test_wrong_kernels_are_noticed_where_the_self_test_does_not(kernel, monkeypatch):
    if isinstance(find_library("cpu"), str):
        pytest.skip(find_library("cpu"))
    call = autograd._call

    def wrong(name, like, *arguments):
        call(name, like, *arguments)
        if name == kernel:
            next(argument for argument in arguments if isinstance(argument, torch.Tensor)).mul_(1.2)

    monkeypatch.setattr(gpu_checks, "find_difference", lambda kind: "")
    monkeypatch.setattr(backends, "_refuse", lambda library, device: "")
    monkeypatch.setattr(autograd, "_call", wrong)
    assert "differ from plain PyTorch's" in failure("kernels")
    if kernel != "bias_act_grad_grad":  # which no step needs by default
        assert "gradients differ" in failure("step")


def test_a_step_that_is_not_finite_is_noticed(monkeypatch):
    finish = gpu_checks.finish_step
    monkeypatch.setattr(gpu_checks, "finish_step", lambda *step: finish(*step) | {"r1": float("nan")})
    assert failure("step") == "not finite in float32: r1"


@pytest.fixture
def lose(monkeypatch):
    """Lets a resumed training start afresh with a part of its state."""
    load = TrainingState.load_state_dict

    def choose(part):
        def forget(self, saved):
            fresh = gpu_bench.busy_state(self.plan, self.device).state_dict()
            load(self, saved | {part: fresh[part]})

        monkeypatch.setattr(TrainingState, "load_state_dict", forget)

    return choose


@pytest.mark.parametrize("lost", ["average", "generator_optimizer", "images_seen"])
def test_a_resumed_training_that_lost_a_part_is_noticed(lost, lose):
    lose(lost)
    assert failure("resume").endswith("; 0 is allowed")


def test_a_loss_is_told_apart_from_a_device_that_adds_in_any_order(lose, monkeypatch):
    step = gpu_bench.take_step

    def inexact(state, *batch):
        report = step(state, *batch)
        for weight in (*state.generator.parameters(), *state.discriminator.parameters()):
            weight.data.mul_(1 + 1e-6 * torch.randn_like(weight))
        return report

    monkeypatch.setattr(gpu_bench, "take_step", inexact)
    bench = Bench("cpu", SMALL)
    CHECKS["resume"](bench)
    assert bench.figures["allowed"] > bench.figures["difference of a resumed one"] > 0
    for lost in ("generator_optimizer", "images_seen"):
        lose(lost)
        assert "is allowed" in failure("resume")


def test_replayed_steps_that_do_nothing_are_noticed(monkeypatch):
    use_tapes(monkeypatch)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    bench = Bench("cpu:0", SMALL)  # a name that has graphs
    CHECKS["graphs"](bench)
    assert bench.figures["difference of a replayed one"] == bench.figures["allowed"] == 0
    monkeypatch.setattr(Tape, "replay", lambda tape: None)
    with pytest.raises(CheckFailed, match="; 0 is allowed"):
        CHECKS["graphs"](bench)


def test_a_plan_that_does_not_fit_is_noticed(monkeypatch):
    def nothing_fits(*_):
        raise MemoryError

    def narrow(plan, device, budget):
        return plan.model_copy(update={"channels": (4, 4)}), profile_step.StepCost(2**30, 1.0)

    monkeypatch.setattr(gpu_checks, "measure_step", nothing_fits)
    monkeypatch.setattr(gpu_checks, "measure_until_it_fits", narrow)
    assert "out of memory" in failure("memory")
    assert failure("trial") == "channels were reduced to [4, 4]"


def test_samples_that_are_not_those_of_a_cpu_are_noticed(monkeypatch):
    batches = sampler.PairGenerator._batch
    turn = iter([0.0, 0.1])

    def brighter(self, *arguments):
        found = batches(self, *arguments)
        found.image[...] += next(turn)
        return found

    monkeypatch.setattr(sampler.PairGenerator, "_batch", brighter)
    assert "images differ" in failure("sampling")


def test_processes_that_do_not_share_their_gradients_are_noticed(monkeypatch):
    monkeypatch.setattr(DistributedContext, "average", lambda self, tensors: None)
    assert "the processes differ from each other" in failure("two processes")


def test_processes_that_fail_are_noticed(monkeypatch, capfd):
    monkeypatch.setattr(gpu_checks, "distributed_context", lambda device: 1 / 0)
    assert "codes [1, 1]" in failure("two processes")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_waits_are_refused_within_a_step_only(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def wait():
        with gpu_bench.waiting_refused(torch.device("cuda")):
            assert modes == ["error"]
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        wait()
    assert modes == ["error", "default"]
