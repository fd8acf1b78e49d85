"""Masks between two real ones: after alignment, the signed distances to each class are interpolated.

Raya and Udupa (1990), Shape-based interpolation of multidimensional objects, IEEE Trans. Med. Imaging 9(1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from stylegan2_cond.data.mask_deformation import ATTEMPTS, field_of_view, keeps_classes, remove_specks


def blend(one: np.ndarray, other: np.ndarray, weight: float, *, spacing: Sequence[float] | None = None) -> np.ndarray:
    """A label map between two.

    Both are moved so that the centroids of their foregrounds meet, each the less the more it weighs. Then each class's
    signed distances are interpolated, and a voxel gets the label whose distance is the smallest. A class that only one
    map shows shrinks and vanishes. No other label appears and no specks split off; where too little of a class would be
    left, weights nearer to the map that weighs more are tried, and finally that map. Beyond the patch, its outermost
    voxels are repeated. A frame of `OUTSIDE` is that of the map that weighs more.

    Args:
        one, other: `[*spatial]` integers of the same shape, 2-D or 3-D.
        weight: of the other map: 0 gives the one and 1 the other, unchanged.
        spacing: of the voxels along each axis, e.g. in mm; 1 if None.

    Returns:
        The same shape and dtype, always a new array.
    """
    spacing = np.broadcast_to(1.0 if spacing is None else np.asarray(spacing, float), one.ndim)
    labels, nearest = (one, other), round(weight)
    views = [field_of_view(label) for label in labels]
    corners = [np.array([side.start for side in view]) for view in views]
    centroids = _foreground_centroids(*labels)
    values = np.unique(np.stack(labels))
    shown = labels[nearest][views[nearest]]
    distances = [
        np.stack([signed_distance(label[view] == value, spacing) for value in values])
        for label, view in zip(labels, views, strict=True)
    ]
    blended = labels[nearest].copy()
    for share in ATTEMPTS:
        tried = nearest + share * (weight - nearest)
        shares = np.array([1 - tried, tried])
        starts = corners[nearest] - corners + centroids - shares @ centroids
        moved = (_moved(part, start, shown.shape) for part, start in zip(distances, starts, strict=True))
        mixed = sum(amount * part for amount, part in zip(shares, moved, strict=True))
        candidate = remove_specks(values[mixed.argmin(axis=0)], shown)
        if keeps_classes(candidate, shown):
            blended[views[nearest]] = candidate
            break
    return blended


def signed_distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance from each voxel of a mask `[*spatial]` to the nearest one of the other side, negative inside.

    In the units of `spacing`; where there is no other side, the diagonal of the patch, which is longer than any.
    """
    far = float(np.linalg.norm(mask.shape * spacing))
    if mask.all() or not mask.any():
        return np.where(mask, -far, far)
    return ndimage.distance_transform_edt(~mask, spacing) - ndimage.distance_transform_edt(mask, spacing)


def _moved(distances: np.ndarray, start: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A box of this shape that starts at `start`, in voxels and fractions of them, of each of `[classes, *spatial]`."""
    scale = np.ones(len(start))
    return np.stack(
        [ndimage.affine_transform(part, scale, start, tuple(shape), order=1, mode="nearest") for part in distances]
    )


def _foreground_centroids(*labels: np.ndarray) -> np.ndarray:
    """`[maps, dims]` in voxels; all 0 if one of the maps shows no foreground."""
    places = [np.argwhere(label > 0) for label in labels]
    if not all(map(len, places)):
        return np.zeros((len(labels), labels[0].ndim))
    return np.stack([voxels.mean(axis=0) for voxels in places])
