"""Small deformations of real masks, affine and elastic, that give plausible masks which no case has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, linalg, ndimage

from stylegan2_cond.data.nnunet_dataset import OUTSIDE

MAX_SLOPE = 0.8  # of the elastic displacement; below 1 it cannot fold
MIN_PIECE = 4  # voxels; smaller pieces that a deformation splits off get the label around them
MIN_SHARE_LEFT = 0.25  # of the voxels of each class, so that thin structures do not vanish
BOX_OUTSIDE = 0.05  # an image is a box if less of its bounding box is OUTSIDE; of a brain's box, over a fifth is
ATTEMPTS = (1.0, 0.5, 0.25)  # fractions of the sampled deformation, tried in turn


@dataclass(frozen=True)
class Deformation:
    """How strongly masks are deformed. Affine parameters are uniform between minus and plus these values.

    Lengths are fractions of the shortest side of the patch.
    """

    rotation: float = 10.0  # degrees, in each plane; less where one side of the plane is longer than the other
    scale: float = 0.1  # logarithm of the factor, the same along all axes
    shear: float = 0.05  # in each plane: what one axis gains of the other
    translation: float = 0.04  # along each axis
    elastic: float = 0.03  # root mean square of the displacement, before it is held to MAX_SLOPE
    smoothness: float = 0.16  # standard deviation of the Gaussian that smooths the displacement


def deform(
    label: np.ndarray,
    rng: np.random.Generator,
    strength: Deformation = Deformation(),
    *,
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Deform a label map a little.

    An affine and an elastic map, both invertible, and one resampling. No label appears, no specks split off, and no
    class vanishes: where the deformation would leave too little of one, a weaker one is tried, and finally none.
    Lines one voxel wide may break. Beyond the patch, its outermost voxels are repeated. A frame of `OUTSIDE` around
    the image stays as it is; an `OUTSIDE` that follows the anatomy is deformed with it, and may leave the patch.

    Args:
        label: `[*spatial]` integers, 2-D or 3-D.
        rng: source of the random numbers; how many are used depends on the patch size alone.
        strength: of the deformation.
        spacing: of the voxels along each axis, e.g. in mm; 1 if None.

    Returns:
        The same shape and dtype, always a new array.
    """
    spacing = np.broadcast_to(1.0 if spacing is None else np.asarray(spacing, float), label.ndim)
    sampled = sample_deformation(label.shape, rng, strength, spacing)
    view = field_of_view(label)
    deformed, shown = label.copy(), label[view]
    corner = np.reshape([side.start for side in view], (-1, *[1] * label.ndim))
    for share in ATTEMPTS:
        coordinates = source_coordinates(*(share * part for part in sampled), spacing)[(slice(None), *view)]
        candidate = remove_specks(resample(shown, coordinates - corner), shown)
        if keeps_classes(candidate, shown):
            deformed[view] = candidate
            break
    return deformed


def field_of_view(label: np.ndarray) -> tuple[slice, ...]:
    """The box that an image fills, if all around it is `OUTSIDE`; else the whole patch."""
    boxes = ndimage.find_objects((label != OUTSIDE).astype(np.uint8))
    if boxes and (label[boxes[0]] == OUTSIDE).mean() < BOX_OUTSIDE:
        return boxes[0]
    return tuple(slice(0, length) for length in label.shape)


