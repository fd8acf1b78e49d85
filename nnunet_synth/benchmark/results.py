"""Reads the files of a benchmark, `design.json`, `runs.csv` and `scores.csv`, as checked arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.arms import PSEUDO_LABELS, TRAINING_CASES, Arm
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from nnunet_synth.benchmark.statistics import mean
from stylegan2_cond.errors import UserError

RUNS_FILE, SCORES_FILE = "runs.csv", "scores.csv"
KEY = ("arm", "size", "training_set", "run")
METRICS = ("dice", "hd95", "false_positive")
SCORE_COLUMNS = (*KEY, "case", "label", *METRICS)
RUN_NUMBERS = (
    *("iterations", "seconds_nnunet", "seconds_generator", "generator_images", "bank_samples"),
    *("kid", "kid_error", "coverage", "copies"),
)
RUN_COLUMNS = (*KEY, "training_cases", *RUN_NUMBERS, "state", "error")
_LIMITS = {"dice": (0, 1), "hd95": (0, np.inf), "false_positive": (0, np.inf)}
REMEDY = "Run the benchmark's command again; it rewrites the file without repeating work."


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's design, runs and scores.

    Attributes:
        scores: by metric, `[arms, sizes, sets, runs, cases, labels]`, in the order of the design; Dice from 0 to 1,
            the others in the design's unit; NaN if undefined, or if the run is not done.
        runs: one row per run of the design, also of those that `runs.csv` lacks; numbers are NaN if empty.
    """

    folder: Path
    design: Design
    scores: Mapping[str, np.ndarray]
    runs: pd.DataFrame

    @property
    def arms(self) -> tuple[Arm, ...]:
        """In the order of the design."""
        return self.design.arms

    @property
    def baseline(self) -> int:
        """Index of nnU-Net alone."""
        return self.arms.index(self.design.baseline)

    @property
    def oracle(self) -> int | None:
        """Index of nnU-Net trained on the whole pool; None if the design has no such arm."""
        return next((index for index, arm in enumerate(self.arms) if arm.unlabelled == TRAINING_CASES), None)

    @property
    def treatments(self) -> tuple[int, ...]:
        """Indices of all arms but nnU-Net alone."""
        return tuple(index for index in range(len(self.arms)) if index != self.baseline)

    @property
    def synthetic(self) -> tuple[int, ...]:
        """Indices of the arms with generated pairs or pseudo-labels."""
        arms = self.arms
        return tuple(i for i in self.treatments if arms[i].variant or arms[i].unlabelled == PSEUDO_LABELS)

    @property
    def subject(self) -> str:
        """What a verdict is about, in words."""
        kinds = ("synthetic pairs" if self.arms[index].variant else "pseudo-labels" for index in self.synthetic)
        return " or ".join(dict.fromkeys(kinds)) or "the arms"

    @cached_property
    def subjects(self) -> np.ndarray:
        """`[cases]`: number of each test case's subject."""
        of = self.design.subjects or {}
        return np.unique([of.get(case, case) for case in self.design.test_cases], return_inverse=True)[1]

    def run_scores(self, metric: str, size: int, label: int | None = None) -> np.ndarray:
        """`[arms, sets, runs, subjects]` scores at a size; cases of one subject are not independent.

        Args:
            size: index.
            label: index; None for the mean over classes.
        """
        scores = self.scores[metric][:, size]
        scores = mean(scores, axis=-1) if label is None else scores[..., label]
        of_subjects = [mean(scores[..., self.subjects == one], axis=-1) for one in range(self.subjects.max() + 1)]
        return np.stack(of_subjects, axis=-1)


def read_benchmark(folder: Path) -> Benchmark:
    """Read and check a benchmark's folder.

    Raises:
        UserError: a file is missing, damaged or of another release; a table lacks a column, has a wrong value, a row
            twice or one that is not in the design; no run of nnU-Net alone is done.
    """
    folder = Path(folder)
    design = Design.load(folder / DESIGN_FILE)
    sets = max(map(design.sets_of, design.sizes))
    levels = {
        "arm": [arm.name for arm in design.arms],
        "size": [str(size) for size in design.sizes],
        "training_set": [str(number) for number in range(sets)],
        "run": [str(run) for run in range(max(map(design.runs_of, design.arms)))],
        "case": [*design.test_cases],
        "label": [*design.labels],
    }
    runs = _read_table(folder / RUNS_FILE, RUN_COLUMNS, RUN_NUMBERS, {key: levels[key] for key in KEY})
    scores = _read_table(folder / SCORES_FILE, SCORE_COLUMNS, METRICS, levels)
    runs = _every_run(design, runs, scores)
    if not ((runs["arm"] == design.baseline.name) & (runs["state"] == "done")).any():
        raise UserError(
            f"{folder}: no run of nnU-Net alone ({design.baseline.name}) is done, so there is nothing to compare "
            f"with. Run the benchmark's command again to do what is missing."
        )
    done = pd.MultiIndex.from_frame(runs.loc[runs["state"] == "done", [*KEY]])
    scores = scores[pd.MultiIndex.from_frame(scores[[*KEY]]).isin(done)]
    scores = scores.set_index([*levels]).reindex(pd.MultiIndex.from_product(levels.values()))
    shape = tuple(map(len, levels.values()))
    benchmark = Benchmark(
        folder, design, {metric: scores[metric].to_numpy().reshape(shape) for metric in METRICS}, runs
    )
    if np.isnan(benchmark.scores["dice"]).all():
        raise UserError(f"{folder / SCORES_FILE} has no Dice at all. {REMEDY}")
    return benchmark


def _read_table(
    path: Path, columns: Sequence[str], numbers: Sequence[str], levels: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A table with at most one row per combination of `levels`; numbers are float, everything else text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. A benchmark writes it when a run has ended. {REMEDY}") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read ({str(error).strip()}). {REMEDY}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for row names
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
    for column, known in levels.items():
        _refuse_value(path, table, column, ~table[column].isin(known), f"in {DESIGN_FILE} ({', '.join(known[:9])})")
    if (twice := table.duplicated([*levels])).any():
        row = table[[*levels]][twice].iloc[0]
        raise UserError(f"{path} has two rows for {', '.join(f'{k} {row[k]}' for k in levels)}. Delete one of them.")
    return table


def _refuse_value(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, kind: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}, line {row + 2}: {column} is {str(table[column][row])[:40]!r}, which is not {kind}. {REMEDY}"
        )


def _every_run(design: Design, runs: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each run of the design; `done` only with scores."""
    planned = [
        (arm.name, str(one.size), str(one.number), str(run))
        for arm in design.arms
        for one in design.training_sets
        if arm in design.arms_of(one)
        for run in range(design.runs_of(arm))
    ]
    index = pd.MultiIndex.from_tuples(planned, names=KEY)
    runs = runs.set_index(list(KEY)).reindex(index)
    runs["state"] = runs["state"].fillna("missing")
    runs["error"] = runs["error"].fillna("")
    silent = (runs["state"] == "done") & ~index.isin(pd.MultiIndex.from_frame(scores[list(KEY)]))
    runs.loc[silent, ["state", "error"]] = ["missing", f"done, but {SCORES_FILE} has no row of it"]
    return runs.reset_index()
