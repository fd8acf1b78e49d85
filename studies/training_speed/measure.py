"""Compares trainings of equal length in seconds: how near their samples come to real patches, from their logs.

python studies/training_speed/measure.py RESULTS -o FOLDER
RESULTS has one folder of $nnUNet_results for each kind and seed: full_0, narrow_0, eight_0, four_0, full_1, …
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nnunet_synth.benchmark.scoring import write_rows
from stylegan2_cond.data.nnunet_folders import PLAN_FILE
from stylegan2_cond.io import write_atomically
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.planning import Plan
from stylegan2_cond.training.log_file import read_log

KINDS = {
    "full": ("full width, batches of 16", "#d1582a"),
    "narrow": ("0.7 of the width, batches of 16", "#0b6fb8"),
    "eight": ("0.7 of the width, batches of 8", "#c79a00"),
    "four": ("0.7 of the width, batches of 4", "#3a8f4d"),
}
SHOWN = ("kid", "kid-pair", "precision", "coverage", "masks", "conditions")
CURVES = ("kid", "kid-pair", "coverage")
COLUMNS = ("data", "kind", "seed", "share_of_seconds", "images", "metric", "value")


def read_runs(results: Path) -> list[dict]:
    """Rows as `COLUMNS`, one for each metric of each snapshot, of trainings that have ended."""
    rows = []
    for folder in sorted(results.glob("*_*")):
        kind, _, seed = folder.name.partition("_")
        for plan_file in sorted(folder.glob(f"*/*/fold_*/{PLAN_FILE}")):
            plan = Plan.load(plan_file)
            data = f"{plan.source.dataset_name.partition('_')[2]}, {len(plan.source.training_cases)} cases"
            log, total = read_log(plan_file.parent), 1000 * plan.kimg
            for line in log if log and log[-1]["images"] >= total else []:
                first = data, kind, int(seed), min(1.0, line["images"] / total), line["images"]
                rows += [dict(zip(COLUMNS, (*first, name, line[name]), strict=True)) for name in SHOWN if name in line]
    return rows


def table(rows: list[dict]) -> list[str]:
    """At the end of training: mean and standard deviation over seeds, in Markdown."""
    last = defaultdict(list)
    for row in rows:
        if row["share_of_seconds"] == 1:
            last[row["data"], row["kind"], row["metric"]].append(row["value"])
    lines = [f"| data | kind | seeds | {' | '.join(METRICS[name].title for name in SHOWN)} |"]
    lines.append("| --- | --- | ---: |" + " ---: |" * len(SHOWN))
    datasets = dict.fromkeys(data for data, _, _ in last)
    for data, kind in (pair for pair in product(datasets, KINDS) if (*pair, SHOWN[0]) in last):
        values = [last[data, kind, name] for name in SHOWN]
        lines.append(f"| {data} | {KINDS[kind][0]} | {len(values[0])} | {' | '.join(map(cell, values))} |")
    return lines


def cell(values: list[float]) -> str:
    """`1.28 ± 0.4`."""
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.2g}{spread}"


def curves(rows: list[dict]) -> Figure:
    """KIDs and coverage against the share of the seconds, one line for each training."""
    datasets = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(3.2 * len(datasets), 7.2), layout="constrained")
    axes = figure.subplots(len(CURVES), len(datasets), sharex=True, squeeze=False)
    for column, data in zip(axes.T, datasets, strict=True):
        for axis, metric in zip(column, CURVES, strict=True):
            for kind, (label, colour) in KINDS.items():
                seeds = sorted({row["seed"] for row in rows if (row["data"], row["kind"]) == (data, kind)})
                for seed in seeds:
                    run = (data, kind, seed, metric)
                    own = [row for row in rows if (row["data"], row["kind"], row["seed"], row["metric"]) == run]
                    points = [(row["share_of_seconds"], row["value"]) for row in own]
                    axis.plot(*zip(*points, strict=True), color=colour, label=label if seed == seeds[0] else None)
            axis.spines[["top", "right"]].set_visible(False)
        column[0].set(title=data, yscale="log", ylabel="KID of images")
        column[1].set(yscale="log", ylabel="KID of pairs")
        column[2].set(xlabel="share of the seconds", ylabel="coverage", ylim=(0, None))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(KINDS), frameon=False)
    return figure


def main() -> None:
    """Write `curves.csv` and `curves.png`, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of the trainings")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args()
    rows = read_runs(arguments.results)
    if not rows:
        parser.error(f"no training in {arguments.results} has ended; name the folder that holds full_0, narrow_0, …")
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.output / "curves.csv", COLUMNS, rows)
    with write_atomically(arguments.output / "curves.png") as temporary:
        curves(rows).savefig(temporary, dpi=110, format="png")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
