"""The sentence at the top: whether synthetic pairs or pseudo-labels help, where, by how much, and at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

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
    Effect.HELPS: "{subject} help",
    Effect.HARMS: "{subject} harm",
    Effect.NO_EVIDENCE: "no evidence that {subject} help",
    Effect.TOO_FEW: "not enough runs to say whether {subject} help",
}
VERBS = {Effect.HELPS: "raises", Effect.HARMS: "lowers"}


@dataclass(frozen=True)
class Verdict:
    """What can be said of synthetic pairs or pseudo-labels: in a word, and in a sentence."""

    effect: Effect
    sentence: str


def effect_of(difference: float, p_cases: float, p_both: float, p_noise: float = math.nan) -> Effect:
    """An effect is significant over cases and over runs, and larger than what nnU-Net alone shows against itself.

    Args:
        difference: mean of the arm minus nnU-Net alone, in Dice.
        p_cases, p_both: Holm-corrected over the arms.
        p_noise: how often nnU-Net alone differs from itself as much; NaN where no arm measures it.
    """
    if not math.isfinite(difference):
        return Effect.NOTHING
    if not (math.isfinite(p_cases) and math.isfinite(p_both)):
        return Effect.TOO_FEW
    if max(p_cases, p_both) > 1 - LEVEL + 1e-12 or difference == 0 or p_noise > 1 - LEVEL:
        return Effect.NO_EVIDENCE
    return Effect.HELPS if difference > 0 else Effect.HARMS


def effect_of_row(row: pd.Series) -> Effect:
    """The same for a row of an analysis' table."""
    p_noise = row["p_noise"] if row["noise_measured"] else math.nan
    return effect_of(row["difference"], row["p_cases_holm"], row["p_both_holm"], p_noise)


def conclude(analysis: Analysis) -> Verdict:
    """The verdict on the arms with generated pairs or pseudo-labels over all sizes; on all arms where there is none."""
    benchmark = analysis.benchmark
    arms = [benchmark.arms[index] for index in benchmark.synthetic or benchmark.treatments]
    rows = {arm.name: analysis.row(arm.name) for arm in arms}
    effects = {name: effect_of_row(row) for name, row in rows.items()}
    subject, place = benchmark.subject, f"on {benchmark.design.dataset} ({benchmark.design.configuration})"
    kind = next((effect for effect in ORDER if effect in effects.values()), Effect.NOTHING)
    if kind is Effect.NOTHING:
        text = f"nothing can be said yet about {subject} {place}: only runs of nnU-Net alone are done"
    else:
        best = max((arm for arm in arms if effects[arm.name] is kind), key=lambda arm: rows[arm.name]["difference"])
        row, compared = rows[best.name], sum(effect is not Effect.NOTHING for effect in effects.values())
        sizes = [size for size in benchmark.sizes if analysis.row(best.name, size)["paired_runs"] > 0]
        chosen = f"the arm “{best.title}”"
        if compared > 1 and kind is not Effect.HELPS:
            chosen = f"the best of {compared} arms, “{best.title}”,"
        sign = -1 if kind is Effect.HARMS else 1  # lowers by 1.9 points, 1.0 to 2.8
        limits = sorted((sign * row["low"], sign * row["high"]))
        text = f"{OPENINGS[kind].format(subject=subject)} {place}: {chosen} {VERBS.get(kind, 'changes')} mean Dice by "
        text += f"{points(sign * row['difference'], sign=kind not in VERBS)} points "
        text += "" if kind is Effect.TOO_FEW else f"(95 % interval {interval(*limits, scale=100)}) "
        text += f"with {listing(sizes)} training cases{' pooled' if len(sizes) > 1 else ''}"
        if kind is Effect.NO_EVIDENCE and math.isfinite(row["p_noise"]):
            text += f"; nnU-Net alone differs from itself by as much with probability {probability(row['p_noise'])}"
        if math.isfinite(factor := analysis.costs[best.name].factor):
            text += f"; the cost is {number(factor, 1)} times the computing time of nnU-Net alone"
        if harmful := [f"“{a.title}”" for a in arms if effects[a.name] is Effect.HARMS and a is not best]:
            text += f"; {listing(harmful)} {'harm' if len(harmful) > 1 else 'harms'}"
    text = f"in a quick benchmark, {text}" if benchmark.design.quick else text
    return Verdict(kind, text[0].upper() + text[1:] + ".")
