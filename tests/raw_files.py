"""Small raw datasets in nnU-Net's formats, made without the code under test, with plans and banks of known values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from raw_cases import CONFIGURATIONS, LABELS, configuration_of
from skimage import io

from nnunet_synth.bank.format import BankRecord, Generators, SnapshotReference, write_shard
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.io import checksum
from stylegan2_cond.planning import Source

NAME = "Dataset950_Small"
SPACING = {2: (999.0, 1.0, 1.0), 3: (3.0, 0.8, 1.2)}  # by the number of axes of an image file, z first
SHAPE = {2: (1, 24, 20), 3: (5, 24, 20)}


@dataclass(frozen=True)
class Format:
    """How a dataset's files are; `dims` is the number of axes of an image file."""

    reader: str
    ending: str
    dims: int = 3
    scheme: str = "NoNormalization"
    channels: int = 2
    in_one_file: bool = False
    dtype: str = "int16"
    configuration: int = 2
    transpose: tuple[int, int, int] = (0, 1, 2)
    outside: bool = False

    @property
    def transposed(self) -> tuple[list[int], list[float]]:
        """Shape and spacing, in the order of preprocessed cases."""
        return tuple([values[self.dims][axis] for axis in self.transpose] for values in (SHAPE, SPACING))


def write_image(path: Path, array: np.ndarray, style: Format) -> None:
    """array: `[z, y, x]`, or `[z, y, x, C]` for a colour picture."""
    spacing = SPACING[style.dims]
    if style.reader.startswith("SimpleITK"):
        image = sitk.GetImageFromArray(array[0] if style.dims == 2 else array)
        image.SetSpacing(spacing[::-1][: style.dims])
        if style.reader.endswith("Reorient"):
            image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(path))
    elif style.reader.startswith("Nibabel"):
        x, y, z = spacing[::-1]
        affine = np.array([[-x, 0, 0, 9], [0, y, 0, -7], [0, 0, -z, 5], [0, 0, 0, 1.0]])
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    elif style.reader == "Tiff3DIO":
        tifffile.imwrite(path, array)
        name = path.stem[:-5] if "images" in path.parent.name else path.stem
        path.with_name(f"{name}.json").write_text(json.dumps({"spacing": spacing}))
    else:
        io.imsave(path, array[0], check_contrast=False)


def dataset(folder: Path, style: Format, cases: int = 6) -> Preprocessed:
    """Raw files and preprocessed cases in the folders of nnU-Net's variables below `folder`, and their plans."""
    raw, base = (folder / variable / NAME for variable in ("nnUNet_raw", "nnUNet_preprocessed"))
    shape, spacing = style.transposed
    configuration = configuration_of(style.channels, style.configuration) | {
        "patch_size": [16, 16, 16][: style.configuration],
        "spacing": spacing[-style.configuration :],
        "normalization_schemes": [style.scheme] * style.channels,
        "use_mask_for_norm": [style.outside] * style.channels,
    }
    properties = {"mean": 120.0, "std": 35.0, "percentile_00_5": 20.0, "percentile_99_5": 250.0}
    plans = {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": shape,
        "image_reader_writer": style.reader,
        "transpose_forward": list(style.transpose),
        "transpose_backward": np.argsort(style.transpose).tolist(),
        "configurations": {CONFIGURATIONS[style.configuration]: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): properties for n in range(style.channels)},
    }
    dataset_json = {
        "channel_names": {str(n): f"channel {n}" for n in range(style.channels)},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": style.ending,
        "overwrite_image_reader_writer": style.reader,
    }
    (base / configuration["data_identifier"]).mkdir(parents=True)
    (base / "nnUNetPlans.json").write_text(json.dumps(plans))
    for place in (base, raw):
        place.mkdir(parents=True, exist_ok=True)
        (place / "dataset.json").write_text(json.dumps(dataset_json))
    for number in range(cases):
        _write_case(raw, f"case_{number}", style, np.random.default_rng(number))
        images, label = case_files(raw, f"case_{number}", style)
        found = preprocess(plans, dataset_json, images, label)
        nnUNetDatasetBlosc2.save_case(*found, str(base / configuration["data_identifier"] / f"case_{number}"))
    return open_preprocessed(NAME, CONFIGURATIONS[style.configuration])


def _write_case(raw: Path, name: str, style: Format, rng: np.random.Generator) -> None:
    image = rng.uniform(30, 220, (style.channels, *SHAPE[style.dims])).astype(style.dtype)
    label = rng.integers(0, 3, SHAPE[style.dims]).astype(np.uint8)
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(exist_ok=True)
    files = [image.transpose(1, 2, 3, 0)] if style.in_one_file else image
    for number, array in enumerate(files):
        write_image(raw / "imagesTr" / f"{name}_{number:04d}{style.ending}", array, style)
    write_image(raw / "labelsTr" / f"{name}{style.ending}", label, style)


def case_files(raw: Path, name: str, style: Format) -> tuple[list[str], str]:
    """Image files and label file of a case, by nnU-Net's names."""
    images = sorted(str(path) for path in (raw / "imagesTr").glob(f"{name}_????{style.ending}"))
    return images, str(raw / "labelsTr" / f"{name}{style.ending}")


def preprocess(plans: dict, dataset_json: dict, images: list[str], label: str) -> tuple[np.ndarray, np.ndarray, dict]:
    """nnU-Net's own preprocessing of raw files: image `[C, z, y, x]`, label `[1, z, y, x]`, properties."""
    manager = PlansManager(plans)
    (configuration,) = plans["configurations"]
    return DefaultPreprocessor(verbose=False).run_case(
        images, label, manager, manager.get_configuration(configuration), dataset_json
    )


def write_record(bank: Path, content: dict) -> None:
    """Replace a bank's record, with a checksum that fits."""
    (bank / RECORD_FILE).write_text(json.dumps(content | {"checksum": checksum(content)}))


def make_bank(
    preprocessed: Preprocessed, image: np.ndarray, label: np.ndarray, name: str = "known", shard: int = 4
) -> Path:
    """A bank of given samples for fold 0. image: `[N, C, *spatial]`, label: `[N, *spatial]`."""
    folder = preprocessed.base / f"{preprocessed.configuration.data_identifier}_synth" / "fold_0" / name
    folder.mkdir(parents=True)
    image, label, shards = image.astype(np.float32), label.astype(np.int16), []
    volumes = image.ndim == 5
    for first in range(0, len(image), 1 if volumes else shard):
        part = slice(first, first + (1 if volumes else shard))
        numbers = range(len(image))[part]
        arrays = (image[first], label[part]) if volumes else (image[part].swapaxes(0, 1), label[part][None])
        shards.append(write_shard(folder, f"synth_{len(shards):05d}", *arrays, numbers, numbers[-1] + 1, preprocessed))
    BankRecord(
        name=name,
        source=Source.of(preprocessed, preprocessed.fold(0)),
        origin=Generators(
            snapshots=(SnapshotReference(path="/x/s/1", weights_sha256="0" * 64, images_seen=1, variant="pair"),),
            patch_size=image.shape[2:],
            seed=3,
            backends=("native",),
        ),
        requested=len(image),
        shards=tuple(shards),
        created="2025",
        release="0",
    ).save(folder / RECORD_FILE)
    return folder
