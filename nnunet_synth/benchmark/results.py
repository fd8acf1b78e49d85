"""What a benchmark left behind, `design.json`, `cells.csv` and `scores.csv`, as checked arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.design import DESIGN_FILE
from nnunet_synth.benchmark.statistics import mean
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json

CELLS_FILE, SCORES_FILE = "cells.csv", "scores.csv"
KEY = ("arm", "size", "repeat")
METRICS = ("dice", "hd95")
SCORE_COLUMNS = (*KEY, "case", "label", *METRICS)
CELL_NUMBERS = (
    "iterations",
    "seconds_nnunet",
    "seconds_generator",
    "generator_images",
    "bank_samples",
    "kid",
    "kid_error",
    "coverage",
    "copies",
)
CELL_COLUMNS = (*KEY, "training_cases", *CELL_NUMBERS, "state", "error")
_LIMITS = {"dice": (0, 1), "hd95": (0, np.inf)}
AGAIN = "nnunet-again"  # the arm that is nnU-Net alone a second time, with other seeds
REMEDY = "Run the benchmark's command again; it writes the file anew, and nothing that is done is done again."


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: in the tables.
        title: in the report.
        baseline: whether it is nnU-Net alone.
        variant: of its generator; empty where the design names none.
    """

    name: str
    title: str
    baseline: bool
    variant: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's design, cells and scores.

    Attributes:
        folder: where they lie.
        design: `design.json`.
        arms: in the order of the design.
        sizes: of the training set, as the tables write them.
        repeats, cases, labels: as the tables write them.
        scores: by metric, `[arms, sizes, repeats, cases, labels]`; Dice from 0 to 1, HD95 in `unit`; NaN where
            undefined, or where the cell is not done.
        cells: one row per cell of the design, also those that `cells.csv` does not name; numbers are NaN where empty.
    """

    folder: Path
    design: Mapping
    arms: tuple[Arm, ...]
    sizes: tuple[str, ...]
    repeats: tuple[str, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    cells: pd.DataFrame

    @cached_property
    def done(self) -> np.ndarray:
        """`[arms, sizes, repeats]`: whether the cell is done."""
        return self.of_cells("state") == "done"

    @property
    def baseline(self) -> int:
        """Index of nnU-Net alone."""
        return next(index for index, arm in enumerate(self.arms) if arm.baseline)

    @property
    def again(self) -> int | None:
        """Index of nnU-Net alone a second time; None where the design has no such arm."""
        return next((index for index, arm in enumerate(self.arms) if arm.name == AGAIN), None)

    @property
    def treatments(self) -> tuple[int, ...]:
        """Indices of the arms that a verdict can be about: all but nnU-Net alone, and nnU-Net alone again."""
        return tuple(index for index in range(len(self.arms)) if index not in (self.baseline, self.again))

    @property
    def synthetic(self) -> tuple[int, ...]:
        """Indices of the treatments that have a generator by the design, or by their cells."""
        drawn = np.nan_to_num(self.of_cells("generator_images")) + np.nan_to_num(self.of_cells("bank_samples"))
        return tuple(index for index in self.treatments if self.arms[index].variant or (drawn[index] > 0).any())

    @property
    def quick(self) -> bool:
        """Whether nnU-Net was made smaller and its training shorter, so that it fits a machine without a GPU."""
        return bool(self.design.get("quick"))

    @property
    def unit(self) -> str:
        """Of distances: mm, or pixels where images have no spacing."""
        return str(self.design.get("unit", "mm"))

    def of_cells(self, column: str) -> np.ndarray:
        """A column of the cells as `[arms, sizes, repeats]`."""
        return self.cells[column].to_numpy().reshape(len(self.arms), len(self.sizes), len(self.repeats))

    @cached_property
    def subjects(self) -> np.ndarray:
        """`[cases]`: number of each test case's subject; one each, unless the design says otherwise."""
        of = self.design.get("subjects") or {}
        return np.unique([str(of.get(case, case)) for case in self.cases], return_inverse=True)[1]

    def subject_means(self, values: np.ndarray) -> np.ndarray:
        """`[…, cases]` → `[…, subjects]`: cases of one subject are no two witnesses."""
        count = self.subjects.max() + 1
        if count == len(self.cases):
            return values
        return np.stack([mean(values[..., self.subjects == one], axis=-1) for one in range(count)], axis=-1)

    def label_title(self, label: str) -> str:
        """`hippocampus head`, where the design names its labels, else `class 1`."""
        return str((self.design.get("labels") or {}).get(label, f"class {label}"))


