"""What arms draw, and what they segment otherwise than nnU-Net alone, to look at; tables can't make these pictures."""

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
from nnunet_synth.benchmark.report.figures import FIGURES, Picture
from nnunet_synth.benchmark.report.style import STYLE
from nnunet_synth.benchmark.scoring import read_rows
from nnunet_synth.benchmark.task_runner import read_record, scores_path
from nnunet_synth.benchmark.tasks import generator_folder
from nnunet_synth.benchmark.workspace import bank_folder, model_folder
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.io import write_atomically
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import colour_mask, overlay_grid

COLUMNS = {2: 8, 3: 3}  # samples of a bank, by the number of axes
MARGIN = 6  # voxels around what is segmented
WIDTH = 9.6  # inches
PAIRS = Picture(
    "example-pairs",
    "The first samples that each arm draws, image and mask.",
    "The first samples of each bank in the first repeat; beside each image, its mask over it.",
)
CASES = Picture(
    "example-cases",
    "Truth and predictions of test cases in which an arm and nnU-Net alone differ.",
    "At the smallest size, first repeat: the test case where the arm gains most, one in the middle, and the one where "
    "it loses most. Of each: truth, nnU-Net alone, the arm, in the slice with most foreground.",
)


def draw_examples(folder: Path, design: Design, preprocessed: Preprocessed) -> None:
    """Draw `figures/example-pairs.png` and `figures/example-cases.png` of what is done.

    Args:
        folder: of the benchmark.
        design: of the benchmark.
        preprocessed: the data.
    """
    for picture, rows in (
        (PAIRS, _pairs(folder, design, preprocessed)),
        (CASES, _cases(folder, design, preprocessed)),
    ):
        with matplotlib.rc_context(STYLE):
            if figure := _figure(list(rows)):
                path = folder / FIGURES / f"{picture.name}.png"
                path.parent.mkdir(exist_ok=True)
                with write_atomically(path) as temporary:
                    figure.savefig(temporary, format="png", dpi=110, facecolor="white", metadata={"Software": None})


def found_examples(folder: Path) -> list[Picture]:
    """The pictures that a folder has."""
    return [picture for picture in (PAIRS, CASES) if (folder / FIGURES / f"{picture.name}.png").exists()]


def _figure(rows: Sequence[tuple[str, np.ndarray]]) -> Figure | None:
    """One picture under the other, each with its title."""
    if not rows:
        return None
    heights = [picture.shape[0] / picture.shape[1] * WIDTH for _, picture in rows]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3 * len(rows)), layout="constrained")
    for axes, (title, picture) in zip(
        figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0], rows, strict=True
    ):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, loc="left")
        axes.set_axis_off()
    return figure


def _pairs(folder: Path, design: Design, preprocessed: Preprocessed) -> Iterator[tuple[str, np.ndarray]]:
    """A row for each bank at each size of the first repeat."""
    banks = [arm.bank for arm in design.arms]
    for arm in (arm for index, arm in enumerate(design.arms) if arm.bank and arm.bank not in banks[:index]):
        for size in design.sizes:
            fold = design.fold(size, 0)
            bank = bank_folder(folder, design, preprocessed, arm, fold)
            if read_record(folder, f"bank_{arm.bank}_{size}_0").state != "done":
                continue
            record = BankRecord.load(bank / RECORD_FILE)
            codec = Plan.load(generator_folder(folder, design, arm.generators[0], fold) / "plan.json").codec
            columns = COLUMNS[len(record.patch_size)]
            shown = first_samples(bank, record, columns)
            ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
            yield f"{arm.title}, {size} training cases", overlay_grid(*shown, **ranges, columns=columns)


def _cases(folder: Path, design: Design, preprocessed: Preprocessed) -> Iterator[tuple[str, np.ndarray]]:
    """A row for each arm with pairs; of each of three cases the truth, nnU-Net alone, and the arm."""
    size = design.sizes[0]
    alone = _dice(folder, design.baseline, size)
    for arm in design.arms:
        if not (arm.variant and alone and (there := _dice(folder, arm, size))):
            continue
        order = sorted({*alone} & {*there}, key=lambda case: alone[case] - there[case])
        cases = [order[0], order[len(order) // 2], order[-1]]
        told = ", ".join(f"{case} {100 * alone[case]:.0f} → {100 * there[case]:.0f}" for case in cases)
        yield (
            f"{arm.title}; Dice {told}",
            _side_by_side([_masks(folder, design, preprocessed, arm, size, case) for case in cases]),
        )


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(len(picture) for picture in pictures)
    padded = [np.pad(p, ((0, height - len(p)), (0, 8), (0, 0)), constant_values=1) for p in pictures]
    return np.concatenate(padded, axis=1)


def _dice(folder: Path, arm: Arm, size: int) -> Mapping[str, float]:
    """Mean over classes, by case; empty where the cell is not done."""
    path, found = scores_path(folder, f"cell_{arm.name}_{size}_0"), {}
    for row in read_rows(path) if path.exists() else ():
        found.setdefault(row["case"], []).append(float(row["dice"] or "nan"))
    return {case: float(np.nanmean(values)) for case, values in found.items() if not np.isnan(values).all()}


def _masks(folder: Path, design: Design, preprocessed: Preprocessed, arm: Arm, size: int, case: str) -> np.ndarray:
    """Truth, nnU-Net alone, the arm."""
    ending, reader = preprocessed.dataset_json["file_ending"], preprocessed.plans_manager.image_reader_writer_class()
    fold = f"fold_{design.fold(size, 0)}"
    predicted = [model_folder(folder, design, one) / fold / "validation" for one in (design.baseline, arm)]
    files = [where / f"{case}{ending}" for where in (preprocessed.base / "gt_segmentations", *predicted)]
    volumes = np.stack([reader.read_seg(str(file))[0][0] for file in files])  # [3, z, y, x]
    slices = volumes[:, int((volumes[0] > 0).sum(axis=(1, 2)).argmax())]
    box = _around((slices > 0).any(axis=0))
    labels = preprocessed.label_manager.foreground_labels
    tiles = [colour_mask(np.full(mask[box].shape, 0.12), mask[box], labels, opacity=0.8) for mask in slices]
    return np.concatenate([np.pad(tile, ((0, 0), (0, 2), (0, 0)), constant_values=1) for tile in tiles], axis=1)


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """A box around a mask with a margin; everything where it is empty."""
    places = np.nonzero(mask) if mask.any() else [np.array([0, length]) for length in mask.shape]
    return tuple(slice(max(0, int(p.min()) - MARGIN), int(p.max()) + MARGIN + 1) for p in places)
