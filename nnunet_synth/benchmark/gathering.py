"""What the tasks left behind, as the two tables that the report is made from: `scores.csv` and `cells.csv`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.cells import generator_folder, tasks_of
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.jobs import TaskRecord, read_record, scores_path
from nnunet_synth.benchmark.scores import read_rows, write_rows
from nnunet_synth.benchmark.tables import CELL_COLUMNS, CELLS_FILE, SCORE_COLUMNS, SCORES_FILE
from stylegan2_cond.metrics.evaluation import EVALUATION_FILE
from stylegan2_cond.snapshot import find_best


def gather(folder: Path, design: Design, records: Mapping[str, TaskRecord] | None = None) -> None:
    """Write both tables anew from what the tasks left.

    Args:
        folder: of the benchmark.
        design: of the benchmark.
        records: of the tasks; read from the folder, when None.
    """
    tasks = tasks_of(design)
    records = records or {name: read_record(folder, name) for name in tasks}
    scores, cells = [], []
    for name, task in tasks.items():
        if task.kind != "cell":
            continue
        key = {"arm": task.what, "size": task.size, "repeat": task.repeat}
        if records[name].state == "done":
            scores += [key | row for row in read_rows(scores_path(folder, name))]
        arm = next(arm for arm in design.arms if arm.name == task.what)
        cells.append(key | _cell(folder, design, arm, records, name, (task.size, task.repeat)))
    write_rows(folder / SCORES_FILE, SCORE_COLUMNS, scores)
    write_rows(folder / CELLS_FILE, CELL_COLUMNS, cells)


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
    for record in bank.glob(f"*_synth/fold_{fold}/{arm.bank}/bank.json"):
        found["bank_samples"] = sum(len(shard["numbers"]) for shard in json.loads(record.read_text())["shards"])
    best = find_best(generator_folder(folder, design, arm.variant.split("+")[0], fold))
    if best is None:
        return found
    found["generator_images"] = json.loads((best / "card.json").read_text())["images_seen"]
    if (best / EVALUATION_FILE).exists():
        drawn = json.loads((best / EVALUATION_FILE).read_text())["drawn"]
        found |= {name: _number(drawn, name, "value") for name in ("kid", "coverage", "copies")}
        found["kid_error"] = _number(drawn, "kid", "standard_error")
    return found


def _number(drawn: Mapping, name: str, what: str) -> str:
    value = drawn.get(name, {}).get(what)
    return "" if value is None else f"{value:.6g}"
