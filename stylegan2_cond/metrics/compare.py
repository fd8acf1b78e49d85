"""Compare any two sets of patches by the metrics of the registry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import RANGE_QUANTILES
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import ExtractorSettings, FeatureExtractor, build_features
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.inputs import as_sample_set, check_comparable
from stylegan2_cond.metrics.registry import METRICS, Result, default_metrics


def compare(
    real: object,
    generated: object,
    metrics: Sequence[str] | None = None,
    features: str | FeatureExtractor | None = None,
    seed: int = 0,
    *,
    nnunet: NnUNet | None = None,
    reference: object | None = None,
    conditions: Conditions | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Result]:
    """Compare generated patches with real ones.

    Args:
        real, generated: patches, in any form that `as_sample_set` takes.
        metrics: names in the registry; all default ones that the input allows, when None.
        features: an extractor of image features, or its name; when None, that of `nnunet`, or random filters.
        seed: of all randomness.
        nnunet: trained on the real cases.
        reference: patches in which copies are searched for, perhaps with a margin; `real`, when None.
        conditions: of the generator, if the generated patches come with their condition vectors.
        progress: called with the name of each metric before it is computed.

    Returns:
        A result for each metric, by name.

    Raises:
        UserError: the patches can't be compared, a metric is unknown, or one of `metrics` can't be computed from this
            input.
    """
    real, generated = as_sample_set(real, "real patches"), as_sample_set(generated, "generated patches")
    reference = real if reference is None else as_sample_set(reference, "reference patches")
    if reference.case is None and np.array_equal(reference.image, real.image):
        reference = real  # so that each real patch is recognised as itself
    check_comparable(real, generated, "generated")
    check_comparable(real, reference, "reference", larger=True)
    if not isinstance(features, FeatureExtractor):
        channels = np.moveaxis(real.image, 1, 0).reshape(real.channels, -1)
        low, high = np.quantile(channels, RANGE_QUANTILES, axis=1)
        settings = ExtractorSettings(tuple(low.tolist()), tuple(high.tolist()), nnunet=nnunet)
        features = build_features(features, settings)
    comparison = Comparison(
        real, generated, features=features, nnunet=nnunet, reference=reference, conditions=conditions, seed=seed
    )
    names = default_metrics() if metrics is None else check_names(metrics)
    names, _ = allowed_metrics(comparison, names, required=metrics is not None)
    return compute_metrics(comparison, names, progress)


def compute_metrics(
    comparison: Comparison, names: Sequence[str], progress: Callable[[str], None] = lambda name: None
) -> dict[str, Result]:
    """Results by name, of metrics that the comparison allows."""
    results = {}
    for name in names:
        progress(name)
        results[name] = METRICS[name](comparison)
    return results


def allowed_metrics(
    comparison: Comparison, names: Sequence[str], *, required: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Which of these metrics can be computed, and by name the reasons why others can't.

    Raises:
        UserError: they are required, and one can't be computed.
    """
    reasons = {name: reason for name in names if (reason := METRICS[name].refusal(comparison)) is not None}
    if required and reasons:
        raise UserError("; ".join(f"{name} {reason}" for name, reason in reasons.items()) + ".")
    return [name for name in names if name not in reasons], reasons


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of metrics, in the order of the registry.

    Raises:
        UserError: one of them is unknown.
    """
    for name in names:
        if name not in METRICS:
            nearest = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.4)
            hint = f"Did you mean {nearest[0]}? " if nearest else ""
            raise UserError(f"There is no metric '{name}'. {hint}Available: {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in names)
