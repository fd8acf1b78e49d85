"""Predicts the test cases by the mean probability of the baseline's nnU-Nets of one training set.

Run as `python -m nnunet_synth.benchmark.ensemble FOLDER ARM FOLD DEVICE`, within the benchmark's nnU-Net folders.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_synth.benchmark.design import DESIGN_FILE, Design
from nnunet_synth.benchmark.workspace import model_folder, predictions_folder
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.progress_bar import ProgressBar


def predict_ensemble(folder: Path, arm_name: str, fold: int, device: str) -> None:
    """Write the predictions of the test cases and nnU-Net's `summary.json` into the arm's `predictions_folder`.

    Args:
        folder: of the benchmark.
        arm_name: of an ensemble; all the baseline's nnU-Nets of the fold are trained.
        fold: of the training set.
        device: `cpu`, `cuda` or `mps`.
    """
    design = Design.load(folder / DESIGN_FILE)
    preprocessed = open_preprocessed(design.dataset, design.configuration, design.plans)
    arm = next(arm for arm in design.arms if arm.name == arm_name)
    predictors = []
    for run in range(design.baseline_runs):
        predictor = nnUNetPredictor(
            use_mirroring=design.budget.length.mirroring, device=torch.device(device), allow_tqdm=False
        )
        model = model_folder(folder, design, design.baseline, run)
        predictor.initialize_from_trained_model_folder(str(model), (fold,))
        predictors.append(predictor)
    target = predictions_folder(folder, design, arm, fold)
    target.mkdir(parents=True, exist_ok=True)
    for case in ProgressBar(design.test_cases, desc="Predicting", unit="case"):
        predict_case(preprocessed, predictors, case, target)
    manager, ending = preprocessed.label_manager, preprocessed.dataset_json["file_ending"]
    compute_metrics_on_folder(
        str(preprocessed.base / "gt_segmentations"),
        str(target),
        str(target / "summary.json"),
        preprocessed.plans_manager.image_reader_writer_class(),
        ending,
        manager.foreground_regions if manager.has_regions else manager.foreground_labels,
        manager.ignore_label,
    )


def predict_case(preprocessed: Preprocessed, predictors: list[nnUNetPredictor], case: str, target: Path) -> None:
    """Write the segmentation of a case by the mean of the predictors' probabilities, on the grid of its raw image."""
    dataset = preprocessed.dataset_class(str(preprocessed.folder), [case])
    image, _, _, properties = dataset.load_case(case)
    image, plans, manager = torch.from_numpy(image[:]), preprocessed.plans_manager, preprocessed.label_manager
    probabilities = [
        convert_predicted_logits_to_segmentation_with_correct_shape(
            predictor.predict_logits_from_preprocessed_data(image),
            plans,
            preprocessed.configuration,
            manager,
            properties,
            return_probabilities=True,
            num_threads_torch=torch.get_num_threads(),
        )[1]
        for predictor in predictors
    ]
    segmentation = manager.convert_probabilities_to_segmentation(np.mean(probabilities, axis=0))
    path = target / f"{case}{preprocessed.dataset_json['file_ending']}"
    plans.image_reader_writer_class().write_seg(segmentation, str(path), properties)


if __name__ == "__main__":
    predict_ensemble(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
