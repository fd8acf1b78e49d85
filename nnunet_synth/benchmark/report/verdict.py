"""The one sentence at the top: helps, no evidence that it helps, or harms; where, by how much, at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.analysis import Analysis, analyse
from nnunet_synth.benchmark.report.formatting import interval, listing, number, points, probability
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.statistics import LEVEL, Comparison


class Effect(Enum):
    """What can be said of an arm; the value is how a report says it."""

    HELPS = "helps"
    HARMS = "harms"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "not enough repeats"
    NOTHING = "nothing to compare yet"


# One arm that helps is enough; to harm, all must.
ORDER = (Effect.HELPS, Effect.NO_EVIDENCE, Effect.HARMS, Effect.TOO_FEW)


@dataclass(frozen=True)
class Verdict:
    """What can be said of synthetic pairs: in a word, and in a sentence."""

    effect: Effect
    sentence: str


def verdict(folder: Path) -> str:
    """The sentence for a benchmark's folder.

    Raises:
        UserError: the tables are not whole.
    """
    return conclude(analyse(read_benchmark(folder), briefly=True)).sentence


def effect_of(
    difference: float, rank_biserial: float, p_cases: float, p_both: float, p_noise: float = math.nan
) -> Effect:
    """An effect is one that cases and runs both attest, after Holm, and that nnU-Net alone hardly has to itself.

    Args:
        difference: mean of the arm minus nnU-Net alone, in Dice.
        rank_biserial: over cases.
        p_cases, p_both: Holm-corrected over the arms.
        p_noise: how often nnU-Net alone differs from itself as much; NaN where no arm measures it.
    """
    if not math.isfinite(difference):
        return Effect.NOTHING
    if not (math.isfinite(p_cases) and math.isfinite(p_both)):
        return Effect.TOO_FEW
    agreed = max(p_cases, p_both) <= 1 - LEVEL + 1e-12 and np.sign(difference) == np.sign(rank_biserial)
    if not agreed or difference == 0 or p_noise > 1 - LEVEL:
        return Effect.NO_EVIDENCE
    return Effect.HELPS if difference > 0 else Effect.HARMS


def judge(found: Comparison) -> Effect:
    """The effect of an arm among those that it was compared with."""
    return effect_of(found.difference, found.rank_biserial, found.adjusted["p_cases"], found.adjusted["p_both"])


def judge_row(row: pd.Series) -> Effect:
    """The same of a row of an analysis' table."""
    p_noise = row["p_noise"] if row.get("noise_measured") else math.nan
    return effect_of(row["difference"], row["rank_biserial"], row["p_cases_holm"], row["p_both_holm"], p_noise)


def conclude(analysis: Analysis) -> Verdict:
    """The verdict on the arms with synthetic pairs, over all sizes; on all arms where none is known to have them."""
    benchmark = analysis.benchmark
    judged = benchmark.synthetic or benchmark.treatments
    rows = {index: analysis.row(benchmark.arms[index].name) for index in judged}
    effects = {index: judge_row(row) for index, row in rows.items()}
    told = [index for index in judged if effects[index] is not Effect.NOTHING]
    subject = "synthetic pairs" if benchmark.synthetic else "the arms"
    place = f"on {benchmark.design.dataset} ({benchmark.design.configuration})"
    if not told:
        text = f"nothing can be said yet of {subject} {place}: no run of an arm but nnU-Net alone is done"
        return Verdict(Effect.NOTHING, _sentence(benchmark.design.quick, text))
    kind = next(effect for effect in ORDER if effect in effects.values())
    best = max((i for i in judged if effects[i] is kind), key=lambda i: rows[i]["difference"])
    known = [index for index in told if effects[index] is not Effect.TOO_FEW]
    text = {
        Effect.HELPS: f"{subject} help {place}: ",
        Effect.HARMS: f"{subject} harm {place}: ",
        Effect.NO_EVIDENCE: f"no evidence that {subject} help {place}: ",
        Effect.TOO_FEW: f"not enough repeats to say whether {subject} help {place}: ",
    }[kind]
    text += _by_how_much(analysis, best, kind, len(known or told)) + _where(analysis, best, kind)
    text += _as_noise(rows[best], kind) + _at_what_cost(analysis, best)
    harmful = [index for index in known if effects[index] is Effect.HARMS and index != best]
    if harmful:
        titles = listing([f"“{benchmark.arms[index].title}”" for index in harmful])
        text += f"; {titles} {'harm' if len(harmful) > 1 else 'harms'}"
    return Verdict(kind, _sentence(benchmark.design.quick, text))


def _sentence(quick: bool, text: str) -> str:
    text = f"in a quick run, {text}" if quick else text
    return text[0].upper() + text[1:] + "."


def _by_how_much(analysis: Analysis, index: int, kind: Effect, arms: int) -> str:
    row, title = analysis.row(analysis.benchmark.arms[index].name), analysis.benchmark.arms[index].title
    best = {1: "the arm “{}”", 2: "the better of two arms, “{}”,"}.get(arms, f"the best of {arms} arms, “{{}}”,")
    if kind is Effect.TOO_FEW:
        told = interval(row["cases_low"], row["cases_high"], scale=100)
        return (
            f"with one run of each, luck can't be told from an effect; {best.format(title)} changes mean Dice by "
            f"{points(row['difference'])} points ({told} for other cases, and nobody knows for other runs)"
        )
    turned = kind is Effect.HARMS  # lowered by 1.9 points, 1.0 to 2.8
    told = interval(*((-row["high"], -row["low"]) if turned else (row["low"], row["high"])), scale=100)
    amount = points(-row["difference"] if turned else row["difference"], sign=kind is Effect.NO_EVIDENCE)
    verb = {Effect.HELPS: "raises", Effect.HARMS: "lowers", Effect.NO_EVIDENCE: "changes"}[kind]
    who = f"the arm “{title}”" if kind is Effect.HELPS else best.format(title)
    return f"{who} {verb} mean Dice by {amount} points (95 % interval {told})"


def _where(analysis: Analysis, index: int, kind: Effect) -> str:
    """The sizes that were pooled, and those that show the effect by themselves."""
    benchmark = analysis.benchmark
    rows = {size: analysis.row(benchmark.arms[index].name, size) for size in benchmark.sizes}
    sizes = [size for size, row in rows.items() if row["paired_runs"] > 0]
    if len(sizes) == 1:
        return f" with {sizes[0]} training cases"
    text = f" with {listing(sizes)} training cases taken together"
    if kind not in (Effect.HELPS, Effect.HARMS):
        return text
    alone = [size for size in sizes if judge_row(rows[size]) is kind]
    if len(alone) == len(sizes):
        return text + " and at each size by itself"
    return text + (f" and at {listing(alone)} by itself" if alone else ", though at no size by itself")


def _as_noise(row: pd.Series, kind: Effect) -> str:
    if kind is not Effect.NO_EVIDENCE or not math.isfinite(row["p_noise"]):
        return ""
    return f", a difference that nnU-Net alone has to itself with a probability of {probability(row['p_noise'])}"


def _at_what_cost(analysis: Analysis, index: int) -> str:
    factor = analysis.costs[analysis.benchmark.arms[index].name].factor
    return f", at {number(factor, 1)} times the computing of nnU-Net alone" if math.isfinite(factor) else ""
