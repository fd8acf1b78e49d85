"""A benchmark's report, as Markdown and as one HTML page, from its tables alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis, analyse
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.report.examples import found_examples
from nnunet_synth.benchmark.report.figures import QUALITY_TITLES, plot_figures
from nnunet_synth.benchmark.report.text import TEXTS, methods, notes
from nnunet_synth.benchmark.report.verdict import conclude, effect_of_row
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import Spread
from nnunet_synth.pages.formatting import count, duration, interval, listing, number, points, probability
from nnunet_synth.pages.page import HTML, MARKDOWN, PICTURES, Note, Page, Picture, Section, Table, render
from stylegan2_cond.io import write_atomically

REPORT, PAGE, STATISTICS, QUALITY_FILE = "report.md", "report.html", "statistics.csv", "quality.csv"
DEVIATION = "SD over training sets"
MOST_CLASSES = 6  # that have columns of their own in the table of means

Column = Callable[[pd.Series], str]


def write_report(folder: Path) -> Path:
    """Write `report.md`, `report.html`, `statistics.csv`, `quality.csv` and `figures/` into a benchmark's folder.

    All numbers come from `design.json`, `runs.csv` and `scores.csv`; from the same tables comes the same report.

    Returns:
        The path of the HTML page.

    Raises:
        UserError: the tables are not whole, or the folder cannot be written to.
    """
    folder = Path(folder)
    analysis = analyse(read_benchmark(folder))
    for name, table in ((STATISTICS, analysis.table.reset_index()), (QUALITY_FILE, analysis.quality)):
        with write_atomically(folder / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    pictures = plot_figures(analysis)
    for picture in pictures.values():
        with write_atomically(folder / PICTURES / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    page = build_page(analysis, pictures, found_examples(folder))
    for name, template in ((REPORT, MARKDOWN), (PAGE, HTML)):
        with write_atomically(folder / name) as temporary:
            temporary.write_text(render(page, template), encoding="utf-8")
    return folder / PAGE


def build_page(analysis: Analysis, pictures: Mapping[str, Picture], examples: Sequence[Picture] = ()) -> Page:
    """All sections of the report, in order."""
    verdict, benchmark = conclude(analysis), analysis.benchmark

    def section(title: str, text: str, picture: str, *tables: Table) -> Section:
        return Section(title, text, pictures=[pictures[picture]] if picture in pictures else [], tables=tables)

    means = TEXTS["means"].format(unit=benchmark.design.unit)
    sections = [
        section("Gain over nnU-Net alone", "", "gain", _gains(analysis), _effect_sizes(analysis)),
        section("At each size", "", "differences", _by_size(analysis)),
        section("By class and case", "", "cases", _by_class(analysis)),
        section("Surface distance", TEXTS["hd95"].format(unit=benchmark.design.unit), "", _distances(analysis)),
        _noise(analysis),
        _ranks(analysis),
        *([section("Image quality and gain", "", "quality", *_quality(analysis))] if "quality" in pictures else ()),
        *([Section("Examples", pictures=examples)] if examples else ()),
        Section("Dice of each arm", means, tables=[_means(analysis, "dice", 1, 100)], folded=True),
        Section("HD95 of each arm", means, tables=[_means(analysis, "hd95", 2, 1)], folded=True),
        _runs(analysis),
        Section("Design", tables=[_design(analysis)]),
        Section("Methods", terms=methods(), folded=True),
        Section("Files", TEXTS["files"]),
    ]
    return Page(
        title=f"Do synthetic pairs help? {benchmark.design.dataset}",
        summary=verdict.sentence,
        sections=sections,
        written_by=f"nnunet-synth benchmark {version('nnunet-synth')}",
        notes=[Note(text) for text in notes(analysis)],
        verdict=verdict.effect.value,
    )


def _compared(analysis: Analysis) -> list[Arm]:
    """All arms but nnU-Net alone, and that run again last."""
    benchmark = analysis.benchmark
    order = [*benchmark.treatments, *([benchmark.again] if benchmark.again is not None else [])]
    return [benchmark.arms[index] for index in order]


def _table(
    head: Sequence[str],
    rows: Iterable[tuple[Sequence[str], pd.Series]],
    columns: Mapping[str, Column],
    words: int | None = None,
) -> Table:
    """A table whose first columns are words, and whose others are made from a row of the statistics each."""
    body = [(*titles, *(column(row) for column in columns.values())) for titles, row in rows]
    return Table((*head, *columns), body, len(head) if words is None else words)


def _comparison(title: str = "gain", digits: int = 1, scale: float = 100) -> dict[str, Column]:
    """Columns on the difference to nnU-Net alone; p-values are corrected, and empty for nnU-Net against itself."""
    return {
        title: lambda row: number(scale * row["difference"], digits, sign=True),
        "95 % over cases": lambda row: interval(row["cases_low"], row["cases_high"], digits, scale=scale),
        "95 % over runs and cases": lambda row: interval(row["low"], row["high"], digits, scale=scale),
        "p over cases": lambda row: probability(row["p_cases_holm"]),
        "p over runs and cases": lambda row: probability(row["p_both_holm"]),
    }


RUNS: dict[str, Column] = {"runs": lambda row: number(row["paired_runs"], 0)}
NOISE: dict[str, Column] = {"p of noise": lambda row: probability(row["p_noise"])}


def _gains(analysis: Analysis) -> Table:
    benchmark, rows = analysis.benchmark, []
    for arm in _compared(analysis):
        row = analysis.row(arm.name)
        is_again = benchmark.again is not None and arm is benchmark.arms[benchmark.again]
        rows.append(((arm.title, "reference" if is_again else effect_of_row(row).value), row))
    return _table(("arm", "verdict"), rows, RUNS | _comparison())


def _effect_sizes(analysis: Analysis) -> Table:
    columns: dict[str, Column] = {
        "rank-biserial": lambda row: number(row["rank_biserial"], 2, sign=True),
        "Cohen's d": lambda row: number(row["cohens_dz"], 2, sign=True),
        **NOISE,
        "detectable at 80 %": lambda row: points(row["detectable"], sign=False),
        "time per run": lambda row: duration(analysis.costs[row.name[1]].arm),
        "relative cost": lambda row: number(analysis.costs[row.name[1]].factor, 1),
    }
    return _table(("arm",), [((arm.title,), analysis.row(arm.name)) for arm in _compared(analysis)], columns)


def _by_size(analysis: Analysis) -> Table:
    keys = [(arm, size) for arm in _compared(analysis) for size in analysis.benchmark.sizes]
    rows = [((arm.title, size), analysis.row(arm.name, size)) for arm, size in keys]
    return _table(("arm", "training cases"), rows, RUNS | _comparison() | NOISE, words=1)


def _by_class(analysis: Analysis) -> Table:
    benchmark = analysis.benchmark
    keys = [(arm, label) for arm in _compared(analysis) for label in benchmark.labels]
    rows = [((arm.title, benchmark.design.labels[label]), analysis.row(arm.name, POOLED, label)) for arm, label in keys]
    dice: dict[str, Column] = {"Dice": lambda row: points(row["mean"], sign=False)}
    return _table(("arm", "class"), rows, dice | _comparison())


def _distances(analysis: Analysis) -> Table:
    hd95: dict[str, Column] = {"HD95": lambda row: number(row["mean"], 2)}
    rows = [((arm.title,), analysis.row(arm.name, metric="hd95")) for arm in analysis.benchmark.arms]
    return _table(("arm",), rows, hd95 | _comparison("difference", 2, 1))


def _means(analysis: Analysis, metric: str, digits: int, scale: float) -> Table:
    benchmark = analysis.benchmark
    labels = [CLASSES, *(benchmark.labels if len(benchmark.labels) <= MOST_CLASSES else ())]
    titles = ["all classes" if label == CLASSES else benchmark.design.labels[label] for label in labels]
    rows = []
    for arm in benchmark.arms:
        for size in benchmark.sizes:
            found = [analysis.row(arm.name, size, label, metric) for label in labels]
            means = [
                f"{number(scale * row['mean'], digits)} "
                f"({interval(row['mean_low'], row['mean_high'], digits, scale=scale)})"
                for row in found
            ]
            deviation = number(scale * found[0]["sd_training_sets"], 2)
            rows.append((arm.title, size, number(found[0]["runs"], 0), *means, deviation))
    return Table(("arm", "training cases", "runs", *titles, DEVIATION), rows)


def _noise(analysis: Analysis) -> Section:
    """How much nnU-Net alone differs from itself."""
    benchmark, noise = analysis.benchmark, analysis.noise["dice"]
    rows = []
    for size, variance, dof in zip(benchmark.sizes, noise.variance, noise.dof, strict=True):
        deviation = analysis.row(benchmark.arms[benchmark.baseline].name, size)["sd_training_sets"]
        half = Spread(float(variance), float(dof)).half_width()
        deviation, pair, half = (number(100 * figure, 2) for figure in (deviation, np.sqrt(variance), half))
        rows.append((size, deviation, pair, number(dof, 0), f"±{half}"))
    head = ("training cases", DEVIATION, "SD of the difference of two runs", "degrees of freedom", "95 % range")
    again = benchmark.arms[benchmark.again].title if benchmark.again is not None else ""
    text = TEXTS["noise measured" if noise.measured else "noise estimated"].format(arm=again)
    return Section("nnU-Net against itself", text, tables=[Table(head, rows)])


def _ranks(analysis: Analysis) -> Section:
    """Friedman's test of all arms at once, and Nemenyi's test of each pair."""
    titles = [arm.title for arm in analysis.benchmark.arms]
    found = {blocks: ranks for blocks in ("runs", "cases") if (ranks := analysis.ranks[blocks]) is not None}
    if not found:
        return Section("All arms at once", TEXTS["no ranks"])
    tests = (
        f"{ranks.blocks} {blocks}: Friedman's p {probability(ranks.p)}, critical difference "
        f"{number(ranks.critical_difference, 2)}."
        for blocks, ranks in found.items()
    )
    order = np.argsort(next(iter(found.values())).mean)
    rows = [(titles[index], *(number(ranks.mean[index], 2) for ranks in found.values())) for index in order]
    table = Table(("arm", *(f"rank over {blocks}" for blocks in found)), rows)
    return Section("All arms at once", " ".join([TEXTS["ranks"], *tests]), tables=[table])


def _quality(analysis: Analysis) -> tuple[Table, Table]:
    means = analysis.quality.groupby("arm", sort=False)[["kid", "coverage", "copies", "gain"]].mean()
    titles = {arm.name: arm.title for arm in analysis.benchmark.arms}
    arms = [
        (titles[arm], number(row["kid"], 4), number(row["coverage"], 2), number(row["copies"], 3), points(row["gain"]))
        for arm, row in means.iterrows()
    ]
    correlations = [
        (
            *(QUALITY_TITLES[row["measure"]], number(row["runs"], 0)),
            *(number(row["rho"], 2, sign=True), probability(row["p"])),
            *(number(row["rho_equal_size"], 2, sign=True), probability(row["p_equal_size"])),
        )
        for _, row in analysis.correlations.iterrows()
    ]
    head = ("measure", "runs", "ρ with gain", "p", "ρ at equal size", "p")
    return Table(("arm", "KID", "coverage", "copies", "gain"), arms), Table(head, correlations)


def _runs(analysis: Analysis) -> Section:
    """Runs without a result, and why."""
    runs = analysis.benchmark.runs
    missing = runs[runs["state"] != "done"]
    titles = {arm.name: arm.title for arm in analysis.benchmark.arms}
    shown = missing.itertuples(index=False)
    rows = [(titles[run.arm], run.size, run.training_set, run.state, run.error) for run in shown]
    table = Table(("arm", "training cases", "training set", "state", "error"), rows, words=5)
    return Section("Runs", f"{len(runs) - len(missing)} of {len(runs)} runs are done.", tables=[table])


def _design(analysis: Analysis) -> Table:
    design = analysis.benchmark.design
    budget = design.budget.model_dump(exclude_none=True)
    sets, tests = count(design.sets_per_size, "training set"), count(len(design.test_cases), "test case")
    rows = [
        ("Dataset", f"{design.dataset}, {design.configuration}, {design.plans}"),
        ("Cases", f"{listing(design.sizes)} training cases, {sets} of each size; {tests}"),
        (
            "nnU-Net",
            f"{design.budget.epochs:,} epochs, {design.budget.iterations:,} iterations; {_words(design.network)}",
        ),
        ("Budget", _words(budget | budget.pop("length"))),
        ("Machine", _words(design.machine)),
        ("Release", design.release),
        ("Arms", "; ".join(arm.title for arm in design.arms)),
    ]
    return Table(("", ""), rows, words=2)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {_words(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