def read_benchmark(folder: Path) -> Benchmark:
    """Read and check a benchmark's folder.

    Raises:
        UserError: a file is missing or can't be read, lacks a column, holds something else than a number, names an arm
            or size that the design does not have or a row twice; no arm or several are nnU-Net alone; no cell of
            nnU-Net alone is done.
    """
    folder = Path(folder)
    design = _read_design(folder / DESIGN_FILE)
    arms = _arms(design, folder / DESIGN_FILE)
    cells = _read_table(folder / CELLS_FILE, CELL_COLUMNS, CELL_NUMBERS)
    scores = _read_table(folder / SCORES_FILE, SCORE_COLUMNS, METRICS)
    names = [arm.name for arm in arms]
    for file, table in ((CELLS_FILE, cells), (SCORES_FILE, scores)):
        _refuse_unknown(folder / file, table, "arm", names)
    sizes = _levels("size", design.get("sizes"), cells, scores)
    repeats = _levels("repeat", design.get("repeats"), cells, scores)
    _refuse_twice(folder / CELLS_FILE, cells, KEY)
    _refuse_twice(folder / SCORES_FILE, scores, (*KEY, "case", "label"))
    cases, labels = sorted(set(scores["case"])), sorted(set(scores["label"]), key=_natural)
    cells = _every_cell(cells, scores, names, sizes, repeats)
    arrays = _arrays(scores, cells, (names, sizes, repeats, cases, labels))
    levels = (tuple(level) for level in (sizes, repeats, cases, labels))
    benchmark = Benchmark(folder, design, arms, *levels, scores=arrays, cells=cells)
    _refuse_empty(benchmark)
    return benchmark


def _read_design(path: Path) -> dict:
    design = read_json(path, "Name the folder of a benchmark, or run one in another folder.")
    if not isinstance(design, dict):
        raise UserError(f"{path} does not hold a design. {REMEDY}")
    for key, kinds in {"sizes": (list,), "repeats": (int, list), "labels": (dict,), "subjects": (dict,)}.items():
        if design.get(key) is not None and not isinstance(design[key], kinds):
            raise UserError(f"{path}: key '{key}' is of a wrong type. {REMEDY}")
    return design


