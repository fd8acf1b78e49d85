"""What the tasks left behind, as the two tables that the report is made from: `scores.csv` and `cells.csv`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.benchmark.analysis import QUALITY
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.results import CELL_COLUMNS, CELLS_FILE, SCORE_COLUMNS, SCORES_FILE
from nnunet_synth.benchmark.scoring import read_scores, write_rows
from nnunet_synth.benchmark.task_runner import TaskRecord, read_record, scores_path
from nnunet_synth.benchmark.tasks import generator_folder, tasks_of
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document
from stylegan2_cond.metrics.evaluate import EVALUATION_FILE
from stylegan2_cond.metrics.report import Evaluation
from stylegan2_cond.snapshot import CARD_FILE, Card, find_best

_Kind = TypeVar("_Kind", bound=Document)


def gather(folder: Path, design: Design, records: Mapping[str, TaskRecord] | None = None) -> None:
    """Write both tables anew from what the tasks left.

    Args:
        folder: of the benchmark.
        design: of the benchmark.
        records: of the tasks; read from the folder, when None.
    """
    tasks = tasks_of(design)
    records = {**records} if records else {name: read_record(folder, name) for name in tasks}
    scores, cells = [], []
    for name, task in tasks.items():
        if task.kind != "cell":
            continue
        key = {"arm": task.what, "size": task.size, "repeat": task.repeat}
        records[name], rows = _scored(folder, design, name, records[name])
        scores += [key | row for row in rows]
        arm = next(arm for arm in design.arms if arm.name == task.what)
        cells.append(key | _cell(folder, design, arm, records, name, (task.size, task.repeat)))
    write_rows(folder / SCORES_FILE, SCORE_COLUMNS, scores)
    write_rows(folder / CELLS_FILE, CELL_COLUMNS, cells)


def _scored(folder: Path, design: Design, name: str, record: TaskRecord) -> tuple[TaskRecord, list[dict]]:
    """A cell's record and scores; a cell whose scores are damaged is left out, with a warning."""
    if record.state != "done":
        return record, []
    try:
        return record, read_scores(scores_path(folder, name), design.test_cases)
    except UserError as error:
        _warn(f"{error} {name} is left out; the same command does it again.")
        return record.model_copy(update={"state": "missing", "error": str(error)}), []


def _cell(
    folder: Path, design: Design, arm: Arm, records: Mapping[str, TaskRecord], name: str, which: tuple[int, int]
) -> dict:
    """The row of one cell. A generator's time stands in the rows of all arms that use it, though it was spent once."""
    record, fold = records[name], design.fold(*which)
    row = {
        "training_cases": " ".join(design.folds[fold].cases),
        "iterations": design.iterations,
        "seconds_nnunet": f"{record.seconds:.1f}" if record.seconds else "",
        "state": "missing" if record.state == "running" else record.state,
        "error": record.error,
    }
    if not arm.variant:
        return row
    used = [f"generator_{variant}_{which[0]}_{which[1]}" for variant in arm.generators]
    used.append(f"bank_{arm.bank}_{which[0]}_{which[1]}")
    if all(records[task].state == "done" for task in used):
        row["seconds_generator"] = f"{sum(records[task].seconds for task in used):.1f}"
    return row | _quality(folder, design, arm, fold)


def _quality(folder: Path, design: Design, arm: Arm, fold: int) -> dict:
    """What was trained and drawn, and how good; of an ensemble, its first generator."""
    bank = folder / "nnUNet_preprocessed" / design.dataset
    found: dict[str, object] = {}
    for path in bank.glob(f"*_synth/fold_{fold}/{arm.bank}/{RECORD_FILE}"):
        if record := _read(BankRecord, path):
            found["bank_samples"] = record.samples
    best = find_best(generator_folder(folder, design, arm.variant.split("+")[0], fold))
    if best is not None and (card := _read(Card, best / CARD_FILE)):
        found["generator_images"] = card.images_seen
    if best is not None and (judged := _read(Evaluation, best / EVALUATION_FILE)):
        found |= {name: _text(judged.drawn[name].value) for name in QUALITY if name in judged.drawn}
        found["kid_error"] = _text(judged.drawn["kid"].standard_error) if "kid" in judged.drawn else ""
    return found


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _read(kind: type[_Kind], path: Path) -> _Kind | None:
    """A record that a generator or a bank left; None where there is none, or, with a warning, where it is damaged."""
    try:
        return kind.load(path) if path.exists() else None
    except UserError as error:
        _warn(f"{error} Without it, its figures are left out.")
        return None


def _warn(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr)
