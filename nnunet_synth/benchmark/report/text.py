"""What a report says besides its numbers: what they cannot say, and how they were computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.benchmark.report.verdict import Effect, effect_of_row
from nnunet_synth.benchmark.statistics import LEVEL
from nnunet_synth.pages.formatting import count, interval, listing, points, probability

TEXTS = {
    "hd95": "HD95 in {unit}; lower is better.",
    "means": (
        "Over all runs of an arm: the mean with its bootstrap interval over cases, which holds for these runs, and the "
        "standard deviation of a run's mean over training sets. Dice in points, HD95 in {unit}."
    ),
    "noise measured": (
        "How much two runs of nnU-Net alone with the same training cases differ, in Dice points, measured by the arm "
        "“{arm}”. 95 % of the differences of two single runs lie within the last column; compare every gain with it."
    ),
    "noise estimated": (
        "How much two runs of nnU-Net alone with the same training cases differ, in Dice points. This is an upper "
        "bound, since it is estimated from runs whose training cases differ as well. 95 % of the differences of two "
        "single runs lie within the last column; compare every gain with it."
    ),
    "ranks": (
        "Mean ranks by Dice, 1 is best. By Nemenyi's test at 5 %, two arms differ if their ranks differ by more than "
        "the critical difference. Cases share the chance of their runs, so ranks over cases show too many differences; "
        "trust those over runs."
    ),
    "no ranks": "Friedman's test needs three arms, and two runs or cases that all of them have.",
    "files": (
        "statistics.csv holds every number above, and those of each class at each size; quality.csv holds the runs "
        "with a generator. Both, and this report with all figures except the examples, are computed from design.json, "
        "runs.csv and scores.csv alone."
    ),
}
QUICK = (
    "This was a quick benchmark: a narrower nnU-Net, trained for a fraction of the usual time. It shows whether "
    "synthetic pairs help this small nnU-Net at these sizes on these test cases, and which arms are broken. It does "
    "not show whether they help a full nnU-Net, or by how much: a training that has not converged gains from whatever "
    "makes it converge faster, a narrow network overfits less and so gains less from more data, and a full nnU-Net "
    "has less left to gain. Use it to decide for or against a full benchmark of the best arm."
)


def methods() -> list[tuple[str, str]]:
    """Terms of the report and how their numbers were computed: `methods.txt`, two lines each."""
    text = resources.files(__package__).joinpath("methods.txt").read_text(encoding="utf-8")
    return [tuple(part.split("\n", 1)) for part in text.strip().split("\n\n")]


def notes(analysis: Analysis) -> Iterator[str]:
    """What to know before believing the verdict."""
    benchmark = analysis.benchmark
    yield from _arms_without_run(analysis)
    if benchmark.design.quick:
        yield QUICK
    yield from _incomplete(analysis)
    yield _power(analysis)
    row = analysis.row(benchmark.arms[benchmark.again].name) if benchmark.again is not None else None
    if row is not None and math.isfinite(row["difference"]):
        yield f"nnU-Net alone, run again with other seeds, differs from itself by {_difference(row)}." + (
            f" A test over cases alone would wrongly call that an effect (p {probability(row['p_cases'])})."
            if row["p_cases"] <= 1 - LEVEL
            else ""
        )
    for index in benchmark.treatments if benchmark.synthetic else ():
        if index not in benchmark.synthetic:
            arm = benchmark.arms[index]
            row = analysis.row(arm.name)
            effect = effect_of_row(row).value
            yield f"For comparison, without synthetic pairs: “{arm.title}”, {_difference(row)}, {effect}."
    yield from _single_sizes(analysis)
    yield from _undefined(analysis)
    yield from _few_cases(analysis)


def _difference(row: pd.Series) -> str:
    return f"{points(row['difference'])} Dice points ({interval(row['low'], row['high'], scale=100)})"


def _arms_without_run(analysis: Analysis) -> Iterator[str]:
    """Why nothing can be said of an arm: the errors of its runs, each once."""
    benchmark = analysis.benchmark
    for arm, errors, done in zip(benchmark.arms, benchmark.of_runs("error"), benchmark.done, strict=True):
        if not done.any():
            reasons = dict.fromkeys(str(error) for error in errors.ravel() if error)
            first, more = next(iter(reasons), "it was not started"), len(reasons) - 1
            yield f"“{arm.title}” has no run: {first}" + (f" ({more} more below)" if more > 0 else "")


def _incomplete(analysis: Analysis) -> Iterator[str]:
    benchmark = analysis.benchmark
    if benchmark.done.all():
        return
    missing = f"{(~benchmark.done).sum()} of {benchmark.done.size}"
    yield f"{missing} runs are not done; they are listed below. Only done pairs of runs are used."
    for index in benchmark.treatments:
        arm = benchmark.arms[index]
        paired = (benchmark.done[index] & benchmark.done[benchmark.baseline]).sum(axis=1)
        compared = analysis.row(arm.name)["paired_runs"]
        if 0 < compared < paired.sum():
            left = listing([size for size, runs in zip(benchmark.sizes, paired, strict=True) if runs == 1])
            yield (
                f"“{arm.title}”: the pooled result leaves out the single pair of runs at {left}, since it does not "
                "show how much runs vary."
            )
        elif not compared and benchmark.done[index].any():
            yield f"“{arm.title}”: no pair of runs is done."


def _power(analysis: Analysis) -> str:
    benchmark = analysis.benchmark
    rows = [analysis.row(benchmark.arms[index].name) for index in benchmark.treatments]
    if not any(math.isfinite(row["p_both"]) for row in rows):
        return (
            "With one training set per size, there is no test over runs, since chance and effect cannot be separated; "
            "the verdict is neither “helps” nor “harms”. Use two training sets at least, better three to five."
        )
    seen = float(np.median([row["detectable"] for row in rows if math.isfinite(row["detectable"])]))
    sets, sizes = count(len(benchmark.training_sets), "training set"), count(len(benchmark.sizes), "size")
    return (
        f"With {sets} at each of {sizes}, an effect of {points(seen, sign=False)} Dice points is detected with 80 % "
        "probability, a smaller one less often. Absence of evidence is not evidence of absence: the intervals show "
        "which effects remain possible."
    )


def _single_sizes(analysis: Analysis) -> Iterator[str]:
    """Effects at single sizes of arms without one over all sizes."""
    benchmark = analysis.benchmark
    tests = len(benchmark.sizes) * len(benchmark.treatments)
    for arm in (benchmark.arms[index] for index in benchmark.treatments if len(benchmark.sizes) > 1):
        if effect_of_row(analysis.row(arm.name)) is not Effect.NO_EVIDENCE:
            continue
        for size in benchmark.sizes:
            row = analysis.row(arm.name, size)
            if (effect := effect_of_row(row)) in (Effect.HELPS, Effect.HARMS):
                yield (
                    f"“{arm.title}” {effect.value} at {size} training cases ({points(row['difference'])} Dice points), "
                    f"but not over all sizes. This is one of {tests} tests; only a new benchmark can confirm it."
                )


def _undefined(analysis: Analysis) -> Iterator[str]:
    """HD95 forgives an arm that finds nothing; say where that happens."""
    for metric, title in (("dice", "Dice"), ("hd95", "HD95")):
        rows = {arm.title: analysis.row(arm.name, metric=metric) for arm in analysis.benchmark.arms}
        counts = [f"“{arm}” {row['undefined']:.0f}" for arm, row in rows.items() if row.get("undefined", 0) > 0]
        if counts:
            yield f"Scores left out because {title} is undefined for the arm or for nnU-Net alone: {', '.join(counts)}."


def _few_cases(analysis: Analysis) -> Iterator[str]:
    """Cases of one subject count once."""
    cases, subjects = len(analysis.benchmark.cases), int(analysis.benchmark.subjects.max()) + 1
    if subjects < cases:
        yield (
            f"The {cases} test cases come from {subjects} subjects. Cases of one subject are averaged, and wherever "
            "this report says case, subjects are tested and resampled."
        )
    if subjects < 20:
        kind = "subjects" if subjects < cases else "test cases"
        least = f" With {subjects}, Wilcoxon's test cannot reach 5 %." if subjects < 6 else ""
        yield f"There are only {subjects} {kind}; the result may not hold for others.{least}"
