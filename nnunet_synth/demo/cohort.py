"""A cohort of virtual subjects as an nnU-Net raw dataset, for the demonstration and the tests.

Every subject is the MNI152 average brain (T1 template and tissue probability maps, ICBM 152 nonlinear 2009a, Fonov et
al. 2011, as shipped inside the nilearn wheel) under a random affine and a random diffeomorphism, imaged with two
contrasts: T1 (the template's) and T2-like (a weighted sum of the tissue probabilities). The labels follow from the
same warped tissue probabilities: 0 background (with cerebrospinal fluid), 1 grey matter, 2 white matter.

Arrays are indexed [x, y, z]; world coordinates are RAS+ millimetres in MNI space. Nothing is downloaded.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from stylegan2_cond.progress_bar import ProgressBar

VOXEL_SPACING = np.array([4.0, 4.0, 6.0])  # mm: thick axial slices, as in many clinical protocols
MEDIAN_SHAPE = (44, 51, 16)  # voxels; the in-plane size varies by up to 2 voxels between subjects
VOLUME_CENTRE = np.array([0.0, -18.0, 24.0])  # mm: 96 mm through the cerebrum, temporal lobes to vertex
SUBSLICES = 3  # samples averaged across the slice thickness (partial volume effect)
TEMPLATE_SPACING = 2  # mm, isotropic (nilearn takes an integer)
CONTROL_SPACING = 6.0  # mm, of the isotropic grid that carries the deformation
CHANNELS = ("T1", "T2")
LABELS = {"background": 0, "grey_matter": 1, "white_matter": 2}


class Template(NamedTuple):
    """Average brain: `maps` (4, X, Y, Z) = T1 in [0, 1] and GM, WM, CSF probabilities; `origin` of voxel 0, mm."""

    maps: np.ndarray
    origin: np.ndarray


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the MNI152 template; CSF is what GM and WM leave of the brain (nilearn carries no CSF map)."""
    from nilearn import datasets

    t1_image = datasets.load_mni152_template(resolution=TEMPLATE_SPACING)
    t1 = t1_image.get_fdata(dtype=np.float32)
    gm = datasets.load_mni152_gm_template(resolution=TEMPLATE_SPACING).get_fdata(dtype=np.float32)
    wm = datasets.load_mni152_wm_template(resolution=TEMPLATE_SPACING).get_fdata(dtype=np.float32)
    csf = np.clip((t1 > 0.2) - gm - wm, 0, 1)
    return Template(np.stack([t1, gm, wm, csf]), t1_image.affine[:3, 3])


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> np.ndarray:
    """Gaussian-smoothed white noise of `shape` with zero mean and unit standard deviation; `sigma` in voxels."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def exponentiate(velocity: np.ndarray, squarings: int = 6) -> np.ndarray:
    """Displacement (3, X, Y, Z) at time 1 of a stationary velocity field of that shape, both in voxels of their grid.

    Scaling and squaring (Arsigny et al. 2006): the velocity is divided by `2**squarings`, so that the first small
    step is invertible, and the step is then composed with itself `squarings` times; a composition of invertible
    maps is invertible.
    """
    grid = np.indices(velocity.shape[1:]).astype(float)
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = displacement + interpolate(displacement, grid + displacement)
    return displacement


def sample_displacement(rng: np.random.Generator, amplitude: float = 3.0, smoothness: float = 14.0) -> np.ndarray:
    """Random diffeomorphism as displacement (3, X, Y, Z), in voxels of the control grid over the template's volume.

    `amplitude` is the velocity's standard deviation per component and `smoothness` the standard deviation of its
    Gaussian kernel, both in mm. At the defaults the Jacobian determinant stays positive everywhere (between about
    0.29 and 3.2 over 200 samples).
    """
    extent = np.array(load_template().maps.shape[1:]) * TEMPLATE_SPACING
    shape = (3, *np.ceil(extent / CONTROL_SPACING).astype(int))
    sigma = (0.0, *[smoothness / CONTROL_SPACING] * 3)
    return exponentiate(amplitude / CONTROL_SPACING * smooth_noise(rng, shape, sigma))


def interpolate(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Linear interpolation of `maps` (C, X, Y, Z) at `points` (3, ...) in voxels; returns (C, ...)."""
    return np.stack([map_coordinates(channel, points, order=1, mode="nearest") for channel in maps])


