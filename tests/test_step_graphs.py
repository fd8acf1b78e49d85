"""Steps that are recorded and replayed train as those that Python takes; operators stand in for a GPU's kernels."""

import copy
from contextlib import contextmanager, nullcontext
from unittest.mock import MagicMock

import pytest
import torch
from tape import use_tapes
from test_no_waiting import WAITS
from tiny import IGNORE, PAIRED, step, tiny_plan, tiny_state, weights

from stylegan2_cond.errors import UserError
from stylegan2_cond.ops.backends import NATIVE, VARIABLE
from stylegan2_cond.ops.bindings import find_library
from stylegan2_cond.training import step_graphs
from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.checkpoint import load_checkpoint, save_checkpoint
from stylegan2_cond.training.step_graphs import CudaRecorder

R1_INTERVAL = 2
STEPS = 2 * R1_INTERVAL * 3  # each kind warms up, is recorded and replayed, also after augmentation begins
RANDOM = ("rand", "normal", "uniform", "bernoulli", "dropout")


@pytest.fixture(autouse=True)
def tapes(monkeypatch):
    return use_tapes(monkeypatch)


def train(state, steps=STEPS):
    """Augmentation begins in the middle."""
    reports = []
    for number in range(steps):
        if state.adaptive and number == steps // 2:
            state.adaptive.p = LARGEST_P
        reports.append(step(state))
    return reports


def assert_equal(found, expected):
    different = [name for name, weight in weights(expected).items() if not torch.equal(weight, weights(found)[name])]
    assert not different


def make_plan(variant="pair", dims=2, **changes):
    changes = {"apart_share": 0.3, "augment_target": 1.0, "r1_interval": R1_INTERVAL} | changes
    return tiny_plan(variant, dims, **changes, **(PAIRED if variant == "image" else {}))


def both(plan):
    return (tiny_state(plan.model_copy(update={"cuda_graphs": graphs})) for graphs in (True, False))


@pytest.mark.parametrize(
    ("variant", "dims", "backend", "changes"),
    [
        ("pair", 2, NATIVE, {"ignore": IGNORE, "accumulate": 2}),
        ("pair", 3, "cpu", {}),
        ("mask", 2, NATIVE, {}),
        ("image", 2, "cpu", {}),
        ("pair", 2, "cpu", {"precision": "bfloat16"}),
    ],
)
def test_replayed_steps_are_those_that_python_takes(variant, dims, backend, changes, monkeypatch, tapes):
    if backend != NATIVE and isinstance(find_library("cpu"), str):
        pytest.skip(find_library("cpu"))
    monkeypatch.setenv(VARIABLE, backend)
    replayed, taken = both(make_plan(variant, dims, **changes))
    assert train(replayed) == train(taken)
    assert_equal(replayed, taken)
    assert len(tapes) == 4  # with and without penalties and augmentation
    assert all(tape.replays for tape in tapes)


def test_a_rollback_and_a_resumed_training_record_anew(tmp_path, tapes):
    replayed, taken = both(make_plan(augment_target=None))
    for state, folder in ((replayed, tmp_path / "replayed"), (taken, tmp_path / "taken")):
        folder.mkdir()
        train(state, STEPS // 2)
        save_checkpoint(folder, state)
        train(state, STEPS // 2)
        load_checkpoint(folder, state)
        state.apply_rollback(1)  # half the learning rate
        train(state, STEPS // 2)
        save_checkpoint(folder, state)
    assert_equal(replayed, taken)
    fresh, _ = both(make_plan(augment_target=None))
    load_checkpoint(tmp_path / "taken", fresh)  # of a training without graphs
    tapes.clear()
    for state in (fresh, replayed, taken):
        train(state, STEPS // 2)
    assert_equal(replayed, taken)
    assert_equal(fresh, taken)
    assert all(tape.replays for tape in tapes)


@pytest.mark.parametrize("forgotten", ["memory that moved", "a learning rate", "numbers of Python"])
def test_what_is_not_recorded_anew_or_hides_in_python_is_noticed(forgotten, monkeypatch):
    replayed, taken = both(make_plan(augment_target=None))
    for state in (replayed, taken):
        train(state, 1)
    before = copy.deepcopy(taken.state_dict())
    for state in (replayed, taken):
        train(state, STEPS // 2)
    if forgotten == "numbers of Python":
        taken.generator_optimizer.param_groups[0]["lr"] = replayed.generator_optimizer.param_groups[0]["lr"] = 1e-4
    else:
        monkeypatch.setattr(step_graphs.StepGraphs, "clear", lambda self: None)
        for state in (replayed, taken):
            if forgotten == "a learning rate":
                state.apply_rollback(1)
            else:
                state.load_state_dict(copy.deepcopy(before))
    for state in (replayed, taken):
        train(state, 2)
    with pytest.raises(AssertionError):
        assert_equal(replayed, taken)


def test_recorded_work_neither_waits_nor_draws_numbers_nor_makes_constants(tapes):
    train(tiny_state(make_plan(ignore=IGNORE, cuda_graphs=True)))
    names = {operator.__name__.partition(".")[0] for tape in tapes for operator, *_ in tape.calls}
    assert {"convolution", "_fused_adam_", "grid_sampler_2d"} <= names
    assert not names & {*WAITS, "lift_fresh", "_pin_memory"}
    assert not [name for name in names if any(word in name for word in RANDOM)]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, None),
        (RuntimeError("not permitted"), UserError),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError),
    ],
)
def test_what_cuda_cannot_record_is_reported_and_memory_that_ran_out_left_to_the_planner(error, shown, monkeypatch):
    for name in ("Stream", "CUDAGraph", "device"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    graph = torch.cuda.CUDAGraph()

    @contextmanager
    def recording(*_, **options):
        assert options["pool"] == "memory"
        try:
            yield
        except RuntimeError:
            raise RuntimeError("capture was invalidated")  # noqa: B904  (as in PyTorch, which ends the recording)
        assert not graph.replay.called

    monkeypatch.setattr(torch.cuda, "graph", recording)
    work = MagicMock(return_value="result", side_effect=error)
    with pytest.raises(shown, match=r"not permitted|full") if shown else nullcontext():
        assert CudaRecorder(torch.device("cuda")).record(work, "memory") == (graph, "result")
    assert work.call_count == 1
    assert graph.replay.call_count == (not shown)
