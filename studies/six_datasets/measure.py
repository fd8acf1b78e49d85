"""One table of several benchmarks: gain of each arm on each dataset, and in the mean of the datasets.

python studies/six_datasets/measure.py BENCHMARK [BENCHMARK …] -o FOLDER
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
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import LEVEL, sign_flip_test

FILES = (DESIGN_FILE, "runs.csv", "scores.csv", "statistics.csv", "report.md", "figures/gain.png")
MEAN = "mean of the datasets"
COLUMNS = ("dataset", "arm", "sets", "difference", "low", "high", "p", "effect", "share_of_oracle")


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
    """Write `table.csv`, print it in Markdown, and copy the tables and the figure of each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmarks", nargs="+", type=Path, help="folder of nnunet-synth benchmark")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args()
    rows, gains = [], []
    for benchmark in arguments.benchmarks:
        (arguments.output / benchmark.name / "figures").mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(benchmark / name, arguments.output / benchmark.name / name)
        own, of_sets = rows_of(benchmark)
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