def sample_deformation(
    shape: Sequence[int], rng: np.random.Generator, strength: Deformation, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample the parts of a deformation, in the units of `spacing`.

    Returns:
        The matrix logarithm of the affine map `[dims, dims]`, which makes it invertible in any case; its shift
        `[dims]`; and the elastic displacement `[dims, *spatial]`, whose map `x + u(x)` has a Jacobian determinant of at
        least `(1 - MAX_SLOPE) ** dims` everywhere.
    """
    extent = np.array(shape) * spacing
    shortest = extent.min()
    logarithm = np.eye(len(shape)) * rng.uniform(-1, 1) * strength.scale
    for i, j in itertools.combinations(range(len(shape)), 2):
        angle, shear = rng.uniform(-1, 1, 2) * [np.deg2rad(strength.rotation), strength.shear]
        angle *= min(extent[i], extent[j]) / max(extent[i], extent[j])  # a slab tilts less than it turns
        logarithm[i, j], logarithm[j, i] = shear - angle, shear + angle
    shift = rng.uniform(-1, 1, len(shape)) * strength.translation * shortest
    elastic = smooth_noise(shape, strength.smoothness * shortest / spacing, rng) * strength.elastic * shortest
    return logarithm, shift, elastic * min(1, MAX_SLOPE / max(slope(elastic, spacing), MAX_SLOPE))


def smooth_noise(shape: Sequence[int], sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise `[dims, *spatial]`, a vector for each voxel, smoothed by a Gaussian of `sigma` voxels per axis.

    Its root mean square is 1. It is smoothed in Fourier space, hence periodically.
    """
    axes = range(1, len(shape) + 1)
    spectrum = fft.rfftn(rng.standard_normal((len(shape), *shape)), axes=axes)
    noise = fft.irfftn(ndimage.fourier_gaussian(spectrum, (0, *sigma), n=shape[-1]), s=shape, axes=axes)
    return noise / np.sqrt(np.square(noise).mean())


def slope(displacement: np.ndarray, spacing: np.ndarray) -> float:
    """An upper bound of the maximum norm of a displacement's Jacobian, `∥∇u∥∞`.

    Below 1, `x + u(x)` is injective: `|u(x) - u(y)|∞ ≤ slope · |x - y|∞`.
    """
    steepest = [
        np.abs(np.diff(displacement, axis=axis)).reshape(len(spacing), -1).max(axis=1, initial=0) / length
        for axis, length in enumerate(spacing, 1)
    ]
    return float(np.sum(steepest, axis=0).max())


def source_coordinates(
    logarithm: np.ndarray, shift: np.ndarray, elastic: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Where each voxel of the deformed map comes from, `[dims, *spatial]` in voxels: `A(x + u(x) - c) + c + shift`.

    `c` is the middle of the patch. Arguments as `sample_deformation` returns them.
    """
    across = (-1, *[1] * len(spacing))
    middle = (np.array(elastic.shape[1:]) - 1) / 2 * spacing
    moved = np.indices(elastic.shape[1:]) * spacing.reshape(across) + elastic - middle.reshape(across)
    moved = np.tensordot(linalg.expm(logarithm), moved, axes=1)
    return (moved + (middle + shift).reshape(across)) / spacing.reshape(across)


def resample(label: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """The label with the largest share at each of the coordinates `[dims, *spatial]`, interpolated linearly."""
    values = np.unique(label)
    shares = [
        ndimage.map_coordinates((label == value).astype(np.float32), coordinates, order=1, mode="nearest")
        for value in values
    ]
    return values[np.argmax(shares, axis=0)]


def remove_specks(deformed: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The deformed map without the specks that give a class more pieces than it has in `label`.

    They get the label of the nearest other voxel. Pieces are face-connected.
    """
    for value in np.unique(label):
        pieces, count = ndimage.label(deformed == value)
        sizes = np.bincount(pieces.ravel())
        small = np.flatnonzero(sizes[1:] < MIN_PIECE) + 1
        if not len(small) or (surplus := count - ndimage.label(label == value)[1]) <= 0:
            continue
        chosen = small[np.argsort(sizes[small], kind="stable")[:surplus]]
        specks = np.isin(pieces, chosen)
        nearest = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
        deformed = deformed[tuple(nearest)]
    return deformed


def keeps_classes(deformed: np.ndarray, label: np.ndarray) -> bool:
    """Whether enough is left of each class. The outside may vanish, since it is not a structure."""
    values, counts = np.unique(label[label != OUTSIDE], return_counts=True)
    return all((deformed == value).sum() >= MIN_SHARE_LEFT * count for value, count in zip(values, counts, strict=True))
