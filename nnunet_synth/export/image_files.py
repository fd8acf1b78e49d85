"""Writes image files in the format of the dataset's own; nnU-Net's readers can write segmentations only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from nnunet_synth.export.raw_dataset import RawCase
from stylegan2_cond.errors import UserError

_INTEGERS_ONLY = (".png", ".bmp")
WRITTEN = (SimpleITKIO, NibabelIO, NibabelIOWithReorient, NaturalImage2DIO, Tiff3DIO)


@dataclass(frozen=True)
class FileFormat:
    """What all image files of a dataset have in common, as found in one of its cases.

    Attributes:
        reader: nnU-Net's class for them.
        ending: of all files.
        in_one_file: whether one file holds all channels (colour pictures).
        is_2d: whether files hold 2-D images.
        dtype: of the values: an integer type for files that cannot hold fractions, float32 otherwise.
        geometry: position and orientation of the example's segmentation, as `reader` returns them.
    """

    reader: BaseReaderWriter
    ending: str
    in_one_file: bool
    is_2d: bool
    dtype: np.dtype
    geometry: dict


def read_format(reader: BaseReaderWriter, ending: str, case: RawCase) -> FileFormat:
    """The format of a real case's files.

    Raises:
        UserError: this release cannot write that format.
    """
    if not isinstance(reader, WRITTEN):
        raise UserError(
            f"This dataset is read by {type(reader).__name__}, for which this release writes no images. Datasets read "
            f"by {', '.join(kind.__name__ for kind in WRITTEN)} can be exported."
        )
    images = [str(path) for path in case.images]
    geometry = reader.read_seg(str(case.label))[1]
    picture = isinstance(reader, NaturalImage2DIO)
    integers = np.uint16 if ending in _INTEGERS_ONLY and io.imread(images[0]).dtype == np.uint16 else np.uint8
    return FileFormat(
        reader=reader,
        ending=ending,
        in_one_file=picture and len(images) == 1 and len(reader.read_images(images)[0]) > 1,
        is_2d=picture or len(geometry.get("sitk_stuff", {}).get("spacing", ())) == 2,
        dtype=np.dtype(integers if ending in _INTEGERS_ONLY else np.float32),
        geometry=geometry,
    )


def write_case(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray, spacing: Sequence[float], style: FileFormat
) -> None:
    """Write `imagesTr/<name>_0000…` and `labelsTr/<name>…`, and read them back with nnU-Net's own class.

    Args:
        folder: with imagesTr and labelsTr.
        name: of the case.
        image: `[C, z, y, x]` of the format's type, with the files' order of axes.
        label: `[z, y, x]` integers, not negative.
        spacing: of the voxels along z, y, x, in mm.
        style: format of the files.

    Raises:
        ValueError: the files read back differ from what was written.
    """
    files = [image.transpose(1, 2, 3, 0)] if style.in_one_file else list(image)
    paths = [folder / "imagesTr" / f"{name}_{number:04d}{style.ending}" for number in range(len(files))]
    for path, array in zip(paths, files, strict=True):
        _write_image(path, array, spacing, style)
    read, properties = style.reader.read_images([str(path) for path in paths])
    label_path = folder / "labelsTr" / f"{name}{style.ending}"
    style.reader.write_seg(label, str(label_path), properties)
    read_label, label_properties = style.reader.read_seg(str(label_path))
    in_plane = slice(1 if style.is_2d else 0, None)
    same_spacing = isinstance(style.reader, NaturalImage2DIO) or all(
        np.allclose(spacing[in_plane], other["spacing"][in_plane], rtol=1e-5)
        for other in (properties, label_properties)
    )
    if not (np.array_equal(read, image) and np.array_equal(read_label[0], label) and same_spacing):
        raise ValueError(f"{name} read back differs from what was written")


def _write_image(path: Path, array: np.ndarray, spacing: Sequence[float], style: FileFormat) -> None:
    """Write `[z, y, x]`, or of a colour picture `[1, y, x, C]`, as the format's reader expects it."""
    if isinstance(style.reader, SimpleITKIO):
        image = sitk.GetImageFromArray(array[0] if style.is_2d else array)
        image.SetSpacing([float(length) for length in spacing[::-1]][: image.GetDimension()])  # x first
        image.SetOrigin(style.geometry["sitk_stuff"]["origin"])
        image.SetDirection(style.geometry["sitk_stuff"]["direction"])
        sitk.WriteImage(image, str(path), True)
    elif isinstance(style.reader, (NibabelIO, NibabelIOWithReorient)):
        found = style.geometry["nibabel_stuff"]
        affine = np.array(found.get("reoriented_affine", found["original_affine"]), dtype=float)
        affine[:3, :3] *= np.array(spacing[::-1]) / np.linalg.norm(affine[:3, :3], axis=0)
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    elif isinstance(style.reader, NaturalImage2DIO):
        io.imsave(path, array[0], check_contrast=False)
    else:
        tifffile.imwrite(path, array, compression="zlib")
        name = path.name.removesuffix(style.ending)[: -len("_0000")]
        save_json({"spacing": [float(length) for length in spacing]}, str(path.with_name(f"{name}.json")))
