"""A benchmark's report, as Markdown and as one HTML page, from its tables alone."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pandas as pd

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis, analyse
from nnunet_synth.benchmark.report.figures import plot_gain
from nnunet_synth.benchmark.report.text import methods, notes
from nnunet_synth.benchmark.report.verdict import conclude, effect_of_row
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import Spread
from nnunet_synth.pages.formatting import count, duration, interval, listing, number, points, probability, significant
from nnunet_synth.pages.page import HTML, MARKDOWN, PICTURES, Note, Page, Picture, Section, Table, render
from stylegan2_cond.io import write_atomically

REPORT, PAGE, STATISTICS = "report.md", "report.html", "statistics.csv"
TESTS = ("p over cases", "p over runs and cases", "p of noise")


def write_report(folder: Path) -> Path:
    """Write `report.md`, `report.html`, `statistics.csv` and `figures/gain.png` into a benchmark's folder.

    All numbers come from `design.json`, `runs.csv` and `scores.csv`; from the same tables comes the same report.

    Returns:
        The path of the HTML page.

    Raises:
        UserError: the tables are not whole, or the folder cannot be written to.
    """
    folder = Path(folder)
    analysis = analyse(read_benchmark(folder))
    picture = plot_gain(analysis)
    page = build_page(analysis, picture)
    files = {
        f"{PICTURES}/{picture.name}.png": picture.png,
        STATISTICS: analysis.table.reset_index().to_csv(index=False, float_format="%.6g").encode(),
        REPORT: render(page, MARKDOWN).encode(),
        PAGE: render(page, HTML).encode(),
    }
    for name, content in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder / PAGE


def build_page(analysis: Analysis, picture: Picture) -> Page:
    """All sections of the report, in order."""
    verdict, benchmark = conclude(analysis), analysis.benchmark
    missing = benchmark.runs[benchmark.runs["state"] != "done"]
    titles = {arm.name: arm.title for arm in benchmark.arms}
    failed = [(titles[r.arm], r.size, r.training_set, r.state, r.error) for r in missing.itertuples(index=False)]
    head = ("arm", "training cases", "training set", "state", "error")
    done = f"{len(benchmark.runs) - len(missing)} of {len(benchmark.runs)} runs are done."
    by_class = f"All sizes pooled. HD95 in {benchmark.design.unit}; lower is better."
    sections = [
        Section("Gain over nnU-Net alone", pictures=[picture], tables=[_gains(analysis)]),
        Section("nnU-Net against itself", _noise(analysis)),
        Section("At each size", tables=[_by_size(analysis)]),
        Section("By class", by_class, tables=[_by_class(analysis)], folded=True),
        *([Section("Generators, averaged over runs", text)] if (text := _generators(analysis)) else ()),
        Section("Runs", done, tables=[Table(head, failed, words=5)]),
        Section("Design", tables=[_design(analysis)], folded=True),
        Section("Methods", terms=methods(), folded=True),
    ]
    return Page(
        title=f"Do {benchmark.subject} help? {benchmark.design.dataset}",
        summary=verdict.sentence,
        sections=sections,
        written_by=f"nnunet-synth benchmark {version('nnunet-synth')}",
        notes=[Note(text) for text in notes(analysis)],
        verdict=verdict.effect.value,
    )


def _difference(row: pd.Series, digits: int = 1, scale: float = 100) -> tuple[str, str]:
    low, high = row["low"], row["high"]
    return number(scale * row["difference"], digits, sign=True), interval(low, high, digits, scale=scale)


def _tests(row: pd.Series) -> list[str]:
    """p-values; those over cases and runs are corrected, and empty for nnU-Net against itself."""
    return [probability(row[p]) for p in ("p_cases_holm", "p_both_holm", "p_noise")]


def _gains(analysis: Analysis) -> Table:
    """All arms but nnU-Net alone, and that run again last."""
    benchmark, rows = analysis.benchmark, []
    for index in (*benchmark.treatments, *({benchmark.again} - {None})):
        arm, row = benchmark.arms[index], analysis.row(benchmark.arms[index].name)
        cost = analysis.costs[arm.name]
        effect = "reference" if index == benchmark.again else effect_of_row(row).value
        times = duration(cost.arm), number(cost.factor, 1)
        rows.append((arm.title, effect, number(row["paired_runs"], 0), *_difference(row), *_tests(row), *times))
    return Table(("arm", "verdict", "runs", "gain", "95 %", *TESTS, "time per run", "relative cost"), rows, words=2)


def _noise(analysis: Analysis) -> str:
    """How much nnU-Net alone differs from itself."""
    benchmark, noise = analysis.benchmark, analysis.noise
    how = "an upper bound, since it is estimated from runs whose training cases differ as well"
    if noise.measured:
        how = f"measured by the arm “{benchmark.arms[benchmark.again].title}”"
    spreads = map(Spread, noise.variance.tolist(), noise.dof.tolist())
    ranges = [f"±{points(s.half_width(), sign=False)} with {n}" for s, n in zip(spreads, benchmark.sizes, strict=True)]
    return (
        "95 % of the differences of two runs of nnU-Net alone with the same training cases lie within "
        f"{listing(ranges)} training cases, in Dice points ({how}). Compare every gain with it."
    )


def _by_size(analysis: Analysis) -> Table:
    rows = []
    for arm in analysis.benchmark.arms:
        for size in analysis.benchmark.sizes:
            row = analysis.row(arm.name, size)
            dice = number(row["runs"], 0), points(row["mean"], sign=False)
            rows.append((arm.title, size, *dice, *_difference(row), *_tests(row)))
    return Table(("arm", "training cases", "runs", "Dice", "gain", "95 %", *TESTS), rows)


def _by_class(analysis: Analysis) -> Table:
    benchmark, rows = analysis.benchmark, []
    names = {CLASSES: "all classes"} | benchmark.design.labels
    for arm in benchmark.arms:
        for label, name in names.items():
            dice, hd95 = (analysis.row(arm.name, POOLED, label, metric) for metric in ("dice", "hd95"))
            means = points(dice["mean"], sign=False), number(hd95["mean"], 2)
            rows.append((arm.title, name, means[0], *_difference(dice), means[1], *_difference(hd95, 2, 1)))
    return Table(("arm", "class", "Dice", "gain", "95 %", "HD95", "difference", "95 %"), rows, words=2)


def _generators(analysis: Analysis) -> str:
    """Quality of each arm's generators, averaged over runs."""
    texts, runs = [], analysis.benchmark.runs.rename(columns={"kid": "KID", "copies": "copies in %"})
    for arm in analysis.benchmark.arms:
        means = runs.loc[runs["arm"] == arm.name, ["KID", "coverage", "copies in %"]].mean().dropna()
        if len(means):
            texts.append(f"{arm.title}: " + ", ".join(f"{name} {significant(value)}" for name, value in means.items()))
    return "; ".join(texts)


def _design(analysis: Analysis) -> Table:
    design = analysis.benchmark.design
    budget = design.budget.model_dump(exclude_none=True)
    sets, tests = count(design.sets_per_size, "training set"), count(len(design.test_cases), "test case")
    length = f"{design.budget.epochs:,} epochs, {design.budget.iterations:,} iterations"
    rows = [
        ("Dataset", f"{design.dataset}, {design.configuration}, {design.plans}"),
        ("Cases", f"{listing(design.sizes)} training cases, {sets} of each size; {tests}"),
        ("nnU-Net", f"{length}; {_words(design.network)}"),
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
