"""One task, done in a process of its own, here or on a cluster: its commands, their log, and what became of them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from filelock import FileLock

from nnunet_synth.bank.fill import IF_REFUSED
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from nnunet_synth.benchmark.tasks import Task, arm_of, commands, tasks_of
from nnunet_synth.benchmark.workspace import model_folder, variables
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

State = Literal["missing", "running", "done", "failed"]
ATTEMPTS_BEFORE_ANEW = 2  # failures after which even a finished training is not trusted
# What the command of a bank advises instead are options that a benchmark does not have.
REFUSED_HERE = (
    "Add an arm that leaves this filter open (--arm pair-unfiltered, or your own in a file for --arms), or start a "
    "benchmark with a longer training in another folder (--kimg, -o)."
)
BENCHMARK_SECONDS = 1.0  # between two looks at whether the benchmark is still there
PR_SET_PDEATHSIG = 1  # of Linux's prctl
_NO_ERROR = re.compile(r"^\s|^$|Warning|warnings\.warn|^Traceback|^\$ |^During handling|^The above exception")


class TaskRecord(Document):
    """`tasks/<name>.json`: what became of a task.

    Attributes:
        state: `running` also where the process was killed.
        started: when the last attempt was, in seconds since 1970.
        seconds: wall time of all attempts but those that failed.
        failures: in a row.
        error: the last line that says what went wrong.
    """

    remedy = "Delete the file; the task is then done again, and its commands go on where they were."
    state: State = "missing"
    started: float = 0.0
    seconds: float = 0.0
    failures: int = 0
    error: str = ""


class TaskFailed(Exception):
    """A command of a task ended with an error."""


def record_path(folder: Path, name: str) -> Path:
    return folder / "tasks" / f"{name}.json"


def log_path(folder: Path, name: str) -> Path:
    return folder / "tasks" / f"{name}.log"


def scores_path(folder: Path, name: str) -> Path:
    """Where the scores of a cell lie before they are gathered."""
    return folder / "tasks" / f"{name}.csv"


def read_record(folder: Path, name: str) -> TaskRecord:
    """What became of a task. Where its file is damaged, a warning says so, and the task is done again."""
    path = record_path(folder, name)
    try:
        return TaskRecord.load(path) if path.exists() else TaskRecord()
    except UserError as error:
        print(f"{error} Until then, {name} counts as not done.", file=sys.stderr)
        return TaskRecord()


@dataclass(frozen=True)
class Job:
    """What is submitted: does a task. A cluster that stops it for lack of time submits it again, and it continues.

    Attributes:
        benchmark: the process on this machine with which the job ends; None on a cluster, where jobs outlive it.
    """

    benchmark: int | None = None

    def __call__(self, folder: Path, name: str, threads: int, device: str) -> None:
        os.environ.update(variables(folder, threads))  # of this job's own process
        run_task(folder, name, threads, device, self.benchmark)

    def checkpoint(self, *arguments: object):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def run_task(folder: Path, name: str, threads: int, device: str, benchmark: int | None = None) -> None:
    """Do a task that is not done, and write down what became of it.

    Args:
        folder: of the benchmark.
        name: of the task.
        threads: that its commands may use.
        device: that they compute on.
        benchmark: the process without which the task stops; None if it goes to its end anyway.
    """
    design = Design.load(folder / DESIGN_FILE)
    task = tasks_of(design)[name]
    with FileLock(folder / "tasks" / f".{name}.lock"):  # a job that outlived the benchmark that started it is awaited
        before = read_record(folder, name)
        if before.state == "done":
            return
        before = _with_lost_time(before, log_path(folder, name))
        began = time.time()
        before = before.model_copy(update={"started": began})
        before.model_copy(update={"state": "running"}).save(record_path(folder, name))
        try:
            _clear_failed(before, task, design, folder)
            _do(task, design, folder, threads, device, benchmark)
        except Exception as error:
            failed = {"state": "failed", "failures": before.failures + 1, "error": str(error) or repr(error)}
            before.model_copy(update=failed).save(record_path(folder, name))
            return
        except BaseException:  # stopped: what was done so far took its time all the same
            spent = {"state": "missing", "seconds": before.seconds + time.time() - began}
            before.model_copy(update=spent).save(record_path(folder, name))
            raise
        done = TaskRecord(state="done", started=began, seconds=round(before.seconds + time.time() - began, 1))
        done.save(record_path(folder, name))


def _with_lost_time(before: TaskRecord, log: Path) -> TaskRecord:
    """An attempt that was killed could not write down its time; its log tells how long it lived."""
    if before.state != "running" or not log.exists():
        return before
    return before.model_copy(update={"seconds": before.seconds + max(0.0, log.stat().st_mtime - before.started)})


def _do(task: Task, design: Design, folder: Path, threads: int, device: str, benchmark: int | None) -> None:
    try:
        with log_path(folder, task.name).open("ab") as log:
            for command in commands(task, design, folder, device):
                _run(command, os.environ | variables(folder, threads), log, benchmark)
    except TaskFailed as error:
        what, refused, _ = str(error).partition(IF_REFUSED)
        raise TaskFailed(what + REFUSED_HERE if refused else what) from None
    if task.kind == "cell":
        _score(task, design, folder)


def _score(task: Task, design: Design, folder: Path) -> None:
    from nnunet_synth.benchmark.scoring import COLUMNS, score_predictions, write_rows
    from stylegan2_cond.data.nnunet_dataset import open_preprocessed

    model = model_folder(folder, design, arm_of(task, design)) / f"fold_{design.fold(task.size, task.repeat)}"
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    rows = score_predictions(preprocessed, model / "validation", design.test_cases)
    write_rows(scores_path(folder, task.name), COLUMNS, rows)
    for unused in ("checkpoint_best.pth", "checkpoint_latest.pth"):  # the last weights alone were tested
        (model / unused).unlink(missing_ok=True)


def _clear_failed(before: TaskRecord, task: Task, design: Design, folder: Path) -> None:
    """Remove what a failed training left; a stopped one goes on. nnU-Net's checkpoints may be cut off."""
    if task.kind != "cell" or not before.failures:
        return
    model = model_folder(folder, design, arm_of(task, design)) / f"fold_{design.fold(task.size, task.repeat)}"
    if before.failures >= ATTEMPTS_BEFORE_ANEW or not (model / "checkpoint_final.pth").exists():
        shutil.rmtree(model, ignore_errors=True)


