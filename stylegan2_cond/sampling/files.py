"""Samples as NIfTI files, each whole or not there, and the picture of the first ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import overlay_grid, save_picture

PREVIEW_FILE = "preview.png"
PREVIEW_SAMPLES = {2: 48, 3: 16}  # by the number of axes
_SCRATCH = ".drawing_"


def sample_name(number: int) -> str:
    """`sample_00000` for the first."""
    return f"sample_{number:05d}"


def sample_files(folder: Path, name: str, channels: int) -> list[Path]:
    """The file of each image channel, as nnU-Net names them, and that of the mask."""
    images = [folder / "images" / f"{name}_{channel:04d}.nii.gz" for channel in range(channels)]
    return [*images, folder / "labels" / f"{name}.nii.gz"]


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A place in `folder` where files are written before they get their names; what a kill left there is removed."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    with explained_write(folder):
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_sample(
    folder: Path, scratch: Path, name: str, arrays: Sequence[np.ndarray], spacing: Sequence[float]
) -> None:
    """Write channels and mask, `[*spatial]` each, and read each back before it gets its name.

    Raises:
        UserError: the disk is full, or what was read back is not what was written.
    """
    for path, array in zip(sample_files(folder, name, len(arrays) - 1), arrays, strict=True):
        temporary = scratch / path.name
        try:
            with explained_write(path):
                path.parent.mkdir(exist_ok=True)
                _write_nifti(temporary, array, spacing)
                if not np.array_equal(_read_nifti(temporary), array, equal_nan=True):
                    raise RuntimeError("what was read back is not what was written")
                os.replace(temporary, path)
        except RuntimeError as error:  # SimpleITK's errors are such, too
            raise UserError(f"{path} was not stored as it was written. Is the disk full or damaged?") from error


def save_preview(folder: Path, names: Sequence[str], plan: Plan) -> None:
    """Grid of the first samples, as they lie in the folder."""
    codec = plan.codec
    files = [
        sample_files(folder, name, codec.image_channels) for name in names[: PREVIEW_SAMPLES[len(plan.patch_size)]]
    ]
    pairs = np.stack([np.stack([_read_nifti(path) for path in paths]) for paths in files])  # [N, C + mask, *spatial]
    ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
    grid = overlay_grid(pairs[:, :-1], pairs[:, -1], **ranges)
    save_picture(folder / PREVIEW_FILE, grid)


def _write_nifti(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])  # SimpleITK counts axes from the last one
    sitk.WriteImage(image, str(path))


def _read_nifti(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
