"""Whether mask and image fit: what an nnU-Net trained on real cases says of a drawn image, against the drawn mask."""

from __future__ import annotations

import numpy as np

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features_nnunet import NnUNet
from stylegan2_cond.metrics.jackknife import GROUPS, jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register


def overlaps(label: np.ndarray, said: np.ndarray, values: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Twice the intersections, and the sums of both sizes, per patch and class: `[N, K]` each."""
    flat, told = label.reshape(len(label), -1), said.reshape(len(said), -1)
    masks = [(flat == value, told == value) for value in values]
    twice = np.stack([2 * (a & b).sum(axis=1) for a, b in masks], axis=1)
    return twice, np.stack([a.sum(axis=1) + b.sum(axis=1) for a, b in masks], axis=1)


def dice(twice: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`[K]`: Dice of each class over all patches together; NaN where neither side ever shows it."""
    with np.errstate(invalid="ignore"):
        return twice.sum(axis=0) / sizes.sum(axis=0)


def agreement(nnunet: NnUNet, samples: SampleSet, values: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`overlaps` of the samples' masks and of what nnU-Net says; voxels outside of the image count as background."""
    return overlaps(samples.label, nnunet.segment(samples), values)


@register
class Agreement(Metric):
    """Mean Dice over the classes; its real counterpart in the details, and near 1 means: fits as well as real pairs.

    Dice on real *training* patches is flattered, since nnU-Net learnt them; the truth for new pairs is nearer to its
    Dice on validation cases.
    """

    name = "agreement"
    title = "Dice, mask and nnU-Net"
    better = "higher"
    needs = ("label", "nnunet")

    def refusal(self, comparison: Comparison) -> str | None:
        reason = super().refusal(comparison)
        return reason or (None if comparison.labels else "needs masks with a class; all patches are background")

    def __call__(self, comparison: Comparison) -> Result:
        twice, sizes = agreement(comparison.nnunet, comparison.drawn, comparison.labels)
        groups = comparison.groups(GROUPS)[1]

        def mean_dice(_: np.ndarray, keep: np.ndarray) -> np.ndarray:
            parts = dice(twice[keep], sizes[keep])
            return np.array([np.nanmean(parts), *parts])

        values, errors = jackknife(mean_dice, groups, groups)
        named = zip(comparison.labels, values[1:], strict=True)
        details = {f"class {label}": float(value) for label, value in named if not np.isnan(value)}
        return Result(float(values[0]), float(errors[0]), details)