def _run(command: list[str], environment: dict[str, str], log: BinaryIO, benchmark: int | None) -> None:
    """Run one installed command to its end; a stop of this process kills it, as all commands go on after that."""
    program = shutil.which(command[0], path=os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]]))
    if program is None:
        raise TaskFailed(f"{command[0]} is not installed beside {sys.executable}")
    start = log.tell()
    log.write(f"$ {' '.join(command)}\n".encode())
    log.flush()
    process = subprocess.Popen(
        [program, *command[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        code = _wait(process, benchmark)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code:
        raise TaskFailed(f"{command[0]}: {last_error(Path(log.name), start) or f'ended with code {code}'}")


def _wait(process: subprocess.Popen, benchmark: int | None) -> int:
    """The exit code of a command; a job whose benchmark was killed ends, since nobody would stop it later."""
    while True:
        try:
            return process.wait(None if benchmark is None else BENCHMARK_SECONDS)
        except subprocess.TimeoutExpired:
            if _has_ended(benchmark):
                raise SystemExit("the benchmark that started this job has ended") from None


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # it is gone, or its number is another user's now
        return True
    return False


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is killed, which then could not do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def last_error(log: Path, start: int = 0) -> str:
    """The last line of a log, from a place on, that reads like an error, not like a warning, a bar or a traceback."""
    with log.open("rb") as file:
        file.seek(start)
        lines = re.split(r"[\r\n]+", file.read().decode(errors="replace"))
    told = [line.strip() for line in lines if not _NO_ERROR.search(line)]
    return told[-1] if told else ""
