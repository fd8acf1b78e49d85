"""What masks look like: presence, area, components, holes, boundary and position of each class, real against drawn."""

from __future__ import annotations

import math
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
        `[N]` floats by name: `presence` (0 or 1); `area` (share of the voxels); `components` (face-connected pieces);
        `holes` (pieces of anything else that the class encloses); `boundary` (faces between the class and anything
        else, per voxel of the patch; the patch's own rim does not count); `y`, `x` and in 3-D `z` (centre of mass,
        as a share of the axis; NaN where the class is not shown).
    """
    mask = label == value
    dims, inner = mask.ndim - 1, range(1, mask.ndim)
    flat = mask.reshape(len(mask), -1)
    voxels = flat.shape[1]
    area = flat.sum(axis=1)
    found = {
        "presence": (area > 0).astype(float),
        "area": area / voxels,
        "components": _pieces(mask, connectivity=1),
        "holes": _holes(mask),
        "boundary": sum(np.diff(mask, axis=axis).reshape(len(mask), -1).sum(axis=1) for axis in inner) / voxels,
    }
    with np.errstate(invalid="ignore"):
        for axis, name in zip(inner, AXES[-dims:], strict=True):
            along = mask.sum(axis=tuple(other for other in inner if other != axis))
            places = (np.arange(mask.shape[axis]) + 0.5) / mask.shape[axis]
            found[name] = along @ places / area
    return {name: np.asarray(values, float) for name, values in found.items()}


def _structure(dims: int, connectivity: int) -> np.ndarray:
    """Neighbourhood within a patch, none between patches."""
    inner = ndimage.generate_binary_structure(dims, connectivity)
    return np.stack([np.zeros_like(inner), inner, np.zeros_like(inner)])


def _pieces(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """`[N]`: connected pieces of each patch."""
    labelled, count = ndimage.label(mask, _structure(mask.ndim - 1, connectivity))
    first = np.unique(labelled.reshape(-1), return_index=True)[1][-count:] if count else np.empty(0, int)
    return np.bincount(first // math.prod(mask.shape[1:]), minlength=len(mask))


def _holes(mask: np.ndarray) -> np.ndarray:
    """`[N]`: pieces of the complement that do not touch the patch's rim; diagonal neighbours belong together."""
    complement = ~mask
    rim = np.ones(mask.shape[1:], bool)
    rim[(slice(1, -1),) * rim.ndim] = False
    labelled, count = ndimage.label(complement, _structure(mask.ndim - 1, mask.ndim - 1))
    if not count:
        return np.zeros(len(mask), int)
    first = np.unique(labelled.reshape(-1), return_index=True)[1][-count:]
    owner = first // math.prod(mask.shape[1:])
    touching = np.zeros(count + 1, bool)
    touching[labelled[:, rim].reshape(-1)] = True
    return np.bincount(owner[~touching[1:]], minlength=len(mask))


def mask_distances(real: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> np.ndarray:
    """Wasserstein distance of each descriptor, in pooled standard deviations: 0 for equal distributions, at most 2.

    Patches without a value (NaN) take no part; NaN where one side has no value at all.
    """
    distances = []
    for ours, theirs in zip(real, drawn, strict=True):
        ours, theirs = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
        if not len(ours) or not len(theirs):
            distances.append(np.nan)
            continue
        pooled = np.sqrt((_moment(ours, theirs)).clip(0))
        distances.append(wasserstein_distance(ours, theirs) / pooled if pooled > 1e-12 else 0.0)
    return np.array(distances)


def _moment(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Variance of the half-and-half mixture of two samples."""
    return (ours.var() + theirs.var()) / 2 + (ours.mean() - theirs.mean()) ** 2 / 4


@register
class Masks(Metric):
    """Mean over classes and descriptors of the Wasserstein distances, in pooled standard deviations."""

    name = "masks"
    title = "masks"
    needs = ("label",)

    def refusal(self, comparison: Comparison) -> str | None:
        reason = super().refusal(comparison)
        return reason or (None if comparison.labels else "needs masks with a class; all patches are background")

    def __call__(self, comparison: Comparison) -> Result:
        described = {label: _both(comparison, label) for label in comparison.labels}
        names = [f"{label} {name}" for label in described for name in described[label][0]]
        real, drawn = ([side[n] for side in (pair[i] for pair in described.values()) for n in side] for i in (0, 1))

        def distances(keep_real: np.ndarray, keep_drawn: np.ndarray) -> np.ndarray:
            parts = mask_distances([values[keep_real] for values in real], [values[keep_drawn] for values in drawn])
            return np.array([np.nanmean(parts), *parts])

        values, errors = jackknife(distances, *comparison.groups(GROUPS))
        details = {name: float(value) for name, value in zip(names, values[1:], strict=True) if not np.isnan(value)}
        return Result(float(values[0]), float(errors[0]), details, _missing(comparison))


def _both(comparison: Comparison, label: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return describe_masks(comparison.real.label, label), describe_masks(comparison.drawn.label, label)


def _missing(comparison: Comparison) -> str | None:
    """Which classes one side never shows."""
    problems = [
        f"class {label} never {word}"
        for side, word in ((comparison.real, "real"), (comparison.drawn, "drawn"))
        for label in comparison.labels
        if not (side.label == label).any()
    ]
    return ", ".join(problems) or None
