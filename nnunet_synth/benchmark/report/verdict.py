"""The sentence at the top: whether synthetic pairs or pseudo-labels help, where, by how much, and at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from nnunet_synth.benchmark.analysis import Analysis
from nnunet_synth.benchmark.protocol import Effect
from nnunet_synth.pages.formatting import count, interval, listing, number, percent, points, probability

# One arm that helps is enough; to harm, all must.
ORDER = (Effect.HELPS, Effect.NO_EVIDENCE, Effect.EQUIVALENT, Effect.HARMS)
OPENINGS = {
    Effect.HELPS: "{} help",
    Effect.HARMS: "{} harm",
    Effect.EQUIVALENT: "{} do not matter",
    Effect.NO_EVIDENCE: "no evidence that {} help",
}
UNDECIDED = "it is not decided yet whether {} help"  # while planned training sets are left
VERBS = {Effect.HELPS: "raises", Effect.HARMS: "lowers"}


@dataclass(frozen=True)
class Verdict:
    """What can be said of synthetic pairs or pseudo-labels: in a word, and in a sentence."""

    effect: Effect
    sentence: str


def conclude(analysis: Analysis) -> Verdict:
    """The verdict on the arms with generated pairs or pseudo-labels at all sizes; on all arms where there is none."""
    benchmark, design = analysis.benchmark, analysis.benchmark.design
    arms = [benchmark.arms[index] for index in benchmark.synthetic or benchmark.treatments]
    rows = [(arm, size, analysis.row(arm.name, size)) for arm in arms for size in design.sizes]
    subject, place = benchmark.subject, f"on {design.dataset} ({design.configuration})"
    effect = next((e for e in ORDER if any(row["effect"] == e.value for *_, row in rows)), Effect.NOTHING)
    if effect is Effect.NOTHING:
        text = f"nothing can be said yet about {subject} {place}: only runs of nnU-Net alone are done"
    else:
        of_effect = [found for found in rows if found[2]["effect"] == effect.value]
        best, size, row = max(of_effect, key=lambda found: found[2]["difference"])
        harmful = dict.fromkeys(f"“{arm.title}”" for arm, _, found in rows if found["effect"] == Effect.HARMS.value)
        if harmful and effect is Effect.HELPS:
            subject = f"some {subject.removeprefix('the ')}"
        planned = design.sets_of(size)
        open_yet = effect is Effect.NO_EVIDENCE and row["sets"] < planned
        opening = (UNDECIDED if open_yet else OPENINGS[effect]).format(subject)
        text = f"{opening} {place}: with {count(size, 'training case')}, “{best.title}” {_amount(row, effect, planned)}"
        if effect is Effect.HELPS and math.isfinite(share := row["share_of_oracle"]):
            text += f", {percent(share)} of what true labels of all cases gain"
        if math.isfinite(factor := analysis.costs[best.name][1]):
            text += f"; the cost is {number(factor, 1)} times the computing time of nnU-Net alone"
        if harmful and effect is not Effect.HARMS:
            text += f"; {listing([*harmful])} {'harm' if len(harmful) > 1 else 'harms'}"
    text = f"in a quick benchmark, {text}" if design.quick else text
    return Verdict(effect, text[0].upper() + text[1:] + ".")


def _amount(row: pd.Series, effect: Effect, planned: int) -> str:
    """`raises mean Dice by 1.9 points (95 % interval 1.0 to 2.8, p 0.002, 6 of 12 training sets)`."""
    sign = -1 if effect is Effect.HARMS else 1
    limits = sorted((sign * row["low"], sign * row["high"]))
    facts = [f"95 % interval {interval(*limits, scale=100)}"] * math.isfinite(row["low"])
    facts += [f"p {probability(row['p_holm'])}"] * math.isfinite(row["p_holm"])
    amount = points(sign * row["difference"], sign=effect not in VERBS)
    of_planned = f"{row['sets']:.0f} of " if row["sets"] < planned else ""
    facts = ", ".join([*facts, of_planned + count(planned, "training set")])
    return f"{VERBS.get(effect, 'changes')} mean Dice by {amount} points ({facts})"
