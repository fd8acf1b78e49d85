"""Processes that train together learn what one would, write each file once, stop together and go on together.

Run as a script, this file is two processes with torchrun's variables, for the price of one start of Python:
`steps FOLDER` takes steps of the plans in the standard input, anything else are arguments of stylegan2-cond.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import PAIRED, assert_same_way, step, tiny_plan, tiny_state, weights
from torch.distributed import distributed_c10d

from stylegan2_cond.cli import main
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, run_folder
from stylegan2_cond.snapshot import find_snapshots
from stylegan2_cond.training import snapshot_evaluation
from stylegan2_cond.training import train as loop
from stylegan2_cond.training.distributed import DistributedContext, distributed_context, process_device

DEFAULT_PATIENCE = 1.0  # seconds that torch lets a process wait for others by default, shortened from half an hour
STEPS = 3
SEEN_ALIKE = {"batch_size": 16, "augment_target": 0.0, "r1_interval": 2}
PLANS = {
    "pair": tiny_plan(apart_share=0.4, **SEEN_ALIKE),
    "image": tiny_plan("image", **SEEN_ALIKE, **PAIRED),
    "mask, in parts": tiny_plan("mask", accumulate=2, **SEEN_ALIKE),
}


def walk(plan, distributed):
    """Weights after some steps of plain gradient descent, and what was reported on the way."""
    state = tiny_state(plan, distributed, descent=1e-3)
    state.adaptive.p = 0.5
    reported = [step(state) for _ in range(STEPS)]
    return {"weights": weights(state), "reported": reported, "spread": state.spread}


def start_two(*arguments):
    """Begin this file as a script, in a process group of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, env=os.environ | variables, start_new_session=True, **pipes)


