"""The sentence at the top: whether synthetic pairs help, where, by how much, and at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.benchmark.statistics import LEVEL
from nnunet_synth.pages.formatting import interval, listing, number, points, probability


class Effect(Enum):
    """What can be said of an arm; the value is how a report says it."""

    HELPS = "helps"
    HARMS = "harms"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "not enough runs"
    NOTHING = "nothing to compare yet"


# One arm that helps is enough; to harm, all must.
ORDER = (Effect.HELPS, Effect.NO_EVIDENCE, Effect.HARMS, Effect.TOO_FEW)
OPENINGS = {
    Effect.HELPS: "{subject} help {place}: ",
    Effect.HARMS: "{subject} harm {place}: ",
    Effect.NO_EVIDENCE: "no evidence that {subject} help {place}: ",
    Effect.TOO_FEW: "not enough runs to say whether {subject} help {place}: ",
}


@dataclass(frozen=True)
class Verdict:
    """What can be said of synthetic pairs: in a word, and in a sentence."""

    effect: Effect
    sentence: str


def effect_of(
    difference: float, rank_biserial: float, p_cases: float, p_both: float, p_noise: float = math.nan
) -> Effect:
    """An effect is significant over cases and over runs, and larger than what nnU-Net alone shows against itself.

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


def effect_of_row(row: pd.Series) -> Effect:
    """The same for a row of an analysis' table."""
    p_noise = row["p_noise"] if row.get("noise_measured") else math.nan
    return effect_of(row["difference"], row["rank_biserial"], row["p_cases_holm"], row["p_both_holm"], p_noise)


def conclude(analysis: Analysis) -> Verdict:
    """The verdict on the arms with synthetic pairs over all sizes; on all arms where none is known to have pairs."""
    benchmark = analysis.benchmark
    arms = benchmark.synthetic or benchmark.treatments
    rows = {index: analysis.row(benchmark.arms[index].name) for index in arms}
    effects = {index: effect_of_row(row) for index, row in rows.items()}
    subject = "synthetic pairs" if benchmark.synthetic else "the arms"
    place = f"on {benchmark.design.dataset} ({benchmark.design.configuration})"
    kind = next((effect for effect in ORDER if effect in effects.values()), Effect.NOTHING)
    if kind is Effect.NOTHING:
        text = f"nothing can be said yet about {subject} {place}: only runs of nnU-Net alone are done"
        return Verdict(kind, _sentence(benchmark.design.quick, text))
    best = max((index for index in arms if effects[index] is kind), key=lambda index: rows[index]["difference"])
    compared = [index for index in arms if effects[index] is not Effect.NOTHING]
    known = [index for index in compared if effects[index] is not Effect.TOO_FEW]
    text = OPENINGS[kind].format(subject=subject, place=place)
    text += _by_how_much(analysis, best, kind, len(known or compared)) + _where(analysis, best, kind)
    if kind is Effect.NO_EVIDENCE and math.isfinite(p_noise := rows[best]["p_noise"]):
        text += f"; nnU-Net alone differs from itself by as much with probability {probability(p_noise)}"
    if math.isfinite(factor := analysis.costs[benchmark.arms[best].name].factor):
        text += f"; the cost is {number(factor, 1)} times the computing time of nnU-Net alone"
    harmful = [f"“{benchmark.arms[i].title}”" for i in known if effects[i] is Effect.HARMS and i != best]
    if harmful:
        text += f"; {listing(harmful)} {'harm' if len(harmful) > 1 else 'harms'}"
    return Verdict(kind, _sentence(benchmark.design.quick, text))


def _sentence(quick: bool, text: str) -> str:
    text = f"in a quick benchmark, {text}" if quick else text
    return text[0].upper() + text[1:] + "."


def _by_how_much(analysis: Analysis, index: int, kind: Effect, arms: int) -> str:
    arm = analysis.benchmark.arms[index]
    row = analysis.row(arm.name)
    best = {1: "the arm “{}”", 2: "the better of two arms, “{}”,"}.get(arms, f"the best of {arms} arms, “{{}}”,")
    if kind is Effect.TOO_FEW:
        return (
            "with one run per size, chance and effect cannot be separated; "
            f"{best.format(arm.title)} changes mean Dice by {points(row['difference'])} points "
            f"({interval(row['cases_low'], row['cases_high'], scale=100)} for other cases; unknown for other runs)"
        )
    who = f"the arm “{arm.title}”" if kind is Effect.HELPS else best.format(arm.title)
    low, high, difference, verb = row["low"], row["high"], row["difference"], "raises"
    if kind is Effect.HARMS:  # lowers by 1.9 points, 1.0 to 2.8
        low, high, difference, verb = -high, -low, -difference, "lowers"
    elif kind is Effect.NO_EVIDENCE:
        verb = "changes"
    amount = points(difference, sign=kind is Effect.NO_EVIDENCE)
    return f"{who} {verb} mean Dice by {amount} points (95 % interval {interval(low, high, scale=100)})"


def _where(analysis: Analysis, index: int, kind: Effect) -> str:
    """The sizes that were pooled, and those that show the effect by themselves."""
    benchmark = analysis.benchmark
    rows = {size: analysis.row(benchmark.arms[index].name, size) for size in benchmark.sizes}
    sizes = [size for size, row in rows.items() if row["paired_runs"] > 0]
    if len(sizes) == 1:
        return f" with {sizes[0]} training cases"
    text = f" with {listing(sizes)} training cases pooled"
    if kind not in (Effect.HELPS, Effect.HARMS):
        return text
    alone = [size for size in sizes if effect_of_row(rows[size]) is kind]
    if len(alone) == len(sizes):
        return text + ", and at each size separately"
    return text + (f", and at {listing(alone)} separately" if alone else ", but at no size separately")
