"""One task, done in a process of its own, here or on a cluster: its commands, their log, and their outcome."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from nnunet_synth.bank.fill import IF_REFUSED
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.benchmark.arms import PSEUDO_LABELS
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from nnunet_synth.benchmark.tasks import Task, arm_of, commands, make_tasks
from nnunet_synth.benchmark.workspace import bank_folder, predictions_folder, variables
from nnunet_synth.launcher import run_logged
from nnunet_synth.pseudo_labels.label import IF_ALL_REFUSED
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

State = Literal["missing", "running", "done", "failed"]
MAX_RESUMED_FAILURES = 2  # after which even a finished training is repeated from the start
# A bank's own advice names options that a benchmark does not have.
ADVICE = {
    IF_REFUSED: "Add an arm that leaves this filter open (--arm pair-unfiltered, or your own in a file for --arms), or "
    "start a benchmark with a longer training in another folder (--kimg, -o).",
    IF_ALL_REFUSED: "Add an arm of your own that turns this filter off (key without, in a file for --arms), or start a "
    "benchmark with a longer training in another folder (--steps, -o).",
}
_NOT_AN_ERROR = re.compile(r"^\s|^$|Warning|warnings\.warn|^Traceback|^\$ |^During handling|^The above exception")


class TaskRecord(Document):
    """`tasks/<name>.json`: the outcome of a task.

    Attributes:
        state: `running` also after the process was killed.
        started: start of the last attempt, in seconds since 1970.
        seconds: wall time of all attempts except failed ones.
        failures: failures in a row.
        error: the last line of the log that reads like an error.
    """

    remedy = "Delete the file; the task is then done again, and its commands continue where they were."
    state: State = "missing"
    started: float = 0.0
    seconds: float = 0.0
    failures: int = 0
    error: str = ""


def record_path(folder: Path, name: str) -> Path:
    """The record of a task."""
    return folder / "tasks" / f"{name}.json"


def log_path(folder: Path, name: str) -> Path:
    """The log of a task."""
    return folder / "tasks" / f"{name}.log"


def scores_path(folder: Path, name: str) -> Path:
    """The scores of a run, from which `scores.csv` is collected."""
    return folder / "tasks" / f"{name}.csv"


def read_record(folder: Path, name: str) -> TaskRecord:
    """The outcome of a task. If its file is damaged, a warning says so, and the task counts as not done."""
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
        benchmark: process id on this machine with which the job ends; None on a cluster, where jobs outlive it.
    """

    benchmark: int | None = None

    def __call__(self, folder: Path, name: str, threads: int, device: str) -> None:
        os.environ.update(variables(folder, threads))  # of this job's own process
        run_task(folder, name, threads, device, self.benchmark)

    def checkpoint(self, *arguments: object) -> object:
        """What submitit calls when SLURM stops the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def run_task(folder: Path, name: str, threads: int, device: str, benchmark: int | None = None) -> None:
    """Do a task unless it is done, and record the outcome.

    Args:
        folder: folder of the benchmark.
        name: name of the task.
        threads: number of threads of its commands.
        device: `cpu`, `cuda` or `mps`.
        benchmark: process id without which the task stops; None to continue to its end.
    """
    design = Design.load(folder / DESIGN_FILE)
    task = make_tasks(design)[name]
    with FileLock(folder / "tasks" / f".{name}.lock"):  # waits for a job that outlived the benchmark that started it
        before = read_record(folder, name)
        if before.state == "done":
            return
        log, began = log_path(folder, name), time.time()
        seconds = before.seconds
        if before.state == "running" and log.exists():  # a killed attempt lived as long as its log says
            seconds += max(0.0, log.stat().st_mtime - before.started)
        before = before.model_copy(update={"started": began, "seconds": seconds})
        before.model_copy(update={"state": "running"}).save(record_path(folder, name))
        try:
            if before.failures:
                _remove_failed_training(before.failures, task, design, folder)
            _run_commands(task, design, folder, threads, device, benchmark)
            if task.kind == "run":
                score_run(task, design, folder)
        except Exception as error:
            failed = {"state": "failed", "failures": before.failures + 1, "error": str(error) or repr(error)}
            before.model_copy(update=failed).save(record_path(folder, name))
            return
        except BaseException:  # a stop: the time so far counts
            spent = {"state": "missing", "seconds": seconds + time.time() - began}
            before.model_copy(update=spent).save(record_path(folder, name))
            raise
        done = TaskRecord(state="done", started=began, seconds=round(seconds + time.time() - began, 1))
        done.save(record_path(folder, name))


def _run_commands(task: Task, design: Design, folder: Path, threads: int, device: str, benchmark: int | None) -> None:
    def stop_if_orphaned() -> None:
        if benchmark is None:
            return
        try:
            os.kill(benchmark, 0)
        except (ProcessLookupError, PermissionError):  # ended, or its number is another user's now
            raise SystemExit("the benchmark that started this job has ended") from None

    log, environment = log_path(folder, task.name), variables(folder, threads)
    for command in commands(task, design, folder, device):
        start = log.stat().st_size if log.exists() else 0
        code = run_logged(command, log, environment, detached=True, each_second=stop_if_orphaned)
        if code and not (code == 1 and _holds_the_other_scans(task, design, folder)):
            what = last_error(log, start) or f"ended with code {code}"
            for marker, advice in ADVICE.items():
                what, refused, _ = what.partition(marker)
                what += advice if refused else ""
            raise UserError(f"{command[0]}: {what}")


def _holds_the_other_scans(task: Task, design: Design, folder: Path) -> bool:
    """Whether a bank of scans is complete, though its command ended with code 1: some scans could not be used."""
    arm = arm_of(task, design)
    if task.kind != "bank" or arm.unlabelled != PSEUDO_LABELS:
        return False
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    fold = design.fold(task.size, task.training_set)
    record = bank_folder(folder, design, preprocessed, arm, fold) / RECORD_FILE
    return record.exists() and BankRecord.load(record).complete


def score_run(task: Task, design: Design, folder: Path) -> None:
    """Score a run's predictions of the test cases, and remove the checkpoints that are not needed any more."""
    from nnunet_synth.benchmark.scoring import COLUMNS, score_predictions, write_rows

    predictions = _predictions(task, design, folder)
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    rows = score_predictions(preprocessed, predictions, design.test_cases)
    write_rows(scores_path(folder, task.name), COLUMNS, rows)
    for unused in ("checkpoint_best.pth", "checkpoint_latest.pth"):  # only the final weights were tested
        (predictions.parent / unused).unlink(missing_ok=True)


def _remove_failed_training(failures: int, task: Task, design: Design, folder: Path) -> None:
    """A stopped training continues, a failed one does not: nnU-Net's checkpoints may be truncated."""
    if task.kind == "run":
        model = _predictions(task, design, folder).parent
        if failures >= MAX_RESUMED_FAILURES or not (model / "checkpoint_final.pth").exists():
            shutil.rmtree(model, ignore_errors=True)


def _predictions(task: Task, design: Design, folder: Path) -> Path:
    arm = arm_of(task, design)
    return predictions_folder(folder, design, arm, design.fold(task.size, task.training_set, arm), task.run)


def last_error(log: Path, start: int = 0) -> str:
    """The last line of a log, from a byte on, that reads like an error, not like a warning, a bar or a traceback."""
    with log.open("rb") as file:
        file.seek(start)
        lines = re.split(r"[\r\n]+", file.read().decode(errors="replace"))
    return next((line.strip() for line in reversed(lines) if not _NOT_AN_ERROR.search(line)), "")
