"""Scores of a run's predictions, per test case and class.

nnU-Net's own Dice and the 95 % Hausdorff distance where the case has the class, else the volume that is found though it
is not there. So what is defined depends on the case alone, and runs can be compared.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json, region_or_label_to_mask
from scipy import ndimage

from nnunet_synth.benchmark.design import label_key
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json, write_atomically
from stylegan2_cond.progress_bar import ProgressBar

COLUMNS = ("case", "label", "dice", "hd95", "false_positive")
PERCENTILE = 95


def score_predictions(preprocessed: Preprocessed, predictions: Path, cases: Sequence[str]) -> list[dict]:
    """One row per case and class, as `COLUMNS`.

    Args:
        preprocessed: dataset with the reference masks in `gt_segmentations`.
        predictions: nnU-Net's `validation` folder, with its `summary.json`.
        cases: the cases that must have been predicted.

    Raises:
        UserError: nnU-Net did not predict these cases, or its summary is damaged.
    """
    found = _dice_by_case(preprocessed, predictions / "summary.json")
    if set(found) != set(cases):
        raise UserError(f"{predictions} has predictions of {len(found)} cases, not of the {len(cases)} test cases.")
    rows, reader = [], preprocessed.plans_manager.image_reader_writer_class()
    ending, ignore = preprocessed.dataset_json["file_ending"], preprocessed.label_manager.ignore_label
    for case in ProgressBar(cases, desc="Measuring distances", unit="case", leave=False):
        (truth,), properties = reader.read_seg(str(preprocessed.base / "gt_segmentations" / f"{case}{ending}"))
        (prediction,), _ = reader.read_seg(str(predictions / f"{case}{ending}"))  # [z, y, x]
        known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
        for label, dice in found[case].items():
            mask, found_mask = (region_or_label_to_mask(part, label) & known for part in (truth, prediction))
            if mask.any():
                scores = {"dice": dice, "hd95": distance(mask, found_mask, properties["spacing"])}
            else:
                voxel = math.prod(properties["spacing"][axis] for axis in _axes(mask))
                scores = {"dice": math.nan, "hd95": math.nan, "false_positive": found_mask.sum() * voxel}
            texts = {metric: "" if math.isnan(value) else f"{value:.6g}" for metric, value in scores.items()}
            rows.append({"case": case, "label": label_key(label)} | texts)
    return rows


def _dice_by_case(preprocessed: Preprocessed, path: Path) -> dict[str, dict[int | tuple[int, ...], float]]:
    remedy = "Run the benchmark's command again; nnU-Net then predicts the test cases again."
    read_json(path, remedy)
    try:
        return {
            preprocessed.case_of(row["prediction_file"]): {
                label: math.nan if metrics["Dice"] is None else float(metrics["Dice"])
                for label, metrics in row["metrics"].items()
            }
            for row in load_summary_json(str(path))["metric_per_case"]
        }
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError, OverflowError) as error:
        raise UserError(f"{path} is not nnU-Net's summary ({type(error).__name__}: {error}). {remedy}") from None


def distance(truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> float:
    """`hausdorff_95`; the diagonal of the image if nothing is found, so that finding nothing does not pay."""
    if prediction.any():
        return hausdorff_95(truth, prediction, spacing)
    return math.hypot(*(truth.shape[axis] * spacing[axis] for axis in _axes(truth)))


def _axes(mask: np.ndarray) -> list[int]:
    """Axes of more than one voxel; all of an image of two axes."""
    return [axis for axis, length in enumerate(mask.shape) if length > 1 or mask.ndim <= 2]


def hausdorff_95(truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles of surface distances; NaN if a mask is empty.

    The surface is the voxels of a mask that share a face with a voxel outside it, or with the edge of the image.
    Distances are between centres of voxels (Maier-Hein et al. 2024, Metrics reloaded, supplement, HD95).

    Args:
        truth, prediction: bool, of one shape; axes of length 1 are ignored.
        spacing: of the axes, in mm.
    """
    if not (truth.any() and prediction.any()):
        return math.nan
    long = _axes(truth)
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(truth | prediction))
    masks = [np.squeeze(mask[box], tuple({*range(truth.ndim)} - {*long})) for mask in (truth, prediction)]
    surfaces = [mask & ~ndimage.binary_erosion(mask, border_value=0) for mask in masks]
    spacing = [spacing[axis] for axis in long]
    return max(_directed(*surfaces, spacing), _directed(*surfaces[::-1], spacing))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    """Write a table as CSV, whole or not at all."""
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict]:
    """The rows of a CSV table; all values are text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_scores(path: Path, cases: Sequence[str]) -> list[dict]:
    """The rows that `score_predictions` made and `write_rows` wrote.

    Raises:
        UserError: the file is missing or damaged, or holds other cases.
    """
    try:
        rows = read_rows(path)
        whole = bool(rows) and all(list(row) == [*COLUMNS] and None not in row.values() for row in rows)
        whole = whole and all(math.isfinite(float(row[figure] or 0)) for row in rows for figure in COLUMNS[2:])
        if not whole or {row["case"] for row in rows} != set(cases):
            raise ValueError("it does not hold the scores of the test cases")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} can't be read ({error}).") from None
    return rows


def _directed(of: np.ndarray, to: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the distances from each voxel of one surface to the nearest of another.

    By scipy, since SimpleITK's `SignedMaurerDistanceMap` (2.5.7) occasionally gave 1,703 mm for 7.7 mm.
    """
    return float(np.percentile(ndimage.distance_transform_edt(~to, sampling=spacing)[of], PERCENTILE))