def _arms(design: Mapping, path: Path) -> tuple[Arm, ...]:
    try:
        arms = tuple(
            Arm(
                str(arm["name"]),
                str(arm.get("title") or arm["name"]),
                bool(arm.get("baseline")),
                str(arm.get("variant") or ""),
            )
            for arm in design["arms"]
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: key 'arms' must be a list of arms, each with a 'name'. {REMEDY}") from None
    baselines = [arm.name for arm in arms if arm.baseline]
    if len(baselines) != 1:
        raise UserError(
            f"{path}: one arm must be nnU-Net alone, that is, have 'baseline': true; "
            f"{'none has' if not baselines else ', '.join(baselines) + ' have'}. Without it there is nothing to "
            "compare with."
        )
    if len({arm.name for arm in arms}) < len(arms):
        raise UserError(f"{path}: two arms have the same name. Name each arm once.")
    return arms


def _read_table(path: Path, columns: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {REMEDY}") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read ({str(error).strip()}). {REMEDY}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for names of the rows
        raise UserError(f"{path}, line 2, has more fields than line 1 has columns. {REMEDY}")
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. {REMEDY}")
    for column in numbers:
        text = table[column].str.strip()
        values = pd.to_numeric(text.where(text != "", "nan"), errors="coerce").astype(float)
        low, high = _LIMITS.get(column, (-np.inf, np.inf))
        wrong = (text != "") & ~(np.isfinite(values) & (values >= low) & (values <= high))
        _refuse_value(path, table, column, wrong, "a number" + (f" from {low:g} to {high:g}" if high == 1 else ""))
        table[column] = values
    for column in ("size", "repeat"):
        _refuse_value(path, table, column, ~table[column].str.fullmatch("[0-9]{1,9}|all"), "a number")
    for column in {"case", "label"} & {*columns}:
        wrong = table[column].str.strip().str.lower().isin(("", "nan"))
        _refuse_value(path, table, column, wrong, f"the name of a {column}")
    return table


def _refuse_value(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, kind: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}, line {row + 2}: {column} is {str(table[column][row])[:40]!r}, which is not {kind}. {REMEDY}"
        )


def _refuse_unknown(path: Path, table: pd.DataFrame, column: str, known: list[str]) -> None:
    unknown = sorted(set(table[column]) - set(known))
    if unknown:
        raise UserError(f"{path}: {column} {', '.join(unknown)} is not in {DESIGN_FILE} ({', '.join(known)}). {REMEDY}")


def _refuse_twice(path: Path, table: pd.DataFrame, key: tuple[str, ...]) -> None:
    twice = table.duplicated(list(key))
    if twice.any():
        row = table[list(key)][twice].iloc[0]
        raise UserError(f"{path} has two rows for {', '.join(f'{k} {row[k]}' for k in key)}. Delete one of them.")


def _refuse_empty(benchmark: Benchmark) -> None:
    if not benchmark.done[benchmark.baseline].any():
        name = benchmark.arms[benchmark.baseline].name
        raise UserError(
            f"{benchmark.folder}: no cell of nnU-Net alone ({name}) is done, so there is nothing to compare with. "
            "Run the benchmark's command again; it does what is missing."
        )
    if np.isnan(benchmark.scores["dice"]).all():
        raise UserError(f"{benchmark.folder / SCORES_FILE} has no Dice at all. {REMEDY}")


def _levels(column: str, planned: object, *tables: pd.DataFrame) -> list[str]:
    """What the design plans, and whatever else the tables have. A mere count is numbered as the tables begin."""
    found = {value for table in tables for value in table[column]}
    if isinstance(planned, int) and column == "repeat":
        first = 1 if "0" not in found and str(planned) in found else 0
        planned = range(first, first + planned)
    levels = found | {str(level) for level in planned or ()}
    return sorted(levels, key=_natural)


def _natural(level: str) -> tuple:
    """Numbers by their value, then words: 4, 16, all."""
    return (0, int(level), "") if level.isdecimal() else (1, 0, level)


def _every_cell(
    cells: pd.DataFrame, scores: pd.DataFrame, names: list[str], sizes: list[str], repeats: list[str]
) -> pd.DataFrame:
    """A row for each cell of the design; `done` only where there are scores."""
    index = pd.MultiIndex.from_product([names, sizes, repeats], names=KEY)
    cells = cells.set_index(list(KEY)).reindex(index)
    cells["state"] = cells["state"].fillna("missing")
    cells["error"] = cells["error"].fillna("")
    scored = index.isin(pd.MultiIndex.from_frame(scores[list(KEY)]))
    silent = (cells["state"] == "done") & ~scored
    cells.loc[silent, ["state", "error"]] = ["missing", f"done, but {SCORES_FILE} has no row of it"]
    return cells.reset_index()


def _arrays(scores: pd.DataFrame, cells: pd.DataFrame, levels: tuple[list[str], ...]) -> dict[str, np.ndarray]:
    shape = tuple(map(len, levels))
    places = tuple(
        pd.Index(level).get_indexer(scores[column])
        for level, column in zip(levels, (*KEY, "case", "label"), strict=True)
    )
    done = (cells["state"] == "done").to_numpy().reshape(shape[:3])
    arrays = {}
    for metric in METRICS:
        array = np.full(shape, np.nan)
        array[places] = scores[metric]
        array[~done] = np.nan
        arrays[metric] = array
    return arrays
