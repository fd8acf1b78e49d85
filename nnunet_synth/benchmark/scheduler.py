"""Runs what is left of a benchmark in parallel jobs, through submitit: on this machine or on a SLURM cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import submitit

from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.progress import Estimate, ProgressTable, estimate, seconds_by_epochs
from nnunet_synth.benchmark.scoring import read_scores
from nnunet_synth.benchmark.task_runner import Job, TaskRecord, log_path, read_record, record_path, scores_path
from nnunet_synth.benchmark.tasks import Task, make_tasks
from stylegan2_cond.errors import Stopped, UserError

POLL_SECONDS = 0.5
STOP_SECONDS = 20  # that cancelled jobs have to end
LOCAL_HOURS, SLURM_HOURS = 24 * 14, 24  # time limit of a job; on a cluster, it continues in another one


@dataclass(frozen=True)
class Resources:
    """Where jobs run.

    Attributes:
        jobs: number of parallel jobs.
        threads: number of threads of each job.
        device: `cpu`, `cuda` or `mps`.
        slurm: sbatch options, as `{"partition": "gpu"}`; None for this machine.
        gpus: GPUs of this machine, which jobs take in turn; on a cluster, empty for jobs without a GPU.
    """

    jobs: int
    threads: int
    device: str = "cpu"
    slurm: Mapping[str, str] | None = None
    gpus: tuple[int, ...] = ()


@dataclass
class Scheduler:
    """The state of all tasks, and the running jobs.

    Attributes:
        tasks: by name, each after those that it needs.
        records: by name.
        waiting: names of the tasks that are not done, not running and not hopeless.
        jobs: by name, running jobs with their GPU.
    """

    folder: Path
    design: Design
    resources: Resources
    table: ProgressTable
    tasks: dict[str, Task] = field(init=False)
    records: dict[str, TaskRecord] = field(init=False)
    waiting: list[str] = field(init=False)
    jobs: dict[str, tuple[submitit.Job, int | None]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = make_tasks(self.design)
        self.records = {name: read_record(self.folder, name) for name in self.tasks}
        for name, task in self.tasks.items():
            if task.kind == "run" and self.records[name].state == "done":
                self._check_scores(name)
        self.waiting = [name for name, record in self.records.items() if record.state != "done"]
        for name in self.waiting:  # what failed before is tried again
            self._set(name, state="missing", error="")
        self.executor = make_executor(self.folder, self.resources)

    def _set(self, name: str, **changes: object) -> None:
        self.records[name] = self.records[name].model_copy(update=changes)

    def _check_scores(self, name: str) -> None:
        """A run with damaged scores is not done; nnU-Net then predicts again, and need not train again."""
        try:
            read_scores(scores_path(self.folder, name), self.design.test_cases)
        except UserError as error:
            self.table.print(f"{error} {self.tasks[name]} is repeated.")
            self._set(name, state="missing")
            self.records[name].save(record_path(self.folder, name))

    def keep(self, design: Design) -> None:
        """Drop the tasks that are not in a design any more."""
        self.design, self.tasks = design, make_tasks(design)
        self.records = {name: self.records[name] for name in self.tasks}
        self.waiting = [name for name in self.waiting if name in self.tasks]

    def finish(self, sets: int | None = None) -> None:
        """Do what is left of the first training sets; one run first, by which the rest is estimated.

        Args:
            sets: number of training sets of each size; all if None.

        Raises:
            Stopped: after Ctrl-C, or a SIGTERM that raises KeyboardInterrupt, with all jobs ended.
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs would ignore it
        try:
            runs = [name for name, task in self.tasks.items() if task.kind == "run"]
            if not any(self.records[name].state == "done" for name in runs):
                self._loop([name for name in runs if name in self.waiting][:1], foretell=True)
            left = [name for name in self.waiting if sets is None or self.tasks[name].training_set < sets]
            if left:
                self.table.print(str(self.estimate()))
            self._loop(left)
        except KeyboardInterrupt:
            self._stop()
            raise Stopped(f"Stopped. The same command continues in {self.folder}, without repeating work.") from None

    def estimate(self) -> Estimate:
        """What is left, and how long it takes."""
        left = [self.tasks[name] for name in (*self.jobs, *self.waiting)]
        measured = {self.tasks[name]: r.seconds for name, r in self.records.items() if r.state == "done"}
        return estimate(left, measured, self.resources.jobs)

    def _stop(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        self.table.print("Stopping …")
        for job, _ in self.jobs.values():
            job.cancel()
        until = time.monotonic() + STOP_SECONDS
        while any(not job.done() for job, _ in self.jobs.values()) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _loop(self, names: Sequence[str], *, foretell: bool = False) -> None:
        """Submit tasks as soon as they can start, in order, and wait until all jobs have ended.

        Args:
            foretell: report after the first epochs how long all runs will take.
        """
        left = list(names)
        while left or self.jobs:
            for name in list(self.jobs):
                self._collect(name)
            for name in self._startable(left):
                left.remove(name)
                self.waiting.remove(name)
                self._submit(name)
            for name in [name for name in left if self._is_hopeless(name)]:
                left.remove(name)
                self.waiting.remove(name)
            foretell = foretell and not self._foretell()
            self.table.update(self.tasks, self.records, self.estimate)
            if left or self.jobs:
                time.sleep(POLL_SECONDS)

    def _foretell(self) -> bool:
        """Report how long all runs take by the first epochs of the running one, once they are over."""
        name = next(iter(self.jobs), None)
        log = log_path(self.folder, name) if name else None
        if log is None or not log.exists():
            return False
        if (seconds := seconds_by_epochs(log.read_text(errors="replace"), self.design.budget.epochs)) is None:
            return False
        runs = [task for task in self.tasks.values() if task.kind == "run"]
        all_runs = estimate(runs, {self.tasks[name]: seconds}, self.resources.jobs)
        self.table.print(f"By the first epochs of one run: {all_runs}")
        return True

    def _startable(self, names: Sequence[str]) -> list[str]:
        """The next tasks that there is a free job for, and whose needs are done."""
        done = {name for name, record in self.records.items() if record.state == "done"}
        startable = [name for name in names if done.issuperset(self.tasks[name].needs)]
        return startable[: max(0, self.resources.jobs - len(self.jobs))]

    def _is_hopeless(self, name: str) -> bool:
        """Whether a task needs one that failed or is hopeless itself; its record then says why."""
        for need in self.tasks[name].needs:
            record = self.records[need]
            hopeless = record.state == "missing" and bool(record.error) and need not in self.waiting
            if hopeless or record.state == "failed":
                error = record.error if hopeless else f"{self.tasks[need]} failed: {record.error}"
                self.records[name] = TaskRecord(state="missing", error=error)
                return True
        return False

    def _submit(self, name: str) -> None:
        taken = {gpu for _, gpu in self.jobs.values()}
        gpus = self.resources.gpus
        gpu = next((gpu for gpu in gpus if gpu not in taken), gpus[0] if gpus else None)
        if self.resources.slurm is None and gpu is not None:
            self.executor.update_parameters(visible_gpus=(gpu,))
        self.executor.update_parameters(name=name)
        owner = os.getpid() if self.resources.slurm is None else None
        with _stderr_to(self.folder / "jobs" / "controllers.log"):
            job = self.executor.submit(Job(owner), self.folder, name, self.resources.threads, self.resources.device)
        self.jobs[name] = (job, gpu)
        self._set(name, state="running", error="")
        self.table.report(self.tasks[name], self.records[name])

    def _collect(self, name: str) -> None:
        """Read the outcome of a job that has ended."""
        job, _ = self.jobs[name]
        if not job.done():
            return
        del self.jobs[name]
        self.records[name] = read_record(self.folder, name)
        if self.records[name].state not in ("done", "failed"):
            logs = f"{log_path(self.folder, name)} and {job.paths.stderr}"
            self._set(name, state="failed", error=f"the job ended without writing a result; see {logs}")
        self.table.report(self.tasks[name], self.records[name])
        if self.tasks[name].kind == "run":  # a report of what is done can be written while others run
            write_tables(self.folder, self.design, self.records)


def make_executor(folder: Path, resources: Resources) -> submitit.AutoExecutor:
    """What submits jobs.

    Raises:
        UserError: SLURM is not installed, or has no such option.
    """
    local = resources.slurm is None
    options = dict(resources.slurm or {})
    minutes = options.pop("time", (LOCAL_HOURS if local else SLURM_HOURS) * 60)
    gpus = {"gpus_per_node": 1} if resources.gpus else {}
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster="local" if local else "slurm")
        executor.update_parameters(timeout_min=int(minutes), cpus_per_task=resources.threads, **gpus)
        executor.update_parameters(**{f"slurm_{key}": value for key, value in options.items()})
    except ValueError:
        raise UserError(f"--slurm time={minutes}: the time limit is in minutes, e.g. --slurm time=600") from None
    except (RuntimeError, NameError, TypeError) as error:
        raise UserError(f"--slurm: {error} Without --slurm, jobs run on this machine.") from None
    return executor


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Processes started in this context write their errors to a file; on a stop, submitit's would show tracebacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
