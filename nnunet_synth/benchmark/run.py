"""`nnunet-synth benchmark`: from the options to a design, its tasks, its tables, and its report."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnunet_synth.benchmark.arms import DEFAULT_ARMS, TRAINING_CASES, choose_arms, read_arms
from nnunet_synth.benchmark.budget import apply_budget
from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import DESIGN_FILE, Design, load_or_create, make_design
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.progress import ProgressTable, estimate, seconds_by_steps
from nnunet_synth.benchmark.scheduler import Resources, Scheduler
from nnunet_synth.benchmark.tasks import Task, commands, make_tasks
from nnunet_synth.benchmark.workspace import prepare_workspace
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder
from stylegan2_cond.snapshot import open_device

SLURM_JOBS, SLURM_THREADS = 16, 8
MAX_CPU_JOBS = 8
CALIBRATION_STEPS, CALIBRATION_SETS = (1000, 2000, 4000, 8000), 3
DEVICES = ("cpu", "cuda", "mps")  # that nnU-Net's commands take


@dataclass(frozen=True)
class Summary:
    """What a benchmark has done: its report, the number of its runs, and how many of them have no result."""

    report: Path
    runs: int
    without_result: int


@dataclass(frozen=True)
class DryRun:
    """What a benchmark would do: its tasks by name, an example of their commands, and how long all of them take."""

    design: Design
    tasks: dict[str, Task]
    example: str
    time: str

    def __str__(self) -> str:
        design = self.design
        what = f"{len(design.arms)} arms; {design.describe_sets()}; {len(design.test_cases)} test cases"
        tasks = (
            f"  {task}" + (f"  (needs {', '.join(task.needs)})" if task.needs else "") for task in self.tasks.values()
        )
        head = (f"{design.dataset}: {what}; {len(self.tasks)} jobs:", *design.notes())
        return "\n".join((*head, *tasks, f"For example: {self.example}", self.time))

    def json(self) -> dict:
        """All facts; the tasks with the names of those that each needs."""
        return {
            "design": self.design.model_dump(mode="json"),
            "notes": self.design.notes(),
            "tasks": {name: task.needs for name, task in self.tasks.items()},
            "example": self.example,
            "time": self.time,
        }


def plan_benchmark(options: BenchmarkOptions) -> DryRun:
    """What `run_benchmark` would do in a new folder; nothing is written.

    Raises:
        UserError: bad input.
    """
    preprocessed, resources, design, folder = _prepare(options)
    tasks = make_tasks(design)
    first = next(task for task in tasks.values() if task.kind == "run")
    example = " ".join(next(commands(first, design, folder, resources.device)))
    return DryRun(design, tasks, example, _estimate(design, preprocessed, resources))


def run_benchmark(options: BenchmarkOptions) -> Summary:
    """Do what is left of a benchmark, and write its report.

    Raises:
        UserError: bad input, a design that differs from the folder's, or another benchmark in the folder.
        Stopped: after Ctrl-C.
    """
    from nnunet_synth.benchmark.analysis import decide

    preprocessed, resources, design, folder = _prepare(options)
    with lock_folder(folder):
        design = load_or_create(design, folder)
        prepare_workspace(folder, design, preprocessed)
        for note in design.notes():
            print(note, file=sys.stderr)
        with ProgressTable() as table:
            scheduler = Scheduler(folder, design, resources, table)
            last = max(map(design.sets_of, design.sizes))
            for sets in (*(look for look in design.protocol.looks if look < last), last):
                try:
                    scheduler.finish(sets)
                finally:
                    write_tables(folder, scheduler.design, scheduler.records)
                scheduler.keep(decide(folder, scheduler.design, sets))
        states = [scheduler.records[name].state for name, task in scheduler.tasks.items() if task.kind == "run"]
        return Summary(write_report(folder), len(states), sum(state != "done" for state in states))


def calibrate(options: BenchmarkOptions) -> Summary:
    """Do what is left of the benchmarks of a calibration, and compare them; raises as `run_benchmark`."""
    from nnunet_synth.benchmark.report.calibration import write_calibration

    lengths = calibration_options(options)
    done = [run_benchmark(length) for length in lengths]
    report = write_calibration(options.folder, [length.folder for length in lengths])
    return Summary(report, sum(one.runs for one in done), sum(one.without_result for one in done))


def calibration_options(options: BenchmarkOptions) -> list[BenchmarkOptions]:
    """For each length of training, those of a benchmark of nnU-Net alone and the oracle, in a subfolder.

    Raises:
        UserError: a length is given, or no arm is an oracle.
    """
    if options.steps:
        raise UserError("--calibrate compares several numbers of --steps. Leave one of the two out.")
    oracles = [arm.name for arm in read_arms(options.arms_file or DEFAULT_ARMS)[0] if arm.unlabelled == TRAINING_CASES]
    if not oracles:
        raise UserError(f"--calibrate needs an arm with unlabelled = '{TRAINING_CASES}' in {options.arms_file}.")
    own = {"arms": (oracles[0],), "training_sets": min(options.training_sets, CALIBRATION_SETS)}
    return [
        replace(options, folder=options.folder / f"{steps}_steps", steps=steps, **own) for steps in CALIBRATION_STEPS
    ]


def write_report(folder: Path) -> Path:
    """Write the report of a folder from its tables alone.

    Raises:
        UserError: there is no benchmark, or no run of nnU-Net alone is done.
    """
    from nnunet_synth.benchmark.report import page

    if not (folder / DESIGN_FILE).exists():
        raise UserError(f"{folder} is not a benchmark. Name its folder with -o.")
    return page.write_report(folder)


def describe_report(path: Path) -> str:
    """The verdict of a report, and where its files are."""
    lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    verdict = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return f"{verdict.strip('>* ')}\nReport: {path}\nTables: {path.parent}/*.csv"


def choose_resources(options: BenchmarkOptions) -> Resources:
    """As many parallel jobs as there are GPUs (or one, for `cuda:N`); without a GPU, one for each CPU core.

    Raises:
        UserError: an sbatch option that is not KEY=VALUE, or the device is not available.
    """
    device, _, number = options.device.partition(":")
    if device not in DEVICES:
        raise UserError(f"--device {options.device} is not one of {', '.join(DEVICES)}. Try --device cpu")
    if options.slurm:
        pairs = [option.partition("=") for option in options.slurm]
        if wrong := [key for key, sign, value in pairs if not (key and sign and value)]:
            raise UserError(f"--slurm {wrong[0]} is not KEY=VALUE. Type for example --slurm partition=gpu")
        slurm, gpus = {key: value for key, _, value in pairs}, () if device == "cpu" else (0,)
        return Resources(options.jobs or SLURM_JOBS, SLURM_THREADS, device, slurm, gpus)
    open_device(options.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = tuple([int(number)] if number else range(torch.cuda.device_count())) if device == "cuda" else ()
    jobs = options.jobs or len(gpus) or min(cores, MAX_CPU_JOBS)
    return Resources(jobs, max(1, cores // jobs), device, gpus=gpus)


def _prepare(options: BenchmarkOptions) -> tuple[Preprocessed, Resources, Design, Path]:
    """The dataset, what there is to compute with, the requested design, and the absolute folder."""
    preprocessed = open_preprocessed(options.dataset, options.configuration, options.plans)
    resources = choose_resources(options)
    design = make_design(preprocessed, choose_arms(options.arms_file, options.arms), options)
    folder = Path(os.path.realpath(options.folder))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder} is not a folder. Choose another one.")
    return preprocessed, resources, design, folder


def _estimate(design: Design, preprocessed: Preprocessed, resources: Resources) -> str:
    """How long everything takes, by a few steps of nnU-Net's network; for a cluster, this machine can't tell."""
    tasks, seconds = [*make_tasks(design).values()], None
    if resources.slurm is None:
        plans = apply_budget(preprocessed.plans_manager.plans, design.configuration, design.budget)
        iterations = design.budget.iterations
        seconds = seconds_by_steps(preprocessed, plans, iterations, resources.threads, resources.device)
    if seconds is None:
        return "The first run will show how long it takes."
    run = next(task for task in tasks if task.kind == "run")
    left = estimate(tasks, {run: seconds}, resources.jobs)
    return f"By a few steps of nnU-Net's network here, without augmentation: {left}"
