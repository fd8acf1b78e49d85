"""Compare any two sets of patches by the metrics of the registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import RANGE_QUANTILES
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import Features, Setting, build_features
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.inputs import as_sample_set, check_comparable
from stylegan2_cond.metrics.registry import METRICS, Result, default_metrics


def compare(
    real: object,
    drawn: object,
    metrics: Sequence[str] | None = None,
    features: str | Features | None = None,
    seed: int = 0,
    *,
    nnunet: NnUNet | None = None,
    reference: object | None = None,
    conditions: Conditions | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Result]:
    """Judge drawn patches by real ones.

    Args:
        real, drawn: patches, in any form that `as_sample_set` takes.
        metrics: names of the registry; all the default ones that this input allows, when None.
        features: of images, an extractor or the name of one; what `nnunet` sees when there is one, else a random
            pyramid, when None.
        seed: of all randomness.
        nnunet: trained on the real cases.
        reference: patches among which copies are looked for, perhaps with a margin; `real`, when None.
        conditions: of the generator, where the drawn patches know what they were asked for.
        progress: is told the name of each metric before it is computed.

    Returns:
        A result for each metric, by name.

    Raises:
        UserError: patches that can't be compared, an unknown metric, or one that was asked for and that this input
            does not allow.
    """
    real, drawn = as_sample_set(real, "real patches"), as_sample_set(drawn, "drawn patches")
    reference = real if reference is None else as_sample_set(reference, "reference patches")
    if reference.case is None and np.array_equal(reference.image, real.image):
        reference = real  # and so each real patch knows which one it is itself
    check_comparable(real, drawn, "drawn")
    check_comparable(real, reference, "reference", larger=True)
    if not isinstance(features, Features):
        features = build_features(features, Setting(*_robust_range(real), nnunet=nnunet))
    comparison = Comparison(
        real, drawn, features=features, nnunet=nnunet, reference=reference, conditions=conditions, seed=seed
    )
    chosen = default_metrics() if metrics is None else check_names(metrics)
    refused = refusals(comparison, chosen)
    if metrics is not None and refused:
        raise UserError("; ".join(f"{name} {reason}" for name, reason in refused.items()) + ".")
    return judge(comparison, [name for name in chosen if name not in refused], progress)


def judge(
    comparison: Comparison, names: Sequence[str], progress: Callable[[str], None] = lambda name: None
) -> dict[str, Result]:
    """The results of metrics that the comparison allows."""
    results = {}
    for name in names:
        progress(name)
        results[name] = METRICS[name](comparison)
    return results


def refusals(comparison: Comparison, names: Sequence[str]) -> dict[str, str]:
    """Why the comparison can't have some of these metrics, by name."""
    reasons = {name: METRICS[name].refusal(comparison) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, in the order of the table.

    Raises:
        UserError: one of them is unknown.
    """
    for name in names:
        if name not in METRICS:
            nearest = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.4)
            hint = f"Did you mean {nearest[0]}? " if nearest else ""
            raise UserError(f"There is no metric '{name}'. {hint}There are: {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in names)


def _robust_range(samples: SampleSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, the intensities that nearly all voxels lie between."""
    channels = np.moveaxis(samples.image, 1, 0).reshape(samples.channels, -1)
    low, high = np.quantile(channels, RANGE_QUANTILES, axis=1)
    return tuple(low.tolist()), tuple(high.tolist())
