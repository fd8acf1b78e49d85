"""Pictures of generated pairs and of segmentations that differ from those of nnU-Net alone; tables cannot make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.bank.previews import first_samples
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.scoring import read_rows
from nnunet_synth.benchmark.task_runner import read_record, scores_path
from nnunet_synth.benchmark.workspace import bank_folder, generator_folder, model_folder
from nnunet_synth.pages.page import PICTURES, Picture
from nnunet_synth.pages.plotting import STYLE, WIDTH, png_of
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.io import write_atomically
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import colour_mask, overlay_grid

COLUMNS = {2: 8, 3: 3}  # samples of a bank, by the number of axes
MARGIN = 6  # voxels around what is segmented
DPI = 110
TEXTS = {  # alt and caption by name
    "example-pairs": (
        "The first pairs that each arm generates, image and mask.",
        "The first samples of each bank of the first training set; next to each image, the same with its mask.",
    ),
    "example-cases": (
        "Truth and predictions of test cases in which an arm and nnU-Net alone differ.",
        "At the smallest size, first training set: the test case where the arm gains most, one in the middle, and the "
        "one where it loses most. Of each: truth, nnU-Net alone, the arm, in the slice with most foreground.",
    ),
}


def plot_examples(folder: Path, design: Design, preprocessed: Preprocessed) -> None:
    """Write `figures/example-pairs.png` and `figures/example-cases.png` of what is done.

    Args:
        folder: of the benchmark.
        design: of the benchmark.
        preprocessed: the data.
    """
    for name, rows in (("example-pairs", _pairs), ("example-cases", _cases)):
        with matplotlib.rc_context(STYLE):
            if figure := _stacked(list(rows(folder, design, preprocessed))):
                with write_atomically(folder / PICTURES / f"{name}.png") as temporary:
                    temporary.write_bytes(png_of(figure, DPI))


def found_examples(folder: Path) -> list[Picture]:
    """The example pictures that a folder has."""
    paths = {name: folder / PICTURES / f"{name}.png" for name in TEXTS}
    return [Picture(name, path.read_bytes(), *TEXTS[name], zoom=1) for name, path in paths.items() if path.exists()]


def _stacked(rows: Sequence[tuple[str, np.ndarray]]) -> Figure | None:
    """Pictures below each other, each with its title."""
    if not rows:
        return None
    heights = [picture.shape[0] / picture.shape[1] * WIDTH for _, picture in rows]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, picture) in zip(axes, rows, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, loc="left")
        axis.set_axis_off()
    return figure


def _pairs(folder: Path, design: Design, preprocessed: Preprocessed) -> Iterator[tuple[str, np.ndarray]]:
    """A row for each bank at each size of the first training set."""
    arms = {arm.bank: arm for arm in reversed(design.arms) if arm.bank}  # the first arm of each bank
    for arm in reversed(arms.values()):
        for size in design.sizes:
            if read_record(folder, f"bank_{arm.bank}_{size}_0").state != "done":
                continue
            fold = design.fold(size, 0)
            bank = bank_folder(folder, design, preprocessed, arm, fold)
            record = BankRecord.load(bank / RECORD_FILE)
            codec = Plan.load(generator_folder(folder, design, arm.generators[0], fold) / "plan.json").codec
            columns = COLUMNS[len(record.patch_size)]
            ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
            grid = overlay_grid(*first_samples(bank, record, columns), **ranges, columns=columns)
            yield f"{arm.title}, {size} training cases", grid


def _cases(folder: Path, design: Design, preprocessed: Preprocessed) -> Iterator[tuple[str, np.ndarray]]:
    """A row for each arm with pairs; of each of three cases the truth, nnU-Net alone, and the arm."""
    size = design.sizes[0]
    alone = _dice(folder, design.baseline, size)
    for arm in design.arms:
        if not (arm.variant and alone and (scores := _dice(folder, arm, size))):
            continue
        order = sorted({*alone} & {*scores}, key=lambda case: alone[case] - scores[case])
        cases = [order[0], order[len(order) // 2], order[-1]]
        changes = ", ".join(f"{case} {100 * alone[case]:.0f} → {100 * scores[case]:.0f}" for case in cases)
        pictures = [_masks(folder, design, preprocessed, arm, size, case) for case in cases]
        height = max(len(picture) for picture in pictures)
        pictures = [np.pad(p, ((0, height - len(p)), (0, 8), (0, 0)), constant_values=1) for p in pictures]
        yield f"{arm.title}; Dice {changes}", np.concatenate(pictures, axis=1)


def _dice(folder: Path, arm: Arm, size: int) -> Mapping[str, float]:
    """Mean over classes, by case; empty where the run is not done."""
    path, found = scores_path(folder, f"run_{arm.name}_{size}_0"), {}
    for row in read_rows(path) if path.exists() else ():
        found.setdefault(row["case"], []).append(float(row["dice"] or "nan"))
    return {case: float(np.nanmean(values)) for case, values in found.items() if not np.isnan(values).all()}


def _masks(folder: Path, design: Design, preprocessed: Preprocessed, arm: Arm, size: int, case: str) -> np.ndarray:
    """Truth, nnU-Net alone and the arm next to each other, `[H, W, 3]`, cut to what they show."""
    ending, reader = preprocessed.dataset_json["file_ending"], preprocessed.plans_manager.image_reader_writer_class()
    fold = f"fold_{design.fold(size, 0)}"
    predicted = [model_folder(folder, design, one) / fold / "validation" for one in (design.baseline, arm)]
    files = [where / f"{case}{ending}" for where in (preprocessed.base / "gt_segmentations", *predicted)]
    volumes = np.stack([reader.read_seg(str(file))[0][0] for file in files])  # [3, z, y, x]
    slices = volumes[:, int((volumes[0] > 0).sum(axis=(1, 2)).argmax())]
    shown = (slices > 0).any(axis=0)
    places = np.nonzero(shown) if shown.any() else [np.array([0, length]) for length in shown.shape]
    box = tuple(slice(max(0, int(p.min()) - MARGIN), int(p.max()) + MARGIN + 1) for p in places)
    labels = preprocessed.label_manager.foreground_labels
    tiles = [colour_mask(np.full(mask[box].shape, 0.12), mask[box], labels, opacity=0.8) for mask in slices]
    return np.concatenate([np.pad(tile, ((0, 0), (0, 2), (0, 0)), constant_values=1) for tile in tiles], axis=1)
