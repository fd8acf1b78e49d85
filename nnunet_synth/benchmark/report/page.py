"""A benchmark's report, as Markdown and as one HTML page, from its tables alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from nnunet_synth.bank.inspection.tiles import picture_of
from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis, analyse
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.report.examples import found_examples
from nnunet_synth.benchmark.report.figures import FIGURES, RATES, Picture, draw_figures
from nnunet_synth.benchmark.report.formatting import duration, interval, number, points, probability
from nnunet_synth.benchmark.report.style import palette
from nnunet_synth.benchmark.report.text import methods, notes
from nnunet_synth.benchmark.report.verdict import conclude, judge_row
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import Spread
from stylegan2_cond.io import write_atomically

REPORT, PAGE, STATISTICS, QUALITY_FILE = "report.md", "report.html", "statistics.csv", "quality.csv"
MOST_CLASSES = 6  # that have columns of their own in the table of means
PIXELS = 1.45  # of the page for a point of a figure, so that its words are as large as the tables'
FACTS = {
    "dataset": "Dataset",
    "configuration": "Configuration",
    "plans": "Plans",
    "network": "Network",
    "sizes": "Training cases",
    "repeats": "Repeats",
    "test_cases": "Test cases",
    "iterations": "Iterations",
    "epochs": "Epochs",
    "effort": "Effort",
    "machine": "Machine",
    "release": "Release",
}


@dataclass(frozen=True)
class Table:
    """Head and rows, as text; the first `words` columns are text, the rest are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        folded: whether the page shows it only when asked to.
        terms: words and what they mean.
    """

    title: str
    text: str = ""
    picture: Picture | None = None
    tables: Sequence[Table] = ()
    terms: Sequence[tuple[str, str]] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """All that the templates need."""

    title: str
    effect: str
    sentence: str
    notes: Sequence[str]
    sections: Sequence[Section]
    drawings: dict[str, str] = field(default_factory=dict)


def write_report(folder: Path) -> Path:
    """Write `report.md`, `report.html`, `statistics.csv`, `quality.csv` and `figures/` into a benchmark's folder.

    All numbers come from `design.json`, `cells.csv` and `scores.csv`; from the same tables comes the same report.

    Returns:
        The page's path.

    Raises:
        UserError: the tables are not whole, or the folder can't be written to.
    """
    folder = Path(folder)
    analysis = analyse(read_benchmark(folder))
    for name, table in ((STATISTICS, analysis.table.reset_index()), (QUALITY_FILE, analysis.quality)):
        with write_atomically(folder / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    pictures = draw_figures(analysis, folder)
    page = build_page(analysis, pictures, found_examples(folder))
    page.drawings.update(
        {name: inline(folder / FIGURES / f"{name}.svg", picture) for name, picture in pictures.items()}
    )
    for picture in found_examples(folder):
        page.drawings[picture.name] = embed(folder / FIGURES / f"{picture.name}.png", picture)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    for name in (REPORT, PAGE):
        text = environment.get_template(name).render(page=page, light=palette(dark=False), dark=palette(dark=True))
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def inline(path: Path, picture: Picture) -> str:
    """An SVG as part of a page: its names made its own, its size the page's, its colours left to the page."""
    svg = path.read_text(encoding="utf-8")
    svg = re.sub(r"<style>@media.*?</style>|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{picture.name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    width = re.search(r' width="([\d.]+)pt"', svg)[1]
    style = f' role="img" aria-labelledby="{picture.name}-caption" style="max-width:{float(width) * PIXELS:.0f}px"'
    return svg.replace(f' width="{width}pt"', style, 1)


def embed(path: Path, picture: Picture) -> str:
    """A PNG as part of a page."""
    return f'<img src="{picture_of(path)}" alt="" aria-labelledby="{picture.name}-caption">'


def build_page(analysis: Analysis, pictures: dict[str, Picture], examples: Sequence[Picture] = ()) -> Page:
    """All parts of the report, in their order."""
    concluded, design = conclude(analysis), analysis.benchmark.design
    means = MEANS.format(design.unit)
    sections = [
        Section(
            "Gain over nnU-Net alone", picture=pictures["gain"], tables=(_gains(analysis), _effect_sizes(analysis))
        ),
        Section("At each size", picture=pictures["differences"], tables=(_by_size(analysis),)),
        Section("By class and case", picture=pictures.get("cases"), tables=(_by_class(analysis),)),
        Section("Surface distance", f"HD95 in {design.unit}; less is better.", tables=(_distances(analysis),)),
        _noise(analysis),
        _ranks(analysis, pictures),
        *_quality(analysis, pictures),
        *(Section(title, picture=picture) for title, picture in zip(EXAMPLES, examples, strict=False)),
        Section("Dice of each arm", means, tables=(_means(analysis, "dice", 1, 100),), folded=True),
        Section("HD95 of each arm", means, tables=(_means(analysis, "hd95", 2, 1),), folded=True),
        *_cells(analysis),
        Section("Design", tables=(_design(analysis),)),
        Section("How this was found", terms=methods(), folded=True),
        Section("Files", FILES),
    ]
    title = "Do synthetic pairs help? " + design.dataset
    effect = concluded.effect.value
    return Page(title, effect, concluded.sentence, notes(analysis), sections)


EXAMPLES = ("Examples", "More examples")
MEANS = (
    "Over all runs of an arm: mean, bootstrap interval over cases, which holds for these runs, and the standard "
    "deviation over "
    "repeats of a run's mean. Dice in points, HD95 in {}."
)
FILES = (
    "statistics.csv holds every number above and those of each class at each size; quality.csv the runs with a "
    "generator. Both, and this report with its figures but the examples, are made of design.json, cells.csv and "
    "scores.csv alone."
)


def _compared(analysis: Analysis) -> list[Arm]:
    """All arms but nnU-Net alone, and that again last."""
    benchmark = analysis.benchmark
    order = [*benchmark.treatments, *([benchmark.again] if benchmark.again is not None else [])]
    return [benchmark.arms[index] for index in order]


def _holm(row: pd.Series, kind: str) -> str:
    """Nothing for nnU-Net against itself, which is no member of the family."""
    return probability(row[f"{kind}_holm"])


def _of_cases(row: pd.Series, digits: int = 1, scale: float = 100) -> str:
    return interval(row["cases_low"], row["cases_high"], digits, scale=scale)


def _of_both(row: pd.Series, digits: int = 1, scale: float = 100) -> str:
    return interval(row["low"], row["high"], digits, scale=scale)


def _effect(analysis: Analysis, arm: Arm, row: pd.Series) -> str:
    benchmark = analysis.benchmark
    if benchmark.again is not None and arm is benchmark.arms[benchmark.again]:
        return "yardstick"
    return judge_row(row).value


def _gains(analysis: Analysis) -> Table:
    head = ("Arm", "verdict", "runs", "gain", "over cases", "over runs and cases", "p cases", "p runs and cases")
    rows = []
    for arm in _compared(analysis):
        row = analysis.row(arm.name)
        figures = (
            points(row["difference"]),
            _of_cases(row),
            _of_both(row),
            _holm(row, "p_cases"),
            _holm(row, "p_both"),
        )
        rows.append((arm.title, _effect(analysis, arm, row), number(row["paired_runs"], 0), *figures))
    return Table(head, rows, words=2)


def _effect_sizes(analysis: Analysis) -> Table:
    head = (
        *("Arm", "rank-biserial", "Cohen's d", "nnU-Net differs from itself as much", "seen with 80 %"),
        *("seconds a run", "times the computing"),
    )
    rows = []
    for arm in _compared(analysis):
        row, cost = analysis.row(arm.name), analysis.costs[arm.name]
        rows.append(
            (
                *(arm.title, number(row["rank_biserial"], 2, sign=True), number(row["cohens_dz"], 2, sign=True)),
                *(probability(row["p_noise"]), points(row["detectable"], sign=False)),
                *(duration(cost.arm), number(cost.factor, 1)),
            )
        )
    return Table(head, rows)


def _by_size(analysis: Analysis) -> Table:
    head = (
        *("Arm", "training cases", "runs", "gain", "over cases", "over runs and cases"),
        *("p cases", "p runs and cases", "nnU-Net differs from itself as much"),
    )
    rows = []
    for arm in _compared(analysis):
        for size in analysis.benchmark.sizes:
            row = analysis.row(arm.name, size)
            figures = (points(row["difference"]), _of_cases(row), _of_both(row))
            tests = (_holm(row, "p_cases"), _holm(row, "p_both"), probability(row["p_noise"]))
            rows.append((arm.title, size, number(row["paired_runs"], 0), *figures, *tests))
    return Table(head, rows)


def _by_class(analysis: Analysis) -> Table:
    head = ("Arm", "class", "Dice", "gain", "over cases", "over runs and cases", "p cases", "p runs and cases")
    benchmark, rows = analysis.benchmark, []
    for arm in _compared(analysis):
        for label in benchmark.labels:
            row = analysis.row(arm.name, POOLED, label)
            figures = (points(row["mean"], sign=False), points(row["difference"]), _of_cases(row), _of_both(row))
            tests = (_holm(row, "p_cases"), _holm(row, "p_both"))
            rows.append((arm.title, benchmark.design.labels[label], *figures, *tests))
    return Table(head, rows, words=2)


def _distances(analysis: Analysis) -> Table:
    head = ("Arm", "HD95", "difference", "over cases", "over runs and cases", "p cases", "p runs and cases")
    rows = []
    for arm in analysis.benchmark.arms:
        row = analysis.row(arm.name, metric="hd95")
        figures = (number(row["mean"], 2), number(row["difference"], 2, sign=True))
        intervals = (_of_cases(row, 2, 1), _of_both(row, 2, 1))
        rows.append((arm.title, *figures, *intervals, _holm(row, "p_cases"), _holm(row, "p_both")))
    return Table(head, rows)


def _means(analysis: Analysis, metric: str, digits: int, scale: float) -> Table:
    benchmark = analysis.benchmark
    labels = [CLASSES, *(benchmark.labels if len(benchmark.labels) <= MOST_CLASSES else ())]
    titles = ["all classes" if label == CLASSES else benchmark.design.labels[label] for label in labels]
    head = ("Arm", "training cases", "runs", *titles, "sd of repeats")
    rows = []
    for arm in benchmark.arms:
        for size in benchmark.sizes:
            found = [analysis.row(arm.name, size, label, metric) for label in labels]
            means = [_mean(row, digits, scale) for row in found]
            deviation = number(scale * found[0]["sd_repeats"], 2)
            rows.append((arm.title, size, number(found[0]["runs"], 0), *means, deviation))
    return Table(head, rows)


def _mean(row: pd.Series, digits: int, scale: float) -> str:
    told = interval(row["mean_low"], row["mean_high"], digits, scale=scale)
    return f"{number(scale * row['mean'], digits)} ({told})"


def _noise(analysis: Analysis) -> Section:
    """How much nnU-Net alone differs from itself."""
    benchmark, noise = analysis.benchmark, analysis.noise["dice"]
    rows = []
    for size, variance, freedom in zip(benchmark.sizes, noise.variance, noise.freedom, strict=True):
        repeats = analysis.row(benchmark.arms[benchmark.baseline].name, size)["sd_repeats"]
        figures = (repeats, np.sqrt(variance), Spread(float(variance), float(freedom)).half_width())
        repeats, pair, width = (number(100 * figure, 2) for figure in figures)
        rows.append((size, repeats, pair, number(freedom, 0), f"±{width}"))
    source = (
        f"measured by the arm {benchmark.arms[benchmark.again].title}"
        if noise.measured
        else "an upper bound from its repeats, whose training cases differ too"
    )
    text = (
        "How much two runs of nnU-Net alone differ that had the same training cases, in Dice points: "
        f"{source}. Within the last column lie 95 % of the differences of two single runs; what an arm gains must "
        "be seen "
        "against this."
    )
    head = (
        "training cases",
        "sd over repeats",
        "sd of the difference of two runs",
        "degrees of freedom",
        "95 % of them",
    )
    return Section("nnU-Net against itself", text, tables=(Table(head, rows),))


def _ranks(analysis: Analysis, pictures: dict[str, Picture]) -> Section:
    if "ranks" in pictures:
        return Section("All arms at once", picture=pictures["ranks"])
    text = "Friedman's test needs three arms, and two cells or cases that all of them have; here it can't be made."
    return Section("All arms at once", text)


def _quality(analysis: Analysis, pictures: dict[str, Picture]) -> list[Section]:
    if "quality" not in pictures:
        return []
    rows = [
        (
            *(RATES[row["measure"]], number(row["runs"], 0), number(row["rho"], 2, sign=True), probability(row["p"])),
            *(number(row["rho_equal_size"], 2, sign=True), probability(row["p_equal_size"])),
        )
        for _, row in analysis.correlations.iterrows()
    ]
    head = ("Measure", "runs", "ρ with gain", "p", "ρ at equal size", "p")
    means = analysis.quality.groupby("arm", sort=False)[["kid", "coverage", "copies", "gain"]].mean()
    titles = {arm.name: arm.title for arm in analysis.benchmark.arms}
    arms = [
        (titles[arm], number(r["kid"], 4), number(r["coverage"], 2), number(r["copies"], 3), points(r["gain"]))
        for arm, r in means.iterrows()
    ]
    tables = (Table(("Arm", "KID", "coverage", "copies", "gain"), arms), Table(head, rows))
    return [Section("Image quality and gain", picture=pictures["quality"], tables=tables)]


def _cells(analysis: Analysis) -> list[Section]:
    cells = analysis.benchmark.cells
    left = cells[cells["state"] != "done"]
    text = f"{len(cells) - len(left)} of {len(cells)} cells are done."
    titles = {arm.name: arm.title for arm in analysis.benchmark.arms}
    rows = [
        (titles[row.arm], row.size, row.repeat, row.state, row.error)
        for row in left.itertuples(index=False, name="Cell")
    ]
    tables = (Table(("Arm", "training cases", "repeat", "state", "error"), rows, words=5),) if rows else ()
    return [Section("Cells", text, tables=tables)]


def _design(analysis: Analysis) -> Table:
    design = analysis.benchmark.design
    facts = design.model_dump(mode="json")
    rows = [(title, _fact(key, facts[key])) for key, title in FACTS.items() if facts[key] not in (None, "")]
    rows.append(("Arms", "; ".join(arm.title for arm in design.arms)))
    if design.quick:
        rows.append(("Quick", "yes"))
    return Table(("", ""), rows, words=2)


def _fact(key: str, value: object) -> str:
    if key == "test_cases" and isinstance(value, list):
        return str(len(value))
    if isinstance(value, dict):
        return "; ".join(f"{name} {_fact(name, part)}" for name, part in value.items() if part is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
