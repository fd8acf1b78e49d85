"""Adds benchmarks to the results: tables and reports, and the gain of each arm on each dataset and in their mean.

A run that stands in the results already is kept as it is, so that a benchmark can go on elsewhere (restore.py).

python studies/six_datasets/measure.py [BENCHMARK …] -o FOLDER
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_synth.benchmark.analysis import analyse
from nnunet_synth.benchmark.design import DESIGN_FILE
from nnunet_synth.benchmark.results import KEY, RUNS_FILE, SCORES_FILE, read_benchmark
from nnunet_synth.benchmark.run import write_report
from nnunet_synth.benchmark.statistics import LEVEL, sign_flip_test

MEAN = "mean of the datasets"
COLUMNS = ("dataset", "arm", "sets", "difference", "low", "high", "p", "effect", "share_of_oracle")


def add_runs(benchmark: Path, results: Path) -> None:
    """Copy a benchmark's design and the runs that the results lack, and write the report of them all."""
    results.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(benchmark / DESIGN_FILE, results / DESIGN_FILE)
    for name, row in ((RUNS_FILE, [*KEY]), (SCORES_FILE, [*KEY, "case", "label"])):
        earlier = [results / name] if (results / name).exists() else []
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in (*earlier, benchmark / name)]
        if name == RUNS_FILE:
            tables = [table[table["state"] == "done"] for table in tables]
        pd.concat(tables).drop_duplicates(row).to_csv(results / name, index=False)
    page = write_report(results)
    for unread in (page, page.with_suffix(".json")):
        unread.unlink()


def rows_of(folder: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A row for each arm and size, in Dice points; and, by title, the gains of each training set of the first size."""
    analysis = analyse(read_benchmark(folder))
    benchmark, design, rows, gains = analysis.benchmark, analysis.benchmark.design, [], {}
    for arm in (benchmark.arms[index] for index in benchmark.treatments):
        for size in design.sizes:
            row = analysis.row(arm.name, size)
            points = {key: 100 * row[key] for key in ("difference", "low", "high")}
            named = {"dataset": f"{design.dataset.partition('_')[2]}, {size}", "arm": arm.title, "p": row["p_holm"]}
            rows.append(named | points | {key: row[key] for key in ("sets", "effect", "share_of_oracle")})
        found = 100 * analysis.gains(arm.name, design.sizes[0])
        gains[arm.title] = found[np.isfinite(found)]
    return rows, gains


def mean_of(gains: list[np.ndarray]) -> dict:
    """The mean over datasets of `[sets]` gains, with Satterthwaite's interval, and a sign-flip test over all sets."""
    estimate = float(np.mean([own.mean() for own in gains]))
    squares = np.array([own.var(ddof=1) / len(own) for own in gains]) / len(gains) ** 2
    dof = squares.sum() ** 2 / sum(square**2 / (len(own) - 1) for square, own in zip(squares, gains, strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, dof) * squares.sum() ** 0.5)
    p = sign_flip_test(np.concatenate([own / len(own) for own in gains]))
    return {
        "sets": sum(map(len, gains)),
        "difference": estimate,
        "low": estimate - half,
        "high": estimate + half,
        "p": p,
    }


def cell(row: pd.Series) -> str:
    """`+1.2 (0.3 to 2.1)`."""
    interval = f" ({row['low']:.1f} to {row['high']:.1f})" if np.isfinite(row["low"]) else ""
    return f"{row['difference']:+.1f}{interval}".replace("-", "−") if np.isfinite(row["difference"]) else ""


def main() -> None:
    """Add the benchmarks' runs to the results, write `table.csv` of all datasets, and print it in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmarks", nargs="*", type=Path, help="folder of nnunet-synth benchmark")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args()
    for benchmark in arguments.benchmarks:
        add_runs(benchmark, arguments.output / benchmark.name)
    rows, gains = [], []
    for design in sorted(arguments.output.glob(f"*/{DESIGN_FILE}")):
        own, of_sets = rows_of(design.parent)
        rows += own
        gains.append(of_sets)
    for title in gains[0]:
        if len(gains) > 1 and all(len(own.get(title, ())) > 1 for own in gains):
            rows.append({"dataset": MEAN, "arm": title} | mean_of([own[title] for own in gains]))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(arguments.output / "table.csv", index=False, float_format="%.4g")
    wide = table.assign(gain=table.apply(cell, axis=1)).pivot(index="arm", columns="dataset", values="gain")
    wide = wide.reindex(index=table["arm"].unique(), columns=table["dataset"].unique()).fillna("")
    lines = [["", *wide.columns], ["---", *["---:"] * len(wide.columns)], *wide.reset_index().to_numpy().tolist()]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
