"""A benchmark's report, as Markdown, as one HTML page and as JSON, from its tables alone."""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import product
from pathlib import Path

from nnunet_synth.benchmark.analysis import CLASSES, Analysis, analyse
from nnunet_synth.benchmark.report.figures import plot_gain
from nnunet_synth.benchmark.report.text import methods, notes
from nnunet_synth.benchmark.report.verdict import Verdict, conclude
from nnunet_synth.benchmark.results import METRICS, read_benchmark
from nnunet_synth.pages.formatting import duration, interval, listing, number, points, probability, significant
from nnunet_synth.pages.page import HTML, MARKDOWN, PICTURES, Note, Page, Picture, Section, Table, render
from stylegan2_cond.io import write_atomically

REPORT, PAGE, RESULT, STATISTICS = "report.md", "report.html", "report.json", "statistics.csv"
TITLES = {"dice": "Dice", "hd95": "HD95", "false_positive": "false positives"}


def write_report(folder: Path) -> Path:
    """Write `report.md`, `.html` and `.json`, `statistics.csv` and `figures/gain.png` into a benchmark's folder.

    All numbers come from `design.json`, `runs.csv` and `scores.csv`; from the same tables comes the same report.

    Returns:
        The path of the HTML page.

    Raises:
        UserError: the tables are not whole, or the folder cannot be written to.
    """
    folder = Path(folder)
    analysis = analyse(read_benchmark(folder))
    verdict, picture = conclude(analysis), plot_gain(analysis)
    page = build_page(analysis, verdict, picture)
    files = {
        f"{PICTURES}/{picture.name}.png": picture.png,
        STATISTICS: analysis.table.reset_index().to_csv(index=False, float_format="%.6g").encode(),
        RESULT: json_of(analysis, verdict).encode(),
        REPORT: render(page, MARKDOWN).encode(),
        PAGE: render(page, HTML).encode(),
    }
    for name, content in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder / PAGE


def json_of(analysis: Analysis, verdict: Verdict) -> str:
    """The verdict, and each arm's numbers at each size; Dice from 0 to 1, null where unknown."""
    table = analysis.table.xs(("dice", CLASSES), level=("metric", "label")).reset_index()
    arms = json.loads(table.to_json(orient="records"))
    facts = {
        "dataset": analysis.benchmark.design.dataset,
        "verdict": verdict.effect.value,
        "sentence": verdict.sentence,
    }
    return json.dumps(facts | {"arms": arms}, indent=1, ensure_ascii=False)


def build_page(analysis: Analysis, verdict: Verdict, picture: Picture) -> Page:
    """All sections of the report, in order."""
    benchmark = analysis.benchmark
    missing = benchmark.runs[benchmark.runs["state"] != "done"]
    titles = {arm.name: arm.title for arm in benchmark.arms}
    failed = [(titles[r.arm], r.size, r.training_set, r.run, r.state, r.error) for r in missing.itertuples(index=False)]
    head = ("arm", "training cases", "training set", "run", "state", "error")
    unit = benchmark.design.unit
    second = (
        f"HD95 in {unit}, false positives in {'mm³' if unit == 'mm' else unit} where a case does not have the class; "
        "lower is better. Nothing here is tested."
    )
    sections = [
        Section("Gain over nnU-Net alone", pictures=[picture], tables=[_gains(analysis)]),
        Section("By class and metric", second, tables=[_second(analysis)], folded=True),
        *([Section("Generators, averaged over runs", text)] if (text := _generators(analysis)) else ()),
        *([Section("Runs without a result", tables=[Table(head, failed, words=6)])] if failed else ()),
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


def _gains(analysis: Analysis) -> Table:
    rows = []
    for size in analysis.benchmark.design.sizes:
        for arm in analysis.benchmark.arms:
            row = analysis.row(arm.name, size)
            seconds, factor = analysis.costs[arm.name]
            facts = [arm.title, size, "–", number(row["sets"], 0), points(row["mean"], sign=False), *["–"] * 5]
            if not arm.baseline:
                facts[2] = row["effect"]
                shares = [number(100 * row[share], 0) for share in ("won", "share_of_oracle")]
                gain = points(row["difference"]), interval(row["low"], row["high"], scale=100)
                facts[5:] = *gain, probability(row["p_holm"]), *shares
            rows.append((*facts, duration(seconds), number(factor, 1)))
    head = ("arm", "training cases", "verdict", "sets", "Dice", "gain", "95 %", "p", "sets won, %", "of oracle, %")
    return Table((*head, "time per run", "relative cost"), rows, words=3)


def _second(analysis: Analysis) -> Table:
    """All metrics of all classes together, and Dice of each."""
    design, rows = analysis.benchmark.design, []
    kinds = [(metric, CLASSES) for metric in METRICS] + [("dice", label) for label in design.labels]
    for (metric, label), size, index in product(kinds, design.sizes, analysis.benchmark.treatments):
        arm = analysis.benchmark.arms[index]
        row, scale, digits = analysis.row(arm.name, size, label, metric), *((100, 1) if metric == "dice" else (1, 2))
        if row["sets"] > 0:
            name = design.labels.get(label, "all classes")
            limits = [interval(row[f"{k}low"], row[f"{k}high"], digits, scale=scale) for k in ("", "bootstrap_")]
            level = number(scale * row["mean"], digits), number(scale * row["difference"], digits, sign=True)
            rows.append((TITLES[metric], name, arm.title, size, *level, *limits))
    head = ("metric", "class", "arm", "training cases", "mean", "difference", "95 %", "95 %, bootstrap")
    return Table(head, rows, words=3)


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
    length = f"{design.budget.epochs:,} epochs, {design.budget.iterations:,} iterations"
    rows = [
        ("Dataset", f"{design.dataset}, {design.configuration}, {design.plans}"),
        ("Cases", f"{design.describe_sets()}; {len(design.test_cases)} test cases; {len(design.pool)} in the pool"),
        ("Runs", f"{design.baseline_runs} of nnU-Net alone with each training set, {design.runs} of each arm"),
        ("Test", design.protocol.test),
        ("Stopping", f"{design.protocol.stopping}; looks at {listing(design.protocol.looks)} training sets"),
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
