"""What a report says besides its numbers: what they cannot say, and how they were computed."""

from __future__ import annotations

import math
from importlib import resources

import numpy as np

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis
from nnunet_synth.benchmark.report.verdict import Effect, effect_of_row
from nnunet_synth.benchmark.statistics import LEVEL
from nnunet_synth.pages.formatting import count, interval, listing, points, probability

HEADS = {
    "cases": "95 % over cases",
    "both": "95 % over runs and cases",
    "p_cases": "p over cases",
    "p_both": "p over runs and cases",
    "p_noise": "p of noise",
    "sd": "SD over training sets",
}
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


def notes(analysis: Analysis) -> list[str]:
    """What to know before believing the verdict."""
    return [
        *_arms_without_run(analysis),
        *([QUICK] if analysis.benchmark.design.quick else []),
        *_incomplete(analysis),
        _power(analysis),
        *_noise(analysis),
        *_arms_without_pairs(analysis),
        *_single_sizes(analysis),
        *_undefined(analysis),
        *_few_cases(analysis),
    ]


def _arms_without_run(analysis: Analysis) -> list[str]:
    """Why nothing can be said of an arm: the errors of its runs, each once."""
    benchmark, texts = analysis.benchmark, []
    errors = benchmark.of_runs("error")
    for index, arm in enumerate(benchmark.arms):
        if not benchmark.done[index].any():
            reasons = dict.fromkeys(str(error) for error in errors[index].ravel() if error)
            first, more = next(iter(reasons), "it was not started"), len(reasons) - 1
            texts.append(f"“{arm.title}” has no run: {first}" + (f" ({more} more below)" if more > 0 else ""))
    return texts


def _incomplete(analysis: Analysis) -> list[str]:
    benchmark = analysis.benchmark
    missing = int((~benchmark.done).sum())
    if not missing:
        return []
    texts = [f"{missing} of {benchmark.done.size} runs are not done; they are listed below. Only done pairs are used."]
    for index in benchmark.treatments:
        arm = benchmark.arms[index]
        paired = (benchmark.done[index] & benchmark.done[benchmark.baseline]).sum(axis=1)
        compared = analysis.row(arm.name)["paired_runs"]
        if 0 < compared < paired.sum():
            left = [size for size, runs in zip(benchmark.sizes, paired, strict=True) if runs == 1]
            texts.append(
                f"“{arm.title}”: the pooled result leaves out the single pair of runs at {listing(left)}, which does "
                "not show how runs vary."
            )
        elif not compared and benchmark.done[index].any():
            texts.append(f"“{arm.title}”: no pair of runs is done.")
    return texts


def _power(analysis: Analysis) -> str:
    benchmark = analysis.benchmark
    rows = [analysis.row(benchmark.arms[index].name) for index in benchmark.treatments]
    if not any(math.isfinite(row["p_both"]) for row in rows):
        return (
            "With one training set per size, there is no test over runs, since chance and effect cannot be separated; "
            "the verdict is neither “helps” nor “harms”. Use two training sets at least, better three to five."
        )
    seen = [row["detectable"] for row in rows if math.isfinite(row["detectable"])]
    sets, sizes = count(len(benchmark.training_sets), "training set"), count(len(benchmark.sizes), "size")
    return (
        f"With {sets} at each of {sizes}, an effect of {points(float(np.median(seen)), sign=False)} Dice points is "
        "detected with 80 % probability, a smaller one less often. Absence of evidence is not evidence of absence: the "
        "intervals show which effects remain possible."
    )


def _noise(analysis: Analysis) -> list[str]:
    benchmark = analysis.benchmark
    row = analysis.row(benchmark.arms[benchmark.again].name) if benchmark.again is not None else None
    if row is None or not math.isfinite(row["difference"]):
        return []
    text = (
        f"nnU-Net alone, run again with other seeds, differs from itself by {points(row['difference'])} Dice points "
        f"({interval(row['low'], row['high'], scale=100)})."
    )
    if row["p_cases"] <= 1 - LEVEL:
        text += f" A test over cases alone would wrongly call that an effect (p {probability(row['p_cases'])})."
    return [text]


def _arms_without_pairs(analysis: Analysis) -> list[str]:
    benchmark, texts = analysis.benchmark, []
    for index in benchmark.treatments if benchmark.synthetic else ():
        if index not in benchmark.synthetic:
            row = analysis.row(benchmark.arms[index].name)
            texts.append(
                f"For comparison, without synthetic pairs: “{benchmark.arms[index].title}”, "
                f"{points(row['difference'])} Dice points ({interval(row['low'], row['high'], scale=100)}), "
                f"{effect_of_row(row).value}."
            )
    return texts


def _single_sizes(analysis: Analysis) -> list[str]:
    """Effects at single sizes of arms without one over all sizes."""
    benchmark, texts = analysis.benchmark, []
    for index in benchmark.treatments if len(benchmark.sizes) > 1 else ():
        arm = benchmark.arms[index]
        if effect_of_row(analysis.row(arm.name)) is not Effect.NO_EVIDENCE:
            continue
        for size in benchmark.sizes:
            row = analysis.row(arm.name, size)
            if (effect := effect_of_row(row)) in (Effect.HELPS, Effect.HARMS):
                tests = len(benchmark.sizes) * len(benchmark.treatments)
                texts.append(
                    f"“{arm.title}” {effect.value} at {size} training cases ({points(row['difference'])} Dice points), "
                    f"but not over all sizes. This is one of {tests} tests; only a new benchmark can confirm it."
                )
    return texts


def _undefined(analysis: Analysis) -> list[str]:
    """HD95 forgives an arm that finds nothing; say where that happens."""
    texts = []
    for metric, title in (("dice", "Dice"), ("hd95", "HD95")):
        counts = [
            f"“{arm.title}” {int(undefined)}"
            for arm in analysis.benchmark.arms
            if (undefined := analysis.row(arm.name, POOLED, CLASSES, metric).get("undefined", 0)) > 0
        ]
        if counts:
            texts.append(
                f"Scores left out because {title} is undefined for the arm or for nnU-Net alone: {', '.join(counts)}."
            )
    return texts


def _few_cases(analysis: Analysis) -> list[str]:
    """Cases of one subject count once."""
    cases, subjects = len(analysis.benchmark.cases), int(analysis.benchmark.subjects.max()) + 1
    texts = []
    if subjects < cases:
        texts.append(
            f"The {cases} test cases come from {subjects} subjects. Cases of one subject are averaged, and wherever "
            "this report says case, subjects are tested and resampled."
        )
    if subjects < 20:
        kind = "subjects" if subjects < cases else "test cases"
        least = f" With {subjects}, Wilcoxon's test cannot reach 5 %." if subjects < 6 else ""
        texts.append(f"There are only {subjects} {kind}; the result may not hold for others.{least}")
    return texts
