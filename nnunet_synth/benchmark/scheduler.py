"""Running what is left of a benchmark, a few jobs at a time, through submitit: on this machine or a SLURM cluster."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import submitit
from filelock import FileLock, Timeout

from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.estimate import Estimate, estimate, seconds_by_epochs
from nnunet_synth.benchmark.scoring import read_scores
from nnunet_synth.benchmark.task_runner import Job, TaskRecord, log_path, read_record, record_path, scores_path
from nnunet_synth.benchmark.tasks import Task, tasks_of
from nnunet_synth.benchmark.view import View
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import explained_write, write_atomically

LOCK_FILE, HOLDER_FILE = ".lock", ".running.json"
POLL_SECONDS = 0.5
STOP_SECONDS = 20  # that cancelled jobs have to end
LONGEST_HOURS = {False: 24 * 14, True: 24}  # of a job here, and on a cluster, where it goes on after that


@dataclass(frozen=True)
class Where:
    """Where jobs run.

    Attributes:
        jobs: at a time.
        threads: of each job.
        device: as nnU-Net calls it: `cpu`, `cuda` or `mps`.
        slurm: options of sbatch, as `{"partition": "gpu"}`; None for this machine.
        gpus: of this machine, which jobs take in turn; on a cluster, one or none for each job.
    """

    jobs: int
    threads: int
    device: str = "cpu"
    slurm: Mapping[str, str] | None = None
    gpus: tuple[int, ...] = ()


@dataclass
class Run:
    """The state of all tasks, and the jobs that are running.

    Attributes:
        tasks: by name, each after those that it needs.
        records: by name.
        jobs: that were submitted and have not ended, with the GPU that they took.
    """

    folder: Path
    design: Design
    where: Where
    view: View
    tasks: dict[str, Task] = field(init=False)
    records: dict[str, TaskRecord] = field(init=False)
    jobs: dict[str, tuple[submitit.Job, int | None]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = tasks_of(self.design)
        self.records = {name: read_record(self.folder, name) for name in self.tasks}
        self._doubt_damaged_scores()
        self.waiting = [name for name, record in self.records.items() if record.state != "done"]
        for name in self.waiting:  # what failed before is tried again
            self.records[name] = self.records[name].model_copy(update={"state": "missing", "error": ""})
        self.executor = _executor(self.folder, self.where)

    def _doubt_damaged_scores(self) -> None:
        """A cell whose scores can't be read is not done; nnU-Net then predicts again, and need not train again."""
        for name, task in self.tasks.items():
            if task.kind != "cell" or self.records[name].state != "done":
                continue
            try:
                read_scores(scores_path(self.folder, name), self.design.test_cases)
            except UserError as error:
                self.view.say(f"{error} {task} is done again.")
                self.records[name] = self.records[name].model_copy(update={"state": "missing"})
                self.records[name].save(record_path(self.folder, name))

    def finish(self) -> None:
        """Do everything that is left; a first cell alone, by which the rest is estimated.

        Raises:
            Stopped: after Ctrl-C or a termination, with all jobs ended.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs would ignore it
        try:
            if self._measured_cells() == 0:
                self._loop([name for name in self.waiting if self.tasks[name].kind == "cell"][:1], foretell=True)
            self.view.say(str(self.estimate()))
            self._loop(self.waiting)
        except KeyboardInterrupt:
            self.stop()
            raise Stopped(
                f"Stopped. The same command goes on in {self.folder}; nothing that is done is done again."
            ) from None

    def estimate(self) -> Estimate:
        left = [self.tasks[name] for name in (*self.jobs, *self.waiting)]
        measured = {self.tasks[name]: r.seconds for name, r in self.records.items() if r.state == "done"}
        return estimate(left, measured, self.where.jobs)

    def stop(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        self.view.say("Stopping …")
        for job, _ in self.jobs.values():
            job.cancel()
        until = time.monotonic() + STOP_SECONDS
        while any(not job.done() for job, _ in self.jobs.values()) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def _measured_cells(self) -> int:
        return sum(r.state == "done" and self.tasks[name].kind == "cell" for name, r in self.records.items())

    def _loop(self, wanted: list[str], *, foretell: bool = False) -> None:
        """Submit what is ready of `wanted`, in order, and wait until nothing of it is left to do.

        foretell: say by the first epochs how long all cells will take.
        """
        wanted = list(wanted)
        while wanted or self.jobs:
            for name in list(self.jobs):
                self._collect(name)
            for name in self._ready(wanted):
                wanted.remove(name)
                self.waiting.remove(name)
                self._submit(name)
            for name in [name for name in wanted if self._hopeless(name)]:
                wanted.remove(name)
                self.waiting.remove(name)
            foretell = foretell and not self._foretell()
            self.view.show(self.tasks, self.records, self.estimate)
            if wanted or self.jobs:
                time.sleep(POLL_SECONDS)

    def _foretell(self) -> bool:
        """Say how long all cells take by the first epochs of the running one, if they are over."""
        name = next(iter(self.jobs), None)
        log = log_path(self.folder, name) if name else None
        if log is None or not log.exists():
            return False
        if (seconds := seconds_by_epochs(log.read_text(errors="replace"), self.design.epochs)) is None:
            return False
        cells = [task for task in self.tasks.values() if task.kind == "cell"]
        told = estimate(cells, {self.tasks[name]: seconds}, self.where.jobs)
        self.view.say(f"By the first epochs of one cell: {told}")
        return True

    def _ready(self, wanted: list[str]) -> list[str]:
        """The next tasks that there is room for, and whose needs are done."""
        done = {name for name, record in self.records.items() if record.state == "done"}
        ready = [name for name in wanted if done.issuperset(self.tasks[name].needs)]
        return ready[: max(0, self.where.jobs - len(self.jobs))]

    def _hopeless(self, name: str) -> bool:
        """Whether a task needs one that failed, or one that needs one; its record says so."""
        for need in self.tasks[name].needs:
            if self.records[need].state == "failed" or self._lost(need):
                error = self.records[need].error
                error = error if self._lost(need) else f"{self.tasks[need]} failed: {error}"
                self.records[name] = TaskRecord(state="missing", error=error)
                return True
        return False

    def _lost(self, name: str) -> bool:
        record = self.records[name]
        return record.state == "missing" and bool(record.error) and name not in self.waiting

    def _submit(self, name: str) -> None:
        taken = {gpu for _, gpu in self.jobs.values()}
        gpu = next(
            (gpu for gpu in self.where.gpus if gpu not in taken), self.where.gpus[0] if self.where.gpus else None
        )
        if self.where.slurm is None and gpu is not None:
            self.executor.update_parameters(visible_gpus=(gpu,))
        self.executor.update_parameters(name=name)
        with _errors_to(self.folder / "jobs" / "controllers.log"):
            own = os.getpid() if self.where.slurm is None else None
            job = self.executor.submit(Job(own), self.folder, name, self.where.threads, self.where.device)
        self.jobs[name] = (job, gpu)
        self.records[name] = self.records[name].model_copy(update={"state": "running", "error": ""})
        self.view.tell(self.tasks[name], self.records[name])

    def _collect(self, name: str) -> None:
        """Take note of a job that has ended."""
        job, _ = self.jobs[name]
        if not job.done():
            return
        record = read_record(self.folder, name)
        if record.state not in ("done", "failed"):
            error = f"the job ended without a word; see {log_path(self.folder, name)} and {job.paths.stderr}"
            record = record.model_copy(update={"state": "failed", "error": error})
        del self.jobs[name]
        self.records[name] = record
        self.view.tell(self.tasks[name], record)


def _executor(folder: Path, where: Where) -> submitit.AutoExecutor:
    """
    Raises:
        UserError: there is no SLURM here, or it has no such option.
    """
    options = dict(where.slurm or {})
    minutes = options.pop("time", LONGEST_HOURS[where.slurm is not None] * 60)
    gpus = {"gpus_per_node": 1} if where.gpus else {}
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster="local" if where.slurm is None else "slurm")
        executor.update_parameters(timeout_min=int(minutes), cpus_per_task=where.threads, **gpus)
        executor.update_parameters(**{f"slurm_{key}": value for key, value in options.items()})
    except ValueError:
        raise UserError(f"--slurm time={minutes}: type the limit of a job in minutes, e.g. --slurm time=600") from None
    except (RuntimeError, NameError, TypeError) as error:
        raise UserError(f"--slurm: {error} Without --slurm, jobs run on this machine.") from None
    return executor


@contextlib.contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """Processes started meanwhile write their errors to a file; stopped, submitit's would show tracebacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder; one benchmark runs in it at a time.

    Raises:
        UserError: another one does; which, and since when; or the folder can't be written to.
    """
    holder, lock = folder / HOLDER_FILE, FileLock(folder / LOCK_FILE, timeout=0)
    try:
        with explained_write(folder / LOCK_FILE):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise UserError(f"Another benchmark runs in {folder}{_holder(holder)}. Wait for it, or stop it.") from None
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"-o {folder}: no folder can be made there ({error.strerror}). Choose another place.") from None
    try:
        told = {"process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M")}
        with write_atomically(holder) as temporary:
            temporary.write_text(json.dumps(told))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads(path.read_text())
        return f": process {told['process']} on {told['machine']}, since {told['since']}"
    return ""
