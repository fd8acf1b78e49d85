"""Collects what the tasks wrote into the two tables that the report is made from: `scores.csv` and `runs.csv`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.results import RUN_COLUMNS, RUNS_FILE, SCORE_COLUMNS, SCORES_FILE
from nnunet_synth.benchmark.scoring import read_scores, write_rows
from nnunet_synth.benchmark.task_runner import TaskRecord, read_record, scores_path
from nnunet_synth.benchmark.tasks import Task, arm_of, make_tasks
from nnunet_synth.benchmark.workspace import generator_folder
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document
from stylegan2_cond.metrics.evaluate import EVALUATION_FILE
from stylegan2_cond.metrics.report import Evaluation
from stylegan2_cond.snapshot import CARD_FILE, Card, find_best

_Kind = TypeVar("_Kind", bound=Document)


def write_tables(folder: Path, design: Design, records: Mapping[str, TaskRecord] | None = None) -> None:
    """Write both tables.

    Args:
        folder: folder of the benchmark.
        records: outcomes of the tasks; read from the folder if None.
    """
    tasks = make_tasks(design)
    records = {**records} if records else {name: read_record(folder, name) for name in tasks}
    scores, runs = [], []
    for name, task in tasks.items():
        if task.kind != "run":
            continue
        key = {"arm": task.target, "size": task.size, "training_set": task.training_set, "run": task.run}
        if records[name].state == "done":
            try:
                scores += [key | row for row in read_scores(scores_path(folder, name), design.test_cases)]
            except UserError as error:
                print(f"Warning: {error} {name} is left out; the same command repeats it.", file=sys.stderr)
                records[name] = records[name].model_copy(update={"state": "missing", "error": str(error)})
        runs.append(key | _run_row(folder, design, task, tasks, records))
    write_rows(folder / SCORES_FILE, SCORE_COLUMNS, scores)
    write_rows(folder / RUNS_FILE, RUN_COLUMNS, runs)


def _run_row(
    folder: Path, design: Design, task: Task, tasks: Mapping[str, Task], records: Mapping[str, TaskRecord]
) -> dict:
    """The time of a generator, teacher or ensemble is in the rows of all arms that use it, though it was spent once."""
    record, arm, fold = records[task.name], arm_of(task, design), design.fold(task.size, task.training_set)
    row = {
        "training_cases": " ".join(design.training_cases(design.fold(task.size, task.training_set, arm))),
        "iterations": design.budget.iterations,
        "seconds_nnunet": f"{record.seconds:.1f}" if record.seconds else "",
        "state": "missing" if record.state == "running" else record.state,
        "error": record.error,
    }
    used = _all_needs(task, tasks)
    if arm.sources and not arm.needs_scans:  # the nnU-Net that a filter asks is not counted, but a teacher is
        used = {name for name in used if tasks[name].kind != "run"}
    if used and all(records[name].state == "done" for name in used):
        row["seconds_generator"] = f"{sum(records[name].seconds for name in used):.1f}"
    banks = [_quality(folder, design, source, fold) for source in arm.sources]
    for bank in banks:
        row |= bank
    return row | ({"bank_samples": sum(bank.get("bank_samples", 0) for bank in banks)} if arm.mix else {})


def _all_needs(task: Task, tasks: Mapping[str, Task]) -> set[str]:
    """Names of the tasks that a task needs, and of those that they need in turn."""
    return {*task.needs}.union(*(_all_needs(tasks[name], tasks) for name in task.needs))


def _quality(folder: Path, design: Design, arm: Arm, fold: int) -> dict:
    """Size of the bank, and quality of its generator, if it has one; of an ensemble, of its first one."""
    found: dict[str, object] = {}
    pattern = banks_folder(Path(), "*", fold) / arm.bank / RECORD_FILE
    for path in (folder / "nnUNet_preprocessed" / design.dataset).glob(str(pattern)):
        if record := _load(BankRecord, path):
            found["bank_samples"] = record.samples
    if not arm.variant:
        return found
    best = find_best(generator_folder(folder, design, arm.generators[0], fold))
    if best is not None and (card := _load(Card, best / CARD_FILE)):
        found["generator_images"] = card.images_seen
    if best is not None and (evaluation := _load(Evaluation, best / EVALUATION_FILE)):
        scores = evaluation.generated
        found |= {name: _text(scores[name].value) for name in ("kid", "coverage", "copies") if name in scores}
        found["kid_error"] = _text(scores["kid"].standard_error) if "kid" in scores else ""
    return found


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _load(kind: type[_Kind], path: Path) -> _Kind | None:
    """A document; None if there is none, or, with a warning, if it is damaged."""
    try:
        return kind.load(path) if path.exists() else None
    except UserError as error:
        print(f"Warning: {error} Without it, its figures are left out.", file=sys.stderr)
        return None
