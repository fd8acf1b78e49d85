"""What a report says beside its numbers: what they can't say, and how they were found."""

from __future__ import annotations

import math
from importlib import resources

import numpy as np

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, Analysis
from nnunet_synth.benchmark.report.formatting import interval, listing, points, probability
from nnunet_synth.benchmark.report.verdict import Effect, judge_row
from nnunet_synth.benchmark.statistics import LEVEL

QUICK = (
    "This was a quick run: a narrower nnU-Net, trained for a small part of the usual time. It can say whether "
    "synthetic pairs help this small nnU-Net, at these sizes, on these test cases, and which arms are broken. It "
    "can't say by how much, or even whether, they help a full one: a training that has not converged gains by "
    "whatever makes it converge faster, a narrow network overfits less and so has less to gain from more data, "
    "and a full nnU-Net has less left to gain. Take it as a reason for or against a full benchmark, of the best "
    "arm alone."
)


def methods() -> list[tuple[str, str]]:
    """How the numbers were found, in words and what they mean: `templates/methods.txt`, two lines each."""
    text = resources.files(__package__).joinpath("templates", "methods.txt").read_text(encoding="utf-8")
    return [tuple(part.split("\n", 1)) for part in text.strip().split("\n\n")]


def notes(analysis: Analysis) -> list[str]:
    """What to know before believing the verdict."""
    found = [
        *_without_run(analysis),
        *_quick(analysis),
        *_incomplete(analysis),
        *_repeats(analysis),
        *_yardstick(analysis),
        *_others(analysis),
        *_sizes(analysis),
        *_undefined(analysis),
        *_few_cases(analysis),
    ]
    return found


def _without_run(analysis: Analysis) -> list[str]:
    """Arms that nothing can be said of, and why: the errors of their cells, each once."""
    benchmark, texts = analysis.benchmark, []
    errors = benchmark.of_cells("error")
    for index, arm in enumerate(benchmark.arms):
        if not benchmark.done[index].any():
            reasons = dict.fromkeys(str(error) for error in errors[index].ravel() if error)
            first, more = next(iter(reasons), "it was not begun"), len(reasons) - 1
            texts.append(
                f"“{arm.title}” has no run: {first}" + (f" And {more} more, listed below." if more > 0 else "")
            )
    return texts


def _quick(analysis: Analysis) -> list[str]:
    return [QUICK] if analysis.benchmark.design.quick else []


def _incomplete(analysis: Analysis) -> list[str]:
    benchmark = analysis.benchmark
    missing = int((~benchmark.done).sum())
    if not missing:
        return []
    texts = [
        f"{missing} of {benchmark.done.size} cells are not done; they are listed below. Only pairs of done cells "
        "are used."
    ]
    for index in benchmark.treatments:
        arm = benchmark.arms[index]
        paired = (benchmark.done[index] & benchmark.done[benchmark.baseline]).sum(axis=1)
        compared = analysis.row(arm.name)["paired_runs"]
        if 0 < compared < paired.sum():
            left = [size for size, runs in zip(benchmark.sizes, paired, strict=True) if runs == 1]
            texts.append(
                f"“{arm.title}”: the one pair of runs at {listing(left)} tells nothing of luck and does not count "
                "in all sizes "
                "together."
            )
        elif not compared and benchmark.done[index].any():
            texts.append(f"“{arm.title}”: no pair of runs is done.")
    return texts


def _repeats(analysis: Analysis) -> list[str]:
    benchmark = analysis.benchmark
    rows = [analysis.row(benchmark.arms[index].name) for index in benchmark.treatments]
    if not any(math.isfinite(row["p_both"]) for row in rows):
        return [
            "With one repeat the luck of a run can't be told from an effect, so there is no test over runs, and "
            "the verdict "
            "can be neither “helps” nor “harms”. Two repeats are the least, three to five are better."
        ]
    seen = [row["detectable"] for row in rows if math.isfinite(row["detectable"])]
    text = f"With {len(benchmark.repeats)} repeats at {len(benchmark.sizes)} size{'s' * (len(benchmark.sizes) > 1)}"
    return [
        f"{text}, an effect of {points(float(np.median(seen)), sign=False)} Dice points would have been found with a "
        "probability of 80 %; smaller ones more often not. No evidence is no evidence of nothing: the intervals "
        "say what is "
        "left possible."
    ]


