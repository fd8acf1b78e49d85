"""Whether masks fit their images: Dice of the generated mask and nnU-Net's segmentation of the generated image."""

from __future__ import annotations

import numpy as np

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register


def overlaps(label: np.ndarray, segmentation: np.ndarray, values: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Twice the intersections, and the sums of both sizes, per patch and class: `[N, K]` each."""
    flat, segmented = label.reshape(len(label), -1), segmentation.reshape(len(segmentation), -1)
    masks = [(flat == value, segmented == value) for value in values]
    twice = np.stack([2 * (a & b).sum(axis=1) for a, b in masks], axis=1)
    return twice, np.stack([a.sum(axis=1) + b.sum(axis=1) for a, b in masks], axis=1)


def dice(twice: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`[K]`: Dice of each class over all patches together; NaN where neither side ever shows it."""
    with np.errstate(invalid="ignore"):
        return twice.sum(axis=0) / sizes.sum(axis=0)


@register
class SegmentationAgreement(Metric):
    """Mean Dice over the classes, each in the details; voxels outside of the image count as background.

    The same on real patches is the value to reach. On *training* patches it is too high, since nnU-Net has learnt them;
    what new pairs should reach is nearer to its Dice on validation cases.
    """

    name = "agreement"
    title = "Dice, mask and nnU-Net"
    better = "higher"
    needs = ("image", "label", "class", "nnunet")

    def __call__(self, comparison: Comparison) -> Result:
        segmentation = comparison.nnunet.segment(comparison.generated)
        twice, sizes = overlaps(comparison.generated.label, segmentation, comparison.labels)
        groups = comparison.jackknife_groups(GROUPS)[1]

        def mean_dice(_: np.ndarray, keep: np.ndarray) -> np.ndarray:
            parts = dice(twice[keep], sizes[keep])
            return np.array([np.nanmean(parts), *parts])

        values, errors = jackknife(mean_dice, groups, groups)
        named = zip(comparison.labels, values[1:], strict=True)
        details = {f"class {label}": float(value) for label, value in named if not np.isnan(value)}
        return Result(float(values[0]), float(errors[0]), details)