def sample_affine(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random matrix (3, 3) and shift (3,) in mm, from subject to template coordinates.

    Rotations of 4 degrees and shifts of 2 mm (standard deviations), scales within 6 % per axis.
    """
    rotation = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix()
    scale = rng.uniform(0.94, 1.06, 3)
    return rotation / scale, rng.normal(0, 2, 3)


def warp_template(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Template maps (4, *shape) of one subject's anatomy, averaged across the slice thickness."""
    template = load_template()
    fine_spacing = VOXEL_SPACING / (1, 1, SUBSLICES)
    fine_shape = np.array(shape) * (1, 1, SUBSLICES)
    offsets = (np.indices(fine_shape) - (fine_shape[:, None, None, None] - 1) / 2) * fine_spacing[:, None, None, None]
    matrix, shift = sample_affine(rng)
    points = np.tensordot(matrix, offsets, 1) + (VOLUME_CENTRE + shift)[:, None, None, None]
    points -= template.origin[:, None, None, None]
    points += CONTROL_SPACING * interpolate(sample_displacement(rng), points / CONTROL_SPACING)
    return interpolate(template.maps, points / TEMPLATE_SPACING).reshape(4, *shape, SUBSLICES).mean(-1)


def acquire(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Scanner image (int16, arbitrary units) of `signal` in [0, 1]: bias field, receiver noise, random scale.

    The bias field is smooth and multiplicative (standard deviation 12 %). The noise is Gaussian in the real and the
    imaginary part of the complex signal, so that the magnitude is Rician (Gudbjartsson & Patz 1995).
    """
    bias = np.exp(0.12 * smooth_noise(rng, signal.shape, tuple(45 / VOXEL_SPACING)))
    real, imaginary = rng.uniform(0.04, 0.08) * rng.standard_normal((2, *signal.shape))
    return np.rint(rng.uniform(300, 700) * np.hypot(signal * bias + real, imaginary)).astype(np.int16)


def sample_subject(seed: int, subject: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Channel images by name (int16) and labels (uint8), all (X, Y, Z), a function of `(seed, subject)` alone."""
    rng = np.random.default_rng([seed, subject])
    width, depth = rng.integers(-2, 3, 2)
    shape = (MEDIAN_SHAPE[0] + int(width), MEDIAN_SHAPE[1] + int(depth), MEDIAN_SHAPE[2])
    t1, gm, wm, csf = warp_template(rng, shape)
    t2_weights = np.array([0.60, 0.42, 1.0]) + rng.normal(0, 0.03, 3)  # GM mid, WM dark, CSF bright
    t2 = np.tensordot(t2_weights, np.stack([gm, wm, csf]), 1)
    labels = np.argmax([1 - gm - wm, gm, wm], axis=0).astype(np.uint8)
    return {"T1": acquire(rng, t1), "T2": acquire(rng, t2)}, labels


def write_volume(path: Path, volume: np.ndarray) -> None:
    """Write `volume` (X, Y, Z) in RAS+ order as NIfTI, centred on `VOLUME_CENTRE`."""
    image = sitk.GetImageFromArray(volume.transpose(2, 1, 0))
    first_voxel = VOLUME_CENTRE - (np.array(volume.shape) - 1) / 2 * VOXEL_SPACING
    image.SetSpacing(VOXEL_SPACING.tolist())
    image.SetOrigin((first_voxel * (-1, -1, 1)).tolist())  # SimpleITK's world is LPS+
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


def write_cohort(folder: Path, *, training: int = 16, test: int = 8, seed: int = 0) -> None:
    """Write `training` and `test` virtual subjects as the nnU-Net raw dataset `folder` (DatasetXXX_Name).

    The test subjects' labels go to `labelsTs`, which nnU-Net itself never reads.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Delete it, or choose another dataset name.")
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for subject in ProgressBar(range(training + test), desc="virtual subjects", unit="subject"):
        suffix = "Tr" if subject < training else "Ts"
        images, labels = sample_subject(seed, subject)
        for channel, name in enumerate(CHANNELS):
            write_volume(folder / f"images{suffix}" / f"virtual_{subject:03d}_{channel:04d}.nii.gz", images[name])
        write_volume(folder / f"labels{suffix}" / f"virtual_{subject:03d}.nii.gz", labels)
    generate_dataset_json(
        str(folder),
        channel_names=dict(enumerate(CHANNELS)),
        labels=dict(LABELS),
        num_training_cases=training,
        file_ending=".nii.gz",
        description="Virtual subjects simulated from the MNI152 average brain (ICBM 152 nonlinear 2009a)",
        reference="https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
        license="Simulated from the ICBM 152 template, (c) McConnell Brain Imaging Centre, MNI, McGill University",
        converted_by="nnunet_synth.demo.cohort",
    )
