"""Whether samples are what they were asked to be: their classes, the area of each, and where in a volume they lie."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

NEIGHBOURS = 5  # real patches that tell where a sample seems to lie
FEWEST = 10  # samples that tell a rank correlation
CHUNK = 512  # samples whose distances to all real patches are held at once


@register
class ConditionsMet(Metric):
    """Share of the samples that show exactly the classes they were asked to show.

    Details: `by chance`, what samples would get that mind nothing; of each class, how often it is shown when asked
    for and when not, and the rank correlation (Spearman) of asked and drawn area among samples that were asked for it
    and show it; `areas`, the mean of these; and `position`, the rank correlation of the asked position and the mean
    position of the nearest real patches, of other cases, in feature space. Real patches meet what was measured on
    themselves, but for the position.
    """

    name = "conditions"
    title = "conditions met"
    better = "higher"
    needs = ("label",)

    def refusal(self, comparison: Comparison) -> str | None:
        conditions = comparison.conditions
        if reason := super().refusal(comparison):
            return reason
        if conditions is None or comparison.drawn.condition is None:
            return "needs samples that know what they were asked for"
        if not conditions.classes:
            return "needs classes to ask for, there are none"
        widths = {side.condition.shape[1] for side in (comparison.real, comparison.drawn) if side.condition is not None}
        if widths != {conditions.width}:
            return f"needs conditions of {conditions.width} numbers, there are such of {sorted(widths)}"
        return None

    def __call__(self, comparison: Comparison) -> Result:
        conditions, drawn = comparison.conditions, comparison.drawn
        asked, asked_areas, position = conditions.parts(torch.from_numpy(drawn.condition))
        shares = conditions.shares(torch.from_numpy(drawn.label)).numpy()
        asked, shown = asked.numpy(), shares > 0
        met = (asked == shown).all(axis=1)
        groups = comparison.groups(GROUPS)[1]
        value, error = jackknife(lambda _, keep: met[keep].mean(), groups, groups)
        details = {"by chance": chance(asked, shown)}
        details |= class_details(conditions.classes, asked, asked_areas.numpy(), shares)
        if position is not None and comparison.real.condition is not None:
            details["position"] = rank_correlation(position.numpy(), seeming_positions(comparison))
        details = {name: figure for name, figure in details.items() if not np.isnan(figure)}
        return Result(float(value), float(error), details)


def chance(asked: np.ndarray, shown: np.ndarray) -> float:
    """How often one of the rows `[N, classes]` asked for, and any of those shown, are the same."""
    numbers = np.unique(np.concatenate([asked, shown]), axis=0, return_inverse=True)[1].reshape(2, -1)
    wanted, there = (np.bincount(side, minlength=numbers.max() + 1) / len(asked) for side in numbers)
    return float(wanted @ there)


def class_details(
    classes: tuple[int, ...], asked: np.ndarray, asked_areas: np.ndarray, shares: np.ndarray
) -> dict[str, float]:
    """How often each class is shown, asked for or not, and how closely its area follows what was asked for.

    Args:
        classes: their labels.
        asked: `[N, classes]`, whether it was asked for.
        asked_areas: `[N, classes]`, in any unit that grows with the area.
        shares: `[N, classes]`, of the drawn patches.

    Returns:
        Figures by name; NaN where no sample tells.
    """
    shown = shares > 0
    details, ranks = {}, []
    for column, label in enumerate(classes):
        wanted = asked[:, column]
        both = wanted & shown[:, column]
        ranks.append(rank_correlation(asked_areas[both, column], shares[both, column]))
        details[f"{label} shown when asked"] = _share(shown[wanted, column])
        details[f"{label} shown when not asked"] = _share(shown[~wanted, column])
        details[f"{label} area"] = ranks[-1]
    known = [rank for rank in ranks if not np.isnan(rank)]
    return details | {"areas": float(np.mean(known)) if known else np.nan}


def seeming_positions(comparison: Comparison) -> np.ndarray:
    """`[M]`: mean position of the real patches nearest to each drawn one, its own case left out; NaN without any."""
    real, drawn = comparison.features
    positions = comparison.conditions.parts(torch.from_numpy(comparison.real.condition))[2]
    cases = comparison.real.case, comparison.drawn.case
    found = []
    for start in range(0, len(drawn), CHUNK):
        distances = torch.cdist(drawn[start : start + CHUNK], real)
        if cases[0] is not None and cases[1] is not None:
            distances[torch.from_numpy(cases[1][start : start + CHUNK, None] == cases[0])] = torch.inf
        nearest = distances.topk(min(NEIGHBOURS, len(real)), largest=False)
        found.append(positions[nearest.indices].masked_fill(nearest.values.isinf(), torch.nan).nanmean(dim=1))
    return torch.cat(found).numpy()


def rank_correlation(asked: np.ndarray, drawn: np.ndarray) -> float:
    """Spearman's, of values `[N]` that are numbers on both sides; NaN of few, or where one side does not vary."""
    known = ~(np.isnan(asked) | np.isnan(drawn))
    asked, drawn = asked[known], drawn[known]
    if len(asked) < FEWEST or np.ptp(asked) == 0 or np.ptp(drawn) == 0:
        return np.nan
    return float(spearmanr(asked, drawn).statistic)


def _share(shown: np.ndarray) -> float:
    return float(shown.mean()) if len(shown) else np.nan
