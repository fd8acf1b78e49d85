"""`nnunet-synth benchmark`: from what was typed to a design, its tasks, its tables, and its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_synth.benchmark import REPEATS
from nnunet_synth.benchmark.arms import choose_arms
from nnunet_synth.benchmark.budget import choose_effort, with_effort
from nnunet_synth.benchmark.collect import gather
from nnunet_synth.benchmark.design import ALL, DESIGN_FILE, FEW_TEST_CASES, SIZES, Design, make_design, settle
from nnunet_synth.benchmark.estimate import estimate, seconds_by_steps
from nnunet_synth.benchmark.report.examples import plot_examples
from nnunet_synth.benchmark.scheduler import Run, Where, alone
from nnunet_synth.benchmark.tasks import commands, tasks_of
from nnunet_synth.benchmark.view import View
from nnunet_synth.benchmark.workspace import prepare_roots
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.snapshot import open_device

SLURM_JOBS, SLURM_THREADS = 16, 8
MOST_JOBS = 8  # at a time on a machine without a GPU
DEVICES = ("cpu", "cuda", "mps")  # that nnU-Net's commands take


@dataclass(frozen=True)
class Asked:
    """What was typed; what is None is derived."""

    dataset: str
    configuration: str
    plans: str
    folder: Path
    arms_file: Path | None = None
    arms: tuple[str, ...] = ()
    sizes: str | None = None
    repeats: int = REPEATS
    test_cases: str | None = None
    subjects: str | None = None
    quick: bool = False
    epochs: int | None = None
    iterations: int | None = None
    kimg: float | None = None
    jobs: int | None = None
    slurm: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Done:
    """What a benchmark came to: its report, and how many of its cells have no result."""

    report: Path
    cells: int
    without_result: int


def run_benchmark(asked: Asked, *, dry: bool = False) -> Done | None:
    """Do what is left of a benchmark, and write its report.

    Args:
        asked: what was typed.
        dry: only tell what there is to do; nothing is written.

    Returns:
        The report, and the cells; None where only told.

    Raises:
        UserError: bad input, a design that differs from the folder's, or another benchmark in the folder.
        Stopped: after Ctrl-C.
    """
    preprocessed = open_preprocessed(asked.dataset, asked.configuration, asked.plans)
    where = choose_where(asked)
    design = _design(asked, preprocessed)
    folder = Path(os.path.realpath(asked.folder))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder} is not a folder. Choose another place with -o.")
    if dry:
        _tell(design, folder, where.device, notes(design, asked))
        print(_foretell(design, preprocessed, where))
        return None
    with alone(folder):
        design = settle(design, folder)
        prepare_roots(folder, design, preprocessed)
        for note in notes(design, asked):
            print(note, file=sys.stderr)
        with View() as view:
            run = Run(folder, design, where, view)
            try:
                run.finish()
            finally:
                gather(folder, design, run.records)
        plot_examples(folder, design, preprocessed)
        cells = [run.records[name].state for name, task in run.tasks.items() if task.kind == "cell"]
        return Done(report(folder), len(cells), sum(state != "done" for state in cells))


def report(folder: Path) -> Path:
    """Write the report of a folder from its tables alone.

    Raises:
        UserError: there is no benchmark, or no cell of it is done.
    """
    from nnunet_synth.benchmark.report.page import write_report

    if not (folder / DESIGN_FILE).exists():
        raise UserError(f"{folder} holds no benchmark. Name its folder with -o.")
    return write_report(folder)


def sentence(path: Path) -> str:
    """The sentence at the top of a report, and where the report lies."""
    lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return f"{first.strip('>* ')}\nReport: {path}\nTables: {path.parent}/*.csv"


def choose_where(asked: Asked) -> Where:
    """As many jobs at a time as there are GPUs, or else as many as leave each of this machine's cores one thread.

    Raises:
        UserError: an option of SLURM that is no KEY=VALUE, or no such device.
    """
    device, _, number = asked.device.partition(":")
    if device not in DEVICES:
        raise UserError(f"--device {asked.device} is not one of {', '.join(DEVICES)}. Try --device cpu")
    if not asked.slurm:
        open_device(asked.device)
    if asked.slurm:
        pairs = [option.partition("=") for option in asked.slurm]
        if wrong := [key for key, sign, value in pairs if not (key and sign and value)]:
            raise UserError(f"--slurm {wrong[0]} is no KEY=VALUE. Type for example --slurm partition=gpu")
        options = {key: value for key, _, value in pairs}
        return Where(asked.jobs or SLURM_JOBS, SLURM_THREADS, device, options, gpus=() if device == "cpu" else (0,))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = _gpus(number) if device == "cuda" else ()
    jobs = asked.jobs or len(gpus) or min(cores, MOST_JOBS)
    return Where(jobs, max(1, cores // jobs), device, gpus=gpus)


def _gpus(number: str) -> tuple[int, ...]:
    """The GPU that was named, or all."""
    import torch

    return (int(number),) if number else tuple(range(torch.cuda.device_count()))


def _design(asked: Asked, preprocessed: Preprocessed) -> Design:
    effort = choose_effort(quick=asked.quick, epochs=asked.epochs, iterations=asked.iterations, kimg=asked.kimg)
    changed = with_effort(preprocessed.plans_manager.plans, asked.configuration, effort)
    configuration = changed["configurations"][asked.configuration]
    network = {
        "features": tuple(configuration["architecture"]["arch_kwargs"]["features_per_stage"]),
        "batch": configuration["batch_size"],
    }
    return make_design(
        preprocessed,
        choose_arms(asked.arms_file, asked.arms),
        sizes=asked.sizes.split(",") if asked.sizes else None,
        repeats=asked.repeats,
        test_cases=asked.test_cases,
        subjects=asked.subjects,
        effort=effort,
        network=network,
        device=asked.device.split(":")[0],
        seed=asked.seed,
    )


def notes(design: Design, asked: Asked) -> list[str]:
    """What few cases mean for a design: sizes that were derived from what there is, and few test cases."""
    found, cases = [], len(design.pool)
    if asked.sizes is None and cases < max(int(size) for size in SIZES[asked.quick] if size != ALL):
        found.append(
            f"{design.dataset} has {len(design.test_cases) + cases} cases. {len(design.test_cases)} are to test on, so "
            f"{cases} are left to train on, and the sizes are {','.join(map(str, design.sizes))}."
        )
    if len(design.test_cases) < FEW_TEST_CASES:
        found.append(
            f"Only {len(design.test_cases)} test cases: a difference must go the same way in nearly all of them to be "
            f"told from chance."
        )
    return found


def _foretell(design: Design, preprocessed: Preprocessed, where: Where) -> str:
    """How long it all takes, by a few steps of nnU-Net's network; on a cluster, this machine can't say."""
    tasks, seconds = [*tasks_of(design).values()], None
    if where.slurm is None:
        plans = with_effort(preprocessed.plans_manager.plans, design.configuration, design.effort)
        length = (design.effort.epochs, design.effort.iterations)
        seconds = seconds_by_steps(preprocessed, plans, length, where.threads, where.device)
    if seconds is None:
        return "How long it takes, the first cell shows."
    cell = next(task for task in tasks if task.kind == "cell")
    left = estimate(tasks, {cell: seconds}, where.jobs)
    return f"By a few steps of nnU-Net's network here, without augmentation: {left}"


def _tell(design: Design, folder: Path, device: str, told: Sequence[str]) -> None:
    """What there is to do, and with which commands, without doing it."""
    tasks = tasks_of(design)
    print(
        f"{design.dataset}: {len(design.arms)} arms × {len(design.sizes)} sizes "
        f"({', '.join(map(str, design.sizes))}) × {design.repeats} repeats, {len(design.test_cases)} test cases; "
        f"{len(tasks)} jobs:",
        *told,
        sep="\n",
    )
    for task in tasks.values():
        print(f"  {task}" + (f"  (needs {', '.join(task.needs)})" if task.needs else ""))
    first = next(task for task in tasks.values() if task.kind == "cell")
    print(f"For example: {' '.join(next(commands(first, design, folder, device)))}")
