"""Small cases made up in memory and preprocessed by nnU-Net's own code, in milliseconds, for one test each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.planning import RunOptions

SHAPE = (4, 20, 18)  # slices, height, width
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
LABELS = {"background": 0, "first": 1, "second": 2}
NARROW = {"channels": [8, 8], "latent_dim": 8, "style_dim": 8}  # settings of a plan that trains in no time


def own_folders(tmp_path: Path, monkeypatch) -> Path:
    """Let nnU-Net's variables point below `tmp_path`; returns that of the preprocessed datasets."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_preprocessed"


def configuration_of(channels: int, dims: int) -> dict:
    """What nnU-Net's planner writes, of a dataset of small slices or volumes."""
    resampling = "resample_data_or_seg_to_shape"
    settings = [{"is_seg": is_seg, "order": 1, "order_z": 0, "force_separate_z": None} for is_seg in (False, True)]
    strides = [[1, 1, 1], [1, 2, 2]]
    return {
        "data_identifier": f"nnUNetPlans_{CONFIGURATIONS[dims]}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 8,
        "patch_size": [4, 16, 14][-dims:],
        "median_image_size_in_voxels": [4.0, 20.0, 18.0][-dims:],
        "spacing": [3.0, 1.0, 1.0][-dims:],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling,
        "resampling_fn_data_kwargs": settings[0],
        "resampling_fn_seg_kwargs": settings[1],
        "resampling_fn_probabilities": resampling,
        "resampling_fn_probabilities_kwargs": settings[0],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3, 3, 3][-dims:]] * 2,
                "strides": [stride[-dims:] for stride in strides],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }


def preprocess(
    base: Path,
    cases: dict[str, tuple[np.ndarray, np.ndarray]],
    labels: dict,
    splits: list | None = None,
    dims: int = 2,
    **dataset: object,
) -> Preprocessed:
    """A dataset in nnU-Net's preprocessed folder, by nnU-Net's own preprocessing.

    cases: raw image `[C, *SHAPE]` and label `SHAPE` by name; dims: 2 for the configuration 2d, 3 for 3d_fullres.
    """
    name, configuration = "Dataset950_Small", CONFIGURATIONS[dims]
    channels = len(next(iter(cases.values()))[0])
    plans = {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.0, 1.0],
        "original_median_shape_after_transp": list(SHAPE),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {configuration: configuration_of(channels, dims)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(channels)},
    }
    dataset_json = {
        "channel_names": {str(channel): f"MRI{channel}" for channel in range(channels)},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        **dataset,
    }
    folder = base / name
    (folder / f"nnUNetPlans_{configuration}").mkdir(parents=True)
    files = {"nnUNetPlans": plans, "dataset": dataset_json} | ({} if splits is None else {"splits_final": splits})
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    manager = PlansManager(plans)
    for case, (image, label) in cases.items():
        found = DefaultPreprocessor(verbose=False).run_case_npy(
            image.astype(np.float32),
            label[None].astype(np.int16),
            {"spacing": [3.0, 1.0, 1.0]},
            manager,
            manager.get_configuration(configuration),
            dataset_json,
        )
        nnUNetDatasetBlosc2.save_case(*found, str(folder / f"nnUNetPlans_{configuration}" / case))
    return open_preprocessed(name, configuration)


def run_options(preprocessed: Preprocessed, fold: str = "all", **options: object) -> RunOptions:
    """Options of a run on an opened dataset."""
    return RunOptions(
        dataset=preprocessed.dataset_name,
        configuration=preprocessed.configuration_name,
        fold=fold,
        plans=preprocessed.plans_name,
        **options,
    )


def brain(number: int, labels: int = 2, channels: int = 2, empty_rim: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A raw case: noise with a block of each class, on one slice each; 0 where the rim of the image is empty."""
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, int)
    for value in range(1, labels + 1):
        y, x = rng.integers(2, 12, 2)
        label[value % SHAPE[0], y : y + 5, x : x + 5] = value
    image = rng.normal(100, 20, (channels, *SHAPE)) + 10 * label
    if empty_rim:
        inside = np.zeros(SHAPE, bool)
        inside[:, empty_rim:-empty_rim, empty_rim:-empty_rim] = True
        inside[:, :6, :6] = False  # the non-zero region is no box, so that nnU-Net marks what lies outside of it
        inside[:, 0, 9] = inside[:, 9, 0] = inside[:, -1, 9] = inside[:, 9, -1] = True
        image, label = image * inside, label * inside
    return image, label


def cohort(count: int = 6, **settings: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {f"case_{number}": brain(number, **settings) for number in range(count)}
