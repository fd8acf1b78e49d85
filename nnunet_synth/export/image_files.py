"""Image files as the dataset's own ones are: nnU-Net's readers write segmentations only, so images are written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from nnunet_synth.export.raw_dataset import RealCase
from stylegan2_cond.errors import UserError

_INTEGERS_ONLY = (".png", ".bmp")


@dataclass(frozen=True)
class Layout:
    """What is common to a dataset's image files, as one of its cases shows it.

    Attributes:
        reader: nnU-Net's class for them.
        ending: of all files.
        in_one_file: all channels lie in one file (colour pictures).
        flat: files hold 2-D images.
        dtype: of the values in image files that can't hold fractions; float32 otherwise.
        geometry: how the example lies in space, as `reader` tells it of its segmentation.
    """

    reader: BaseReaderWriter
    ending: str
    in_one_file: bool
    flat: bool
    dtype: np.dtype
    geometry: dict


def read_layout(reader: BaseReaderWriter, ending: str, case: RealCase) -> Layout:
    """That of a real case.

    Raises:
        UserError: files that this release can't write the like of.
    """
    if _writer(reader) is None:
        raise UserError(
            f"This dataset is read by {type(reader).__name__}, for which this release writes no images. Datasets read "
            f"by {', '.join(kind.__name__ for kind in _WRITERS)} can be exported."
        )
    images = [str(path) for path in case.images]
    geometry = reader.read_seg(str(case.label))[1]
    colour = isinstance(reader, NaturalImage2DIO)
    integers = np.uint16 if ending in _INTEGERS_ONLY and io.imread(images[0]).dtype == np.uint16 else np.uint8
    return Layout(
        reader=reader,
        ending=ending,
        in_one_file=colour and len(images) == 1 and len(reader.read_images(images)[0]) > 1,
        flat=colour or len(geometry.get("sitk_stuff", {}).get("spacing", ())) == 2,
        dtype=np.dtype(integers if ending in _INTEGERS_ONLY else np.float32),
        geometry=geometry,
    )


def write_case(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray, spacing: Sequence[float], layout: Layout
) -> None:
    """Write `imagesTr/<name>_0000…` and `labelsTr/<name>…`, and read them back with nnU-Net's own class.

    Args:
        folder: that holds imagesTr and labelsTr.
        name: of the case.
        image: `[C, z, y, x]` of the layout's type, in the files' order of axes.
        label: `[z, y, x]` integers, 0 or more.
        spacing: of the voxels along z, y, x, in mm.
        layout: that the files are to have.

    Raises:
        ValueError: what was read back is not what was written.
    """
    files = [image.transpose(1, 2, 3, 0)] if layout.in_one_file else list(image)
    paths = [folder / "imagesTr" / f"{name}_{number:04d}{layout.ending}" for number in range(len(files))]
    for path, array in zip(paths, files, strict=True):
        _writer(layout.reader)(path, array, spacing, layout)
    read, properties = layout.reader.read_images([str(path) for path in paths])
    label_path = folder / "labelsTr" / f"{name}{layout.ending}"
    layout.reader.write_seg(label, str(label_path), properties)
    read_label, label_properties = layout.reader.read_seg(str(label_path))
    in_plane = slice(1 if layout.flat else 0, None)
    geometry = (spacing, properties["spacing"], label_properties["spacing"])
    same_spacing = layout.flat and isinstance(layout.reader, NaturalImage2DIO)
    same_spacing |= all(np.allclose(geometry[0][in_plane], other[in_plane], rtol=1e-5) for other in geometry)
    if not (np.array_equal(read, image) and np.array_equal(read_label[0], label) and same_spacing):
        raise ValueError(f"{name} is read otherwise than it was written")


def _write_sitk(path: Path, array: np.ndarray, spacing: Sequence[float], layout: Layout) -> None:
    image = sitk.GetImageFromArray(array[0] if layout.flat else array)
    image.SetSpacing([float(length) for length in spacing[::-1]][: image.GetDimension()])  # x first
    image.SetOrigin(layout.geometry["sitk_stuff"]["origin"])
    image.SetDirection(layout.geometry["sitk_stuff"]["direction"])
    sitk.WriteImage(image, str(path), True)


def _write_nibabel(path: Path, array: np.ndarray, spacing: Sequence[float], layout: Layout) -> None:
    found = layout.geometry["nibabel_stuff"]
    affine = np.array(found.get("reoriented_affine", found["original_affine"]), dtype=float)
    affine[:3, :3] *= np.array(spacing[::-1]) / np.linalg.norm(affine[:3, :3], axis=0)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def _write_picture(path: Path, array: np.ndarray, spacing: Sequence[float], layout: Layout) -> None:
    io.imsave(path, array[0], check_contrast=False)


def _write_tiff(path: Path, array: np.ndarray, spacing: Sequence[float], layout: Layout) -> None:
    tifffile.imwrite(path, array, compression="zlib")
    name = path.name.removesuffix(layout.ending)[: -len("_0000")]
    save_json({"spacing": [float(length) for length in spacing]}, str(path.with_name(f"{name}.json")))


_Writer = Callable[[Path, np.ndarray, Sequence[float], Layout], None]
_WRITERS: dict[type[BaseReaderWriter], _Writer] = {
    SimpleITKIO: _write_sitk,
    NibabelIO: _write_nibabel,
    NibabelIOWithReorient: _write_nibabel,
    NaturalImage2DIO: _write_picture,
    Tiff3DIO: _write_tiff,
}


def _writer(reader: BaseReaderWriter) -> _Writer | None:
    return next((_WRITERS[kind] for kind in type(reader).__mro__ if kind in _WRITERS), None)
