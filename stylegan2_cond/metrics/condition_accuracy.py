"""Whether samples meet their conditions: the classes shown, the area of each, and the position in the volume."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

NEIGHBOURS = 5  # real patches whose mean position estimates that of a sample
FEWEST = 10  # samples for a rank correlation
CHUNK = 512  # samples whose distances to all real patches are held at once


@register
class ConditionAccuracy(Metric):
    """Fraction of samples that show exactly the classes of their condition.

    Details: `by chance`, what samples that ignore their condition would get; of each class, how often it is shown when
    it is part of the condition and when it is not, and Spearman's rank correlation of the area in the condition and the
    area shown, over samples where both are positive; `areas`, the mean of these correlations; and `position`, the rank
    correlation of the position in the condition and the mean position of the nearest real patches, of other cases, in
    feature space. Real patches meet what was measured on themselves, except for the position.
    """

    name = "conditions"
    title = "conditions met"
    better = "higher"
    needs = ("label",)

    def refusal(self, comparison: Comparison) -> str | None:
        """Needs conditions on the generated side."""
        conditions, sides = comparison.conditions, (comparison.real, comparison.generated)
        if reason := super().refusal(comparison):
            return reason
        if conditions is None or comparison.generated.condition is None:
            return "needs samples with their condition vectors"
        if not conditions.classes:
            return "needs conditions with at least one class"
        widths = {side.condition.shape[1] for side in sides if side.condition is not None}
        if widths != {conditions.width}:
            return f"needs conditions of width {conditions.width} (found {sorted(widths)})"
        return None

    def __call__(self, comparison: Comparison) -> Result:
        conditions, generated = comparison.conditions, comparison.generated
        wanted, wanted_areas, position = conditions.decode(torch.from_numpy(generated.condition))
        areas = conditions.shares(torch.from_numpy(generated.label)).numpy()
        wanted, shown = wanted.numpy(), areas > 0
        met = (wanted == shown).all(axis=1)
        groups = comparison.jackknife_groups(GROUPS)[1]
        value, error = jackknife(lambda _, keep: met[keep].mean(), groups, groups)
        details = {"by chance": chance(wanted, shown)}
        details |= class_details(conditions.classes, wanted, wanted_areas.numpy(), areas)
        if position is not None and comparison.real.condition is not None:
            details["position"] = rank_correlation(position.numpy(), estimate_positions(comparison))
        details = {name: figure for name, figure in details.items() if not np.isnan(figure)}
        return Result(float(value), float(error), details)


def chance(wanted: np.ndarray, shown: np.ndarray) -> float:
    """Probability that a random row of `wanted` equals a random row of `shown`, `[N, classes]` booleans each."""
    numbers = np.unique(np.concatenate([wanted, shown]), axis=0, return_inverse=True)[1].reshape(2, -1)
    frequencies = [np.bincount(side, minlength=numbers.max() + 1) / len(wanted) for side in numbers]
    return float(frequencies[0] @ frequencies[1])


def class_details(
    classes: tuple[int, ...], wanted: np.ndarray, wanted_areas: np.ndarray, areas: np.ndarray
) -> dict[str, float]:
    """How often each class is shown, and how closely its area follows the condition.

    Args:
        classes: their labels.
        wanted: `[N, classes]`, whether the class is part of the condition.
        wanted_areas: `[N, classes]`, in any unit that grows with the area.
        areas: `[N, classes]`, of the generated patches.

    Returns:
        Figures by name; NaN where there are too few samples.
    """
    shown = areas > 0
    details, correlations = {}, []
    for column, label in enumerate(classes):
        inside = wanted[:, column]
        both = inside & shown[:, column]
        correlations.append(rank_correlation(wanted_areas[both, column], areas[both, column]))
        details[f"{label} shown when in condition"] = _mean(shown[inside, column])
        details[f"{label} shown when not in condition"] = _mean(shown[~inside, column])
        details[f"{label} area"] = correlations[-1]
    return details | {"areas": _mean(np.array([one for one in correlations if not np.isnan(one)]))}


def estimate_positions(comparison: Comparison) -> np.ndarray:
    """`[M]`: mean position of the real patches of other cases that are nearest to each sample; NaN without any."""
    real, generated = comparison.features
    positions = comparison.conditions.decode(torch.from_numpy(comparison.real.condition))[2]
    cases = comparison.real.case, comparison.generated.case
    found = []
    for start in range(0, len(generated), CHUNK):
        distances = torch.cdist(generated[start : start + CHUNK], real)
        if cases[0] is not None and cases[1] is not None:
            distances[torch.from_numpy(cases[1][start : start + CHUNK, None] == cases[0])] = torch.inf
        nearest = distances.topk(min(NEIGHBOURS, len(real)), largest=False)
        found.append(positions[nearest.indices].masked_fill(nearest.values.isinf(), torch.nan).nanmean(dim=1))
    return torch.cat(found).numpy()


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of values `[N]` that are known on both sides; NaN for few values, or where one side is constant."""
    known = ~(np.isnan(one) | np.isnan(other))
    one, other = one[known], other[known]
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(one, other).statistic)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
