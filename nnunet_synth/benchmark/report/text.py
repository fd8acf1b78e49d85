"""What a report says besides its numbers: what they cannot say, and how they were computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.benchmark.statistics import LEVEL
from nnunet_synth.pages.formatting import interval, points, probability

QUICK = (
    "This was a quick benchmark: a narrower nnU-Net, trained for a fraction of the usual time. It shows which arms are "
    "broken, and whether synthetic pairs help this small nnU-Net. It does not show whether they help a full one, which "
    "overfits more but has less left to gain. Use it to decide for or against a full benchmark of the best arm."
)
ONE_SET = (
    "With one training set per size, there is no test over runs, since chance and effect cannot be separated; the "
    "verdict is neither “helps” nor “harms”. Use two training sets at least, better three to five."
)
EVIDENCE = "Absence of evidence is not evidence of absence: the intervals show which effects remain possible."


def methods() -> list[tuple[str, str]]:
    """Terms of the report and how their numbers were computed: `methods.txt`, two lines each."""
    text = resources.files(__package__).joinpath("methods.txt").read_text(encoding="utf-8")
    return [tuple(part.split("\n", 1)) for part in text.strip().split("\n\n")]


def notes(analysis: Analysis) -> Iterator[str]:
    """What to know before believing the verdict."""
    benchmark = analysis.benchmark
    for arm, errors, done in zip(benchmark.arms, benchmark.of_runs("error"), benchmark.done, strict=True):
        if not done.any():
            reasons = dict.fromkeys(str(error) for error in errors.ravel() if error)
            yield f"“{arm.title}” has no run: {next(iter(reasons), 'it was not started')}"
    if benchmark.design.quick:
        yield QUICK
    if missing := (~benchmark.done).sum():
        yield f"{missing} of {benchmark.done.size} runs are not done; they are listed below."
    tested = (analysis.row(benchmark.arms[index].name)["p_both"] for index in benchmark.treatments)
    yield EVIDENCE if any(map(math.isfinite, tested)) else ONE_SET
    again = analysis.row(benchmark.arms[benchmark.again].name) if benchmark.again is not None else None
    if again is not None and math.isfinite(again["difference"]):
        by = f"{points(again['difference'])} points ({interval(again['low'], again['high'], scale=100)})"
        text = f"nnU-Net alone, run again with other seeds, differs from itself by {by}."
        if again["p_cases"] <= 1 - LEVEL:
            text += f" A test over cases alone would wrongly call that an effect (p {probability(again['p_cases'])})."
        yield text
    yield from _data(analysis)


def _data(analysis: Analysis) -> Iterator[str]:
    """Undefined scores, cases of one subject, and few cases."""
    benchmark = analysis.benchmark
    for metric, title in (("dice", "Dice"), ("hd95", "HD95")):  # HD95 forgives an arm that finds nothing
        rows = {arm.title: analysis.row(arm.name, metric=metric) for arm in benchmark.arms if not arm.baseline}
        counts = [f"“{arm}” {row['undefined']:.0f}" for arm, row in rows.items() if row["undefined"] > 0]
        if counts:
            yield f"Scores left out because {title} is undefined for the arm or for nnU-Net alone: {', '.join(counts)}."
    cases, subjects = len(benchmark.cases), int(benchmark.subjects.max()) + 1
    if subjects < cases:
        yield (
            f"The {cases} test cases come from {subjects} subjects. Cases of one subject are averaged, and wherever "
            "this report says case, subjects are tested."
        )
    if subjects < 20:
        least = f" With {subjects}, Wilcoxon's test cannot reach 5 %." if subjects < 6 else ""
        kind = "subjects" if subjects < cases else "test cases"
        yield f"There are only {subjects} {kind}; the result may not hold for others.{least}"