def _yardstick(analysis: Analysis) -> list[str]:
    benchmark = analysis.benchmark
    if benchmark.again is None:
        return []
    row = analysis.row(benchmark.arms[benchmark.again].name)
    if not math.isfinite(row["difference"]):
        return []
    text = (
        f"nnU-Net alone, run again with other seeds, differs from itself by {points(row['difference'])} Dice points "
        f"({interval(row['low'], row['high'], scale=100)})."
    )
    if row["p_cases"] <= 1 - LEVEL:
        text += f" A test over cases alone would call that an effect (p {probability(row['p_cases'])}), falsely."
    return [text]


def _others(analysis: Analysis) -> list[str]:
    """Arms without synthetic pairs."""
    benchmark = analysis.benchmark
    others = (
        [index for index in benchmark.treatments if index not in benchmark.synthetic] if benchmark.synthetic else []
    )
    texts = []
    for index in others:
        row = analysis.row(benchmark.arms[index].name)
        texts.append(
            f"For comparison, without any synthetic pair: “{benchmark.arms[index].title}”, "
            f"{points(row['difference'])} Dice points "
            f"({interval(row['low'], row['high'], scale=100)}), {judge_row(row).value}."
        )
    return texts


def _sizes(analysis: Analysis) -> list[str]:
    """Sizes that say something where all sizes together do not."""
    benchmark, texts = analysis.benchmark, []
    if len(benchmark.sizes) == 1:
        return []
    for index in benchmark.treatments:
        arm = benchmark.arms[index]
        if judge_row(analysis.row(arm.name)) is not Effect.NO_EVIDENCE:
            continue
        for size in benchmark.sizes:
            row = analysis.row(arm.name, size)
            if (effect := judge_row(row)) in (Effect.HELPS, Effect.HARMS):
                texts.append(
                    f"“{arm.title}” {effect.value} at {size} training cases by itself ({points(row['difference'])} "
                    "Dice points), "
                    "though not over all sizes. That is one look of "
                    f"{len(benchmark.sizes) * len(benchmark.treatments)}, and "
                    "a question for a benchmark of its own."
                )
    return texts


def _undefined(analysis: Analysis) -> list[str]:
    """HD95 forgives an arm that finds nothing; say where that happens."""
    texts = []
    for metric, title in (("dice", "Dice"), ("hd95", "HD95")):
        counts = [
            f"“{arm.title}” {int(count)}"
            for arm in analysis.benchmark.arms
            if (count := analysis.row(arm.name, POOLED, CLASSES, metric).get("undefined", 0)) > 0
        ]
        if counts:
            texts.append(
                f"Scores whose {title} is undefined for the arm or for nnU-Net alone, and which were left out: "
                f"{', '.join(counts)}."
            )
    return texts


def _few_cases(analysis: Analysis) -> list[str]:
    """Of which those of one subject count once."""
    cases, subjects = len(analysis.benchmark.cases), int(analysis.benchmark.subjects.max()) + 1
    texts = []
    if subjects < cases:
        texts.append(
            f"The {cases} test cases are of {subjects} subjects. Cases of a subject are averaged, and wherever "
            "this report "
            "says case, it is the subjects that are tested and drawn."
        )
    if subjects < 20:
        least = f" With {subjects}, Wilcoxon's test can't reach 5 % at all." if subjects < 6 else ""
        kind = "subjects" if subjects < cases else "test cases"
        texts.append(f"There are only {subjects} {kind}; what holds for them may not hold for others.{least}")
    return texts
