"""A labelled image deformed towards another one by SimpleITK's diffeomorphic demons, from coarse to fine.

Vercauteren et al. (2009), Diffeomorphic demons: efficient non-parametric image registration, NeuroImage 45(1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from stylegan2_cond.data.mask_deformation import keeps_classes, remove_specks
from stylegan2_cond.data.nnunet_dataset import OUTSIDE

MOST_VOXELS = 2**19  # of the finest level; larger images are registered at a lower resolution
FEWEST_VOXELS = 8  # along an axis, for it to be halved
STEPS = (20, 20, 15)  # of the demons, from the coarsest level to the finest; each halves the voxels' lengths
SMOOTHING = 1.0  # standard deviation of the Gaussian that smooths the displacement, in voxels of the level
ROUNDING = 1.0  # standard deviation of the Gaussian that smooths each class, in the shortest side of a voxel
ATTEMPTS = (1.0, 0.5, 0.0)  # fractions of it, tried in turn until enough of each class is left
BINS, QUANTILES = 256, 10  # by which intensities are matched
MARGIN = 0.3  # of the foreground's size, that both images keep on each side of it
AROUND = 3  # voxels that they keep in any case, and in which they are compared


@dataclass(frozen=True, eq=False)
class Registration:
    """A label deformed towards a scan, and how good the registration was.

    Attributes:
        label: `[*spatial]` of the scan.
        correlation: of the scan and the deformed image, in the deformed foreground and around it.
    """

    label: np.ndarray
    correlation: float


def register(
    scan: np.ndarray, rough: np.ndarray, image: np.ndarray, label: np.ndarray, spacing: Sequence[float]
) -> Registration | None:
    """Deform a labelled image towards a scan, for which a rough label map is enough.

    Both are cropped to their foreground and its surroundings. A scaling along each axis and a shift, which give both
    foregrounds the same mean and spread, are followed by an invertible displacement. A voxel gets the label with the
    largest share, smoothed a little and interpolated linearly; smoothed less where too little of a class would be left.
    No label appears, and no specks split off. `OUTSIDE` is where the rough label map has it.

    Args:
        scan: `[*spatial]`, 2-D or 3-D; an axis of one voxel, in both images, does not count.
        rough: integers of the same shape.
        image: `[*spatial]`, perhaps of another shape, with intensities like the scan's.
        label: integers of the same shape.
        spacing: of the voxels of both along each axis.

    Returns:
        None if one of the label maps has no foreground, the registration fails, or too little is left of a class.
    """
    boxes = _surroundings(rough), _surroundings(label)
    if None in boxes:
        return None
    flat = tuple(axis for axis in range(scan.ndim) if scan.shape[axis] == image.shape[axis] == 1)
    there, about = (array[boxes[0]].squeeze(flat) for array in (scan, rough))
    here, classes = (array[boxes[1]].squeeze(flat) for array in (image, np.maximum(label, 0)))
    lengths = np.delete(np.asarray(spacing, float), flat)
    lengths = lengths / lengths.min()
    try:
        fixed, moving = _itk_image(there, lengths), _itk_image(here, lengths)
        transform = _displaced(fixed, moving, _aligned(about > 0, classes > 0, lengths))
        deformed = sitk.GetArrayFromImage(_resample(moving, fixed, transform))
        candidates = (_deformed_label(classes, lengths, fixed, transform, share * ROUNDING) for share in ATTEMPTS)
        warped = next((candidate for candidate in candidates if keeps_classes(candidate, classes)), None)
    except RuntimeError:  # SimpleITK's, for example where an image has fewer voxels than its filters need
        return None
    if warped is None:
        return None
    whole = np.where(rough == OUTSIDE, OUTSIDE, 0).astype(label.dtype)
    shown = np.expand_dims(warped, flat)
    whole[boxes[0]] = np.where(shown > 0, shown, whole[boxes[0]])
    return Registration(whole, _correlation(there, deformed, warped > 0))


def _deformed_label(
    label: np.ndarray, spacing: np.ndarray, grid: sitk.Image, transform: sitk.Transform, rounding: float
) -> np.ndarray:
    """The label with the largest share, smoothed by a Gaussian of standard deviation `rounding`, on the grid."""
    warped, most = np.zeros(grid.GetSize()[::-1], label.dtype), np.zeros(grid.GetSize()[::-1], np.float32)
    for value in np.unique(label):
        share = ndimage.gaussian_filter((label == value).astype(np.float32), rounding / spacing)
        share = sitk.GetArrayFromImage(_resample(_itk_image(share, spacing), grid, transform))
        warped[share > most] = value
        np.maximum(most, share, out=most)
    return remove_specks(warped, label)


def _surroundings(label: np.ndarray) -> tuple[slice, ...] | None:
    """The box of the foreground, larger by a margin; None if there is none."""
    boxes = ndimage.find_objects((label > 0).astype(np.uint8))
    if not boxes:
        return None
    margins = [AROUND + round(MARGIN * (side.stop - side.start)) for side in boxes[0]]
    return tuple(
        slice(max(0, side.start - margin), side.stop + margin) for side, margin in zip(boxes[0], margins, strict=True)
    )


def _correlation(one: np.ndarray, other: np.ndarray, foreground: np.ndarray) -> float:
    """Of two images, in a foreground and around it; 0 where one of them is constant."""
    near = ndimage.binary_dilation(foreground, iterations=AROUND)
    one, other = (image[near] - image[near].mean() for image in (one, other))
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else 0.0


def _itk_image(array: np.ndarray, spacing: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing(spacing[::-1].tolist())  # SimpleITK lists axes in reverse
    return image


def _resample(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """The image on a grid, interpolated linearly; beyond the image, its outermost voxels are repeated."""
    return sitk.Resample(image, grid, transform, sitk.sitkLinear, 0.0, image.GetPixelID(), True)


def _aligned(fixed: np.ndarray, moving: np.ndarray, spacing: np.ndarray) -> sitk.Transform:
    """From points of the fixed mask to those of the moving one, such that both have the same mean and spread."""
    points = [np.argwhere(mask)[:, ::-1] * spacing[::-1] for mask in (fixed, moving)]
    (middle, spread), (target, wide) = ((found.mean(axis=0), found.std(axis=0)) for found in points)
    scale = np.divide(wide, spread, out=np.ones_like(wide), where=(spread > 0) & (wide > 0))
    transform = sitk.AffineTransform(len(spacing))
    transform.SetCenter(middle.tolist())
    transform.SetTranslation((target - middle).tolist())
    transform.SetMatrix(np.diag(scale).ravel().tolist())
    return transform


def _displaced(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform) -> sitk.Transform:
    """From points of the fixed image to those of the moving one, by demons after the transform `start`."""
    levels = list(zip(_pyramid(fixed), _pyramid(moving), strict=True))
    displacement, identity = None, sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity)
    for (grid, image), steps in zip(levels, STEPS, strict=True):
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(steps)
        demons.SetStandardDeviations(SMOOTHING)
        demons.SetMaximumUpdateStepLength(min(grid.GetSpacing()) / 2)
        matched = sitk.HistogramMatching(_resample(image, grid, start), grid, BINS, QUANTILES, False)
        before = [] if displacement is None else [_resample(displacement, grid, identity)]
        displacement = demons.Execute(grid, matched, *before)
    field = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    return sitk.CompositeTransform([start, field])


def _pyramid(image: sitk.Image) -> list[sitk.Image]:
    """The image, or a smaller version of a large one, after versions of ever lower resolution: one for each level."""
    while image.GetNumberOfPixels() > MOST_VOXELS:
        image = _halved(image)
    levels = [image]
    while len(levels) < len(STEPS):
        levels.insert(0, _halved(levels[0]))
    return levels


def _halved(image: sitk.Image) -> sitk.Image:
    """Half as many voxels along the axes along which they are shortest, if there are enough along these."""
    axes = list(zip(image.GetSpacing(), image.GetSize(), strict=True))
    finest = min((length for length, size in axes if size >= FEWEST_VOXELS), default=0.0)
    return sitk.BinShrink(image, [2 if size >= FEWEST_VOXELS and length < 2 * finest else 1 for length, size in axes])
