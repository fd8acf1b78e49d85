"""Presence, area, components, holes, boundary and position of each class, compared with those of real masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.stats import wasserstein_distance

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import GROUPS, jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register

AXES = "zyx"


def describe_masks(label: np.ndarray, value: int) -> dict[str, np.ndarray]:
    """Measure one class in each patch.

    Args:
        label: `[N, *spatial]` integers.
        value: the class.

    Returns:
        `[N]` floats by name: `presence` (0 or 1); `area` (fraction of the voxels); `components` (face-connected);
        `holes` (components of all else that the class encloses); `boundary` (faces between the class and anything else,
        per voxel of the patch, without the patch's border); `y`, `x` and in 3-D `z` (centre of mass, as a
        fraction of the axis; NaN where the class is not shown).
    """
    mask = label == value
    dims, inner = mask.ndim - 1, range(1, mask.ndim)
    flat = mask.reshape(len(mask), -1)
    voxels = flat.shape[1]
    area = flat.sum(axis=1)
    found = {
        "presence": (area > 0).astype(float),
        "area": area / voxels,
        "components": [ndimage.label(one)[1] for one in mask],
        # Around the patch, a rim of all else joins what touches the border; diagonal neighbours are connected there.
        "holes": [ndimage.label(np.pad(~one, 1, constant_values=True), np.ones([3] * dims))[1] - 1 for one in mask],
        "boundary": sum(np.diff(mask, axis=axis).reshape(len(mask), -1).sum(axis=1) for axis in inner) / voxels,
    }
    with np.errstate(invalid="ignore"):
        for axis, name in zip(inner, AXES[-dims:], strict=True):
            along = mask.sum(axis=tuple(other for other in inner if other != axis))
            places = (np.arange(mask.shape[axis]) + 0.5) / mask.shape[axis]
            found[name] = along @ places / area
    return {name: np.asarray(values, float) for name, values in found.items()}


def mask_distances(real: Sequence[np.ndarray], generated: Sequence[np.ndarray]) -> np.ndarray:
    """Wasserstein distance of each statistic, in pooled standard deviations: 0 for equal distributions, at most 2.

    Missing values (NaN) are left out; NaN where one side has no value at all.
    """
    distances = []
    for ours, theirs in zip(real, generated, strict=True):
        ours, theirs = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
        if not len(ours) or not len(theirs):
            distances.append(np.nan)
            continue
        mixture = (ours.var() + theirs.var()) / 2 + (ours.mean() - theirs.mean()) ** 2 / 4  # variance, half and half
        pooled = np.sqrt(mixture.clip(0))
        distances.append(wasserstein_distance(ours, theirs) / pooled if pooled > 1e-12 else 0.0)
    return np.array(distances)


@register
class Masks(Metric):
    """Mean over classes and statistics of the Wasserstein distances, in pooled standard deviations."""

    name = "masks"
    title = "masks"
    needs = ("label", "class")

    def __call__(self, comparison: Comparison) -> Result:
        sides = comparison.real, comparison.generated
        described = {label: [describe_masks(side.label, label) for side in sides] for label in comparison.labels}
        names = [f"{label} {name}" for label in described for name in described[label][0]]
        real, generated = ([side[n] for side in (pair[i] for pair in described.values()) for n in side] for i in (0, 1))

        def distances(keep_real: np.ndarray, keep_generated: np.ndarray) -> np.ndarray:
            parts = mask_distances(
                [values[keep_real] for values in real], [values[keep_generated] for values in generated]
            )
            return np.array([np.nanmean(parts), *parts])

        values, errors = jackknife(distances, *comparison.jackknife_groups(GROUPS))
        details = {name: float(value) for name, value in zip(names, values[1:], strict=True) if not np.isnan(value)}
        missing = [
            f"class {label} missing in {word} masks"
            for side, word in zip(sides, ("real", "generated"), strict=True)
            for label in comparison.labels
            if not (side.label == label).any()
        ]
        return Result(float(values[0]), float(errors[0]), details, ", ".join(missing) or None)
