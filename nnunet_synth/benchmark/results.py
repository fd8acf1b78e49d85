"""Reads the files of a benchmark, `design.json`, `runs.csv` and `scores.csv`, as checked arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.arms import PSEUDO_LABELS, Arm
from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from nnunet_synth.benchmark.statistics import mean
from stylegan2_cond.errors import UserError

RUNS_FILE, SCORES_FILE = "runs.csv", "scores.csv"
KEY = ("arm", "size", "training_set")
METRICS = ("dice", "hd95")
SCORE_COLUMNS = (*KEY, "case", "label", *METRICS)
RUN_NUMBERS = (
    *("iterations", "seconds_nnunet", "seconds_generator", "generator_images", "bank_samples"),
    *("kid", "kid_error", "coverage", "copies"),
)
RUN_COLUMNS = (*KEY, "training_cases", *RUN_NUMBERS, "state", "error")
_LIMITS = {"dice": (0, 1), "hd95": (0, np.inf)}
AGAIN = "nnunet-again"  # the arm of nnU-Net alone with other seeds
REMEDY = "Run the benchmark's command again; it rewrites the file without repeating work."


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's design, runs and scores.

    Attributes:
        scores: by metric, `[arms, sizes, sets, cases, labels]`, in the order of the design; Dice from 0 to 1, HD95
            in the design's unit; NaN if undefined, or if the run is not done.
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
    def sizes(self) -> tuple[str, ...]:
        """Numbers of training cases, as in the tables."""
        return tuple(map(str, self.design.sizes))

    @property
    def training_sets(self) -> tuple[str, ...]:
        """Numbers of the training sets of each size, as in the tables."""
        return tuple(map(str, range(self.design.sets_per_size)))

    @property
    def cases(self) -> tuple[str, ...]:
        """The test cases."""
        return self.design.test_cases

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes and regions, as in the tables."""
        return tuple(self.design.labels)

    @cached_property
    def done(self) -> np.ndarray:
        """`[arms, sizes, sets]`: whether the run is done."""
        return self.of_runs("state") == "done"

    @property
    def baseline(self) -> int:
        """Index of nnU-Net alone."""
        return next(index for index, arm in enumerate(self.arms) if arm.baseline)

    @property
    def again(self) -> int | None:
        """Index of nnU-Net alone with other seeds; None if the design has no such arm."""
        return next((index for index, arm in enumerate(self.arms) if arm.name == AGAIN), None)

    @property
    def treatments(self) -> tuple[int, ...]:
        """Indices of the arms that a verdict can be about: all but nnU-Net alone, and nnU-Net alone again."""
        return tuple(index for index in range(len(self.arms)) if index not in (self.baseline, self.again))

    @property
    def synthetic(self) -> tuple[int, ...]:
        """Indices of the treatments with generated pairs or pseudo-labels."""
        arms = self.arms
        return tuple(i for i in self.treatments if arms[i].variant or arms[i].unlabelled == PSEUDO_LABELS)

    @property
    def subject(self) -> str:
        """What a verdict is about, in words."""
        kinds = ("synthetic pairs" if self.arms[index].variant else "pseudo-labels" for index in self.synthetic)
        return " or ".join(dict.fromkeys(kinds)) or "the arms"

    def of_runs(self, column: str) -> np.ndarray:
        """A column of the runs as `[arms, sizes, sets]`."""
        return self.runs[column].to_numpy().reshape(len(self.arms), len(self.sizes), len(self.training_sets))

    @cached_property
    def subjects(self) -> np.ndarray:
        """`[cases]`: number of each test case's subject."""
        of = self.design.subjects or {}
        return np.unique([of.get(case, case) for case in self.cases], return_inverse=True)[1]

    def subject_means(self, values: np.ndarray) -> np.ndarray:
        """`[…, cases]` → `[…, subjects]`: cases of one subject are not independent."""
        count = self.subjects.max() + 1
        if count == len(self.cases):
            return values
        return np.stack([mean(values[..., self.subjects == one], axis=-1) for one in range(count)], axis=-1)


def read_benchmark(folder: Path) -> Benchmark:
    """Read and check a benchmark's folder.

    Raises:
        UserError: a file is missing, damaged or of another release; a table lacks a column, has a wrong value, a row
            twice or one that is not in the design; no run of nnU-Net alone is done.
    """
    folder = Path(folder)
    design = Design.load(folder / DESIGN_FILE)
    levels = {
        "arm": [arm.name for arm in design.arms],
        "size": [str(size) for size in design.sizes],
        "training_set": [str(number) for number in range(design.sets_per_size)],
        "case": [*design.test_cases],
        "label": [*design.labels],
    }
    runs = _read_table(folder / RUNS_FILE, RUN_COLUMNS, RUN_NUMBERS, {key: levels[key] for key in KEY})
    scores = _read_table(folder / SCORES_FILE, SCORE_COLUMNS, METRICS, levels)
    runs = _every_run(runs, scores, levels)
    shape = tuple(map(len, levels.values()))
    done = (runs["state"] == "done").to_numpy().reshape(*shape[: len(KEY)], 1, 1)
    scores = scores.set_index([*levels]).reindex(pd.MultiIndex.from_product(levels.values()))
    arrays = {metric: np.where(done, scores[metric].to_numpy().reshape(shape), np.nan) for metric in METRICS}
    benchmark = Benchmark(folder, design, arrays, runs)
    if not benchmark.done[benchmark.baseline].any():
        raise UserError(
            f"{folder}: no run of nnU-Net alone ({design.baseline.name}) is done, so there is nothing to compare "
            f"with. Run the benchmark's command again to do what is missing."
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
        raise UserError(f"{path} does not exist. {REMEDY}") from None
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


def _every_run(runs: pd.DataFrame, scores: pd.DataFrame, levels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row for each run of the design; `done` only with scores."""
    index = pd.MultiIndex.from_product([levels[key] for key in KEY], names=KEY)
    runs = runs.set_index(list(KEY)).reindex(index)
    runs["state"] = runs["state"].fillna("missing")
    runs["error"] = runs["error"].fillna("")
    silent = (runs["state"] == "done") & ~index.isin(pd.MultiIndex.from_frame(scores[list(KEY)]))
    runs.loc[silent, ["state", "error"]] = ["missing", f"done, but {SCORES_FILE} has no row of it"]
    return runs.reset_index()
