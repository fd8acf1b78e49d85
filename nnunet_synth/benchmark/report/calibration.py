"""At which length of training a benchmark sees most: the oracle's gain in units of the luck of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from nnunet_synth.benchmark.analysis import Analysis, analyse
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.pages.formatting import duration, listing, number, points
from nnunet_synth.pages.page import HTML, MARKDOWN, PICTURES, Page, Picture, Section, Table, render
from nnunet_synth.pages.plotting import COLOURS, MARKERS, STYLE, WIDTH, png_of
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import write_atomically

CAPTION = "Left: mean Dice of nnU-Net alone (solid) and of the oracle (dotted). Right: what the choice is made by."


@dataclass(frozen=True)
class Length:
    """A length of training at one size of training sets; Dice from 0 to 1.

    Attributes:
        dice: of nnU-Net alone.
        gap: what the oracle gains.
        deviation: of a run of nnU-Net alone, with the same training set.
        sensitivity: gap in units of the deviation.
        seconds: time of a run.
    """

    steps: int
    size: int
    dice: float
    gap: float
    deviation: float
    sensitivity: float
    seconds: float


def lengths_of(analysis: Analysis) -> list[Length]:
    """A benchmark's length, at each size."""
    design, found = analysis.benchmark.design, []
    oracle = design.arms[analysis.benchmark.oracle]
    for size in design.sizes:
        gap, deviation = analysis.row(oracle.name, size)["difference"], analysis.noise[size].deviation
        dice, seconds = analysis.row(design.baseline.name, size)["mean"], analysis.costs[design.baseline.name][0]
        found.append(Length(design.budget.iterations, size, dice, gap, deviation, gap / deviation, seconds))
    return found


def write_calibration(folder: Path, benchmarks: Sequence[Path]) -> Path:
    """Write `calibration.csv`, `.json`, `.md` and `.html`, and a picture, by benchmarks of several lengths.

    Returns:
        The path of the HTML page.

    Raises:
        UserError: runs are missing at all lengths.
    """
    lengths = [length for benchmark in benchmarks for length in lengths_of(analyse(read_benchmark(benchmark)))]
    table = pd.DataFrame(map(asdict, lengths))
    if table["sensitivity"].isna().all():
        raise UserError(f"{folder}: no length has runs of both nnU-Net alone and the oracle. Run the command again.")
    best = table.groupby("steps")["sensitivity"].mean().idxmax()
    of_best = table[table["steps"] == best]
    sizes = [f"{number(row.sensitivity, 1)} with {row.size} training cases" for row in of_best.itertuples(index=False)]
    rows = [
        (f"{one.steps:,}", one.size, points(one.dice, sign=False), points(one.gap), points(one.deviation, sign=False),
         number(one.sensitivity, 1), duration(one.seconds))
        for one in lengths
    ]  # fmt: skip
    head = ("steps", "training cases", "Dice", "oracle's gain", "deviation of a run", "ratio", "time per run")
    picture = plot_lengths({size: part for size, part in table.groupby("size")})
    page = Page(
        title="Which length of training shows most?",
        summary=f"{best:,} steps: in standard deviations of a run, the oracle's gain is {listing(sizes)}.",
        sections=[Section("Lengths", pictures=[picture], tables=[Table(head, rows, words=0)])],
        written_by=f"nnunet-synth benchmark --calibrate {version('nnunet-synth')}",
    )
    content = {"steps": int(best), "lengths": json.loads(table.to_json(orient="records"))}  # null for NaN
    files = {
        f"{PICTURES}/{picture.name}.png": picture.png,
        "calibration.csv": table.to_csv(index=False, float_format="%.6g").encode(),
        "calibration.json": json.dumps(content, indent=1).encode(),
        "calibration.md": render(page, MARKDOWN).encode(),
        "calibration.html": render(page, HTML).encode(),
    }
    for name, content in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder / "calibration.html"


def plot_lengths(tables: Mapping[int, pd.DataFrame]) -> Picture:
    """Dice and sensitivity against the length, by size."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        dice, sensitivity = figure.subplots(1, 2)
        for place, (size, table) in enumerate(tables.items()):
            style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
            dice.plot(table["steps"], 100 * table["dice"], label=f"{size} training cases", **style)
            dice.plot(table["steps"], 100 * (table["dice"] + table["gap"]), linestyle=":", **style)
            sensitivity.plot(table["steps"], table["sensitivity"], **style)
        steps = sorted({*pd.concat(tables.values())["steps"]})
        for axis, title in ((dice, "Mean Dice, in points"), (sensitivity, "Oracle's gain in deviations of a run")):
            axis.set_title(title)
            axis.set_xscale("log")
            axis.set_xticks(steps, [f"{one:,}" for one in steps], minor=False)
            axis.minorticks_off()
            axis.set_xlabel("training steps")
        sensitivity.set_ylim(bottom=0)
        dice.legend()
        text = "; ".join(
            f"{size} training cases, {row.steps:,} steps: {number(row.sensitivity, 1)}"
            for size, table in tables.items()
            for row in table.itertuples(index=False)
        )
        return Picture("calibration", png_of(figure), f"Oracle's gain in deviations of a run. {text}.", CAPTION)
