"""The speed report: its reference computes the same, and its figures measure what they name. Speed is not tested."""

import json
import sys

import pytest
import torch
from tiny import tiny_plan, tiny_state

from stylegan2_cond import ops
from stylegan2_cond.cli import main
from stylegan2_cond.ops import Epilogue
from stylegan2_cond.planning import heuristics
from stylegan2_cond.speed import ops as op_bench
from stylegan2_cond.speed import reference, report, step, timing

CPU = torch.device("cpu")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(8, 6), (4, 6, 4)], ids=str)
def test_the_reference_computes_the_same_but_for_the_outermost_voxels(size):
    x, large = normal(2, 3, *size), [2 * length for length in size]
    epilogue = Epilogue(
        normal(3, seed=1), noise=normal(2, 1, *large, seed=2), strength=normal(seed=3), activation="lrelu"
    )
    factors = (2,) * len(size)
    inside = (..., *[slice(1, -1)] * len(size))
    options = {"factors": factors, "size": large, "epilogue": epilogue}
    weight, style = normal(4, 3, *[3] * len(size), seed=4), normal(2, 3, seed=5)
    pairs = [
        (module.upsample(x, factors, large, epilogue=epilogue)[inside], module.downsample(x, factors))
        for module in (ops, reference)
    ]
    torch.testing.assert_close(*pairs)
    bent = Epilogue(normal(4, seed=1), activation="lrelu")
    torch.testing.assert_close(
        *[
            module.modulated_conv(x, weight, style, **options | {"factors": None, "epilogue": bent})
            for module in (ops, reference)
        ]
    )


def test_networks_compute_with_the_reference_within_its_context_only():
    state = tiny_state(tiny_plan())
    plan, generator = state.plan, state.generator
    z, condition = torch.zeros(2, plan.latent_dim), torch.zeros(2, plan.conditions.width)
    noises = [torch.zeros(2, 1, *size) for size in generator.synthesis.noise_sizes]
    ours = generator(z, condition, noises)
    with reference.reference_ops():
        theirs = generator(z, condition, noises)
    assert not torch.equal(ours, theirs)  # edges differ
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(generator(z, condition, noises), ours)


def test_times_are_taken_in_turns_and_their_ratio_is_the_references_over_ours(monkeypatch):
    clock = {"now": 0.0}
    calls = []

    def taking(name, seconds):
        def run():
            calls.append(name)
            clock["now"] += seconds

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])
    found = timing.compare_times(taking("ours", 0.2), taking("theirs", 0.5), rounds=3, device=CPU)
    assert (found.ours, found.reference, found.ratio) == pytest.approx((0.2, 0.5, 2.5))
    assert calls[-6:] == ["ours", "theirs"] * 3


def test_on_a_gpu_a_step_is_timed_in_the_batch_and_precision_that_train_there(monkeypatch):
    chosen = {"cuda": "bfloat16", "cpu": "float32"}
    monkeypatch.setattr(heuristics, "choose_precision", lambda device: heuristics.Setting(chosen[device.type], ""))
    plans = [step.speed_plan(64, device=torch.device(device)) for device in chosen]
    assert [(plan.precision, plan.batch_size) for plan in plans] == [("bfloat16", 32), ("float32", 16)]


def test_the_command_prints_all_figures_and_writes_them(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(op_bench, "SHAPES", {64: (1, 4, 8)})
    monkeypatch.setattr(report, "SHAPES", {64: (1, 4, 8)})
    monkeypatch.setattr(report, "SIDES", (16, 32))
    plan = step.speed_plan(16, batch_size=2, finest=4, most=4).model_copy(update={"r1_interval": 2})
    monkeypatch.setattr(report, "speed_plan", lambda *args, **kwargs: plan)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    measure = step.step_memory  # each time in a process of its own
    monkeypatch.setattr(
        step, "step_memory", lambda plan, device, reference: measure(plan, device, reference=True) if reference else 1
    )
    monkeypatch.setattr(
        sys, "argv", ["stylegan2-cond", "bench", "--quick", "--device", "cpu", "-o", str(tmp_path / "a.json")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert not torch.backends.cudnn.allow_tf32  # as the plan says
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    for words in ("bias_act", "upsample+bias_act", "double", "step at 16², batch 2", "with R1", "64 at once", "16² "):
        assert words in printed
    assert len(written["ops"]) == 15
    (steps,) = written["steps"]
    assert steps["plain"]["ours"] > 0
    assert min(steps["memory"]) > 0
    assert 0 < steps["operations"][0] < steps["operations"][1]
    assert set(written["samples"]) == {"1", "64"}
    assert set(written["growth"]) == {"16", "32"}