def end_of(process, given=None):
    """Exit codes of both processes, what they printed, and what they printed of errors."""
    try:
        output, errors = process.communicate(given, timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # one may wait for the other for ever
    *printed, codes = output.splitlines() or ["no exit codes"]
    return codes, "\n".join(printed), errors


# --- shares


def test_each_process_has_a_share_of_its_own_and_together_they_have_all():
    shares = [DistributedContext(rank, 4).share(12) for rank in range(4)]
    assert [number for share in shares for number in range(12)[share]] == list(range(12))
    assert DistributedContext().share(5) == slice(0, 5)


def test_a_batch_that_cannot_be_divided_evenly_is_refused():
    with pytest.raises(UserError, match=r"batch_size 16 can't be divided among 3 processes\. Choose a multiple"):
        DistributedContext(0, 3).share(16)


# --- the same steps


@pytest.fixture(scope="module")
def steps_of_two(tmp_path_factory):
    """What two processes found for each plan: `[plan][rank]`."""
    folder = tmp_path_factory.mktemp("steps")
    codes, _, errors = end_of(start_two("steps", str(folder)), "\n".join(p.model_dump_json() for p in PLANS.values()))
    assert codes == "[0, 0]", errors
    return {name: [torch.load(folder / f"{n}_{rank}.pt") for rank in range(2)] for n, name in enumerate(PLANS)}


@pytest.mark.parametrize("name", PLANS)
def test_two_processes_learn_from_a_batch_what_one_learns(steps_of_two, name):
    alone, (first, second) = walk(PLANS[name], DistributedContext()), steps_of_two[name]
    for tensor in first["weights"]:
        assert torch.equal(first["weights"][tensor], second["weights"][tensor]), tensor
    assert (first["reported"], first["spread"]) == (second["reported"], second["spread"])
    assert_same_way(first["weights"], alone["weights"], weights(tiny_state(PLANS[name])))
    for scalars, expected in zip(first["reported"], alone["reported"], strict=True):
        assert scalars.keys() == expected.keys()
        for figure in scalars.keys() - {"spread"}:  # of samples that are compared within their share
            assert scalars[figure] == pytest.approx(expected[figure], rel=1e-3, abs=1e-5), figure


def test_what_one_process_wishes_all_agree_to(steps_of_two):
    for found in steps_of_two["pair"]:
        assert found["agreed"] == [False, True, True]


def test_a_process_waits_longer_for_the_leader_than_torch_would_by_default(steps_of_two):
    assert [found["waited"] for found in steps_of_two["mask, in parts"]] == [True, True]


# --- devices


@pytest.mark.parametrize(("name", "own"), [("cuda", "cuda:3"), ("cpu", "cpu"), ("mps", "mps")])
def test_each_process_of_a_machine_has_the_device_of_its_number(monkeypatch, name, own):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert process_device(name) == name
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert process_device(name) == own


def test_a_gpu_by_number_is_refused_to_several_processes_of_a_machine_but_not_to_one_on_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"--device cuda:0.*--device cuda\b"):
        process_device("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert process_device("cuda:0") == "cuda:0"


def test_training_touches_no_device_before_its_own(monkeypatch):
    touched = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(loop, "open_device", lambda name: touched.append(str(name)) or torch.device("cpu"))
    monkeypatch.setattr(loop, "distributed_context", lambda device: pytest.fail("far enough", pytrace=False))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        loop.train(SimpleNamespace(device="cuda", open=lambda: (None, None)))
    assert touched == ["cuda:1"]


# --- a real training


@pytest.fixture
def folder(preprocessed, plan, monkeypatch, tmp_path):
    """The folder of a run that has a plan only."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    folder = run_folder(plan.source)
    plan.model_copy(update={"patch_size": (20, 16)}).save(folder / "plan.json")
    return folder


def test_a_real_training_of_two_stops_goes_on_and_writes_each_file_once(folder):
    command = ("train", "901", "2d", "0", "--kimg", "0.2", "--device", "cpu")
    stopped = start_two(*command)
    while not (folder / "checkpoint_latest.pt").exists() and stopped.poll() is None:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(stopped.pid, signal.SIGTERM)
    codes, _, errors = end_of(stopped)
    assert codes == "[130, 130]", errors
    assert "Traceback" not in errors
    assert not find_snapshots(folder), "the training was over before it was stopped: this test tests nothing"

    codes, printed, errors = end_of(start_two(*command))
    assert codes == "[0, 0]", errors
    assert printed.count("Resuming after") == 1
    images = [json.loads(line)["images"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert images == sorted(set(images))
    assert [path.name for path in find_snapshots(folder)] == ["000000200"]
    assert not list(folder.rglob("*.tmp"))


# --- the two processes


def _take_steps(plans: list[Plan], folder: Path, rank: int) -> None:
    with distributed_context(torch.device("cpu")) as distributed:
        for number, plan in enumerate(plans):
            found = walk(plan, distributed)
            wishes = ((False, False), (False, True), (True, True))
            found["agreed"] = [distributed.any(wish[rank], torch.device("cpu")) for wish in wishes]
            if number == len(plans) - 1:
                found["waited"] = _waits(distributed)
            torch.save(found, folder / f"{number}_{rank}.pt")


def _waits(distributed: DistributedContext) -> bool:
    """Whether a process can wait for a leader that has something to do."""
    if distributed.is_main:
        time.sleep(2 * DEFAULT_PATIENCE)
    try:
        distributed.barrier()
    except RuntimeError:
        return False
    return True


def _refuse_to_write(event: str, arguments: tuple) -> None:
    """An audit hook: ends the process that writes a file of a run."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.rename", "os.mkdir")) and "/StyleGAN2Cond_" in str(arguments[0]):
        print(f"the second process wrote {arguments[0]}", file=sys.stderr, flush=True)
        os._exit(77)


def _train(rank: int) -> None:
    if rank == 1:
        sys.addaudithook(_refuse_to_write)
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code)


def _fork(work: Callable[[int], None], rank: int) -> int:
    if pid := os.fork():
        return pid
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    try:
        work(rank)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        distributed_c10d.default_pg_timeout = timedelta(seconds=DEFAULT_PATIENCE)
        plans = [Plan.model_validate_json(line) for line in sys.stdin]
        work = partial(_take_steps, plans, Path(sys.argv[2]))
    else:
        loop.CHECKPOINT_SECONDS = 0.0
        snapshot_evaluation.SAMPLES = snapshot_evaluation.COPY_SAMPLES = {2: 24}
        work = _train
    processes = [_fork(work, rank) for rank in range(2)]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]))
