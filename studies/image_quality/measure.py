"""Quality of the three kinds of pairs that generators of a fold make, beside that of other real patches.

python studies/image_quality/measure.py DATASET -o FOLDER [--fold FOLD] [-p PLANS] [--nnunet MODEL]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.metrics.compare import compare
from stylegan2_cond.metrics.features_nnunet import open_newest, open_nnunet
from stylegan2_cond.metrics.reference_sets import ReferenceSet
from stylegan2_cond.planning import Plan, Source, run_folder
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import find_best, load_generator, open_masks
from stylegan2_cond.visualization import GAP, overlay_grid, save_picture

SHOWN_METRICS = ("kid", "kid-pair", "precision", "coverage", "agreement", "conditions", "copies")
SAMPLES, SHOWN = 2000, 6
REAL = "other real patches"
COLUMNS = ("data", "cases", "patches", "images", "metric", "value", "standard_error")


def samples_of(source: Source, count: int) -> tuple[Plan, dict[str, tuple[SampleSet, int]]]:
    """The plan of the pairs' generator; and by kind of pairs, samples and the number of images it was trained on."""
    folders = {variant: find_best(run_folder(source, variant)) for variant in ("pair", "image", "mask")}
    if missing := [variant for variant, folder in folders.items() if folder is None]:
        raise UserError(f"Train first: {source.command('stylegan2-cond train', variant=missing[0])}")
    pair, image = load_generator(folders["pair"]), load_generator(folders["image"])
    kinds = {
        "pairs": (pair, None),
        "images for deformed masks": (image, open_masks("deformed", image.plan)),
        "images for generated masks": (image, open_masks(str(folders["mask"]), image.plan)),
    }
    made = {}
    for kind, (generator, masks) in ProgressBar(kinds.items(), desc="Generating samples", unit="kind"):
        made[kind] = generator.sample(count, masks=masks), generator.card.images_seen
    return pair.plan, made


def measure(dataset: str, fold: str, plans: str, nnunet: Path | None) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows as `COLUMNS`, and a picture: a row of real pairs, and below it one of each kind."""
    preprocessed = open_preprocessed(dataset, "2d", plans)
    source = Source.of(preprocessed, preprocessed.fold(fold), None)
    plan, made = samples_of(source, SAMPLES)
    reference = ReferenceSet(preprocessed, plan, SAMPLES)
    network = open_nnunet(nnunet, source) if nnunet else open_newest(source)
    rows, pictures = [], [reference.real]
    for kind, (samples, images) in {REAL: (reference.again, 0), **made}.items():
        names = [name for name in SHOWN_METRICS if name != "conditions" or kind != REAL]
        found = compare(
            reference.real,
            samples,
            names,
            "random",
            nnunet=network,
            reference=reference.cover.patches,
            conditions=plan.conditions,
            progress=lambda name, kind=kind: print(f"{kind}: {METRICS[name].title}", flush=True),
        )
        first = source.dataset_name.partition("_")[2], len(source.training_cases), kind, images
        rows += [(*first, name, result.value, result.standard_error) for name, result in found.items()]
        pictures += [samples] * (kind != REAL)
    shown = [_row(samples, plan) for samples in pictures]
    gap = np.full((4 * GAP, shown[0].shape[1], 3), 255, np.uint8)
    picture = np.concatenate([part for one in shown for part in (one, gap)][:-1])
    return pd.DataFrame(rows, columns=COLUMNS), picture


def _row(samples: SampleSet, plan: Plan) -> np.ndarray:
    codec, first = plan.codec, samples.take(slice(SHOWN))
    ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
    return overlay_grid(first.image, first.label, columns=SHOWN, **ranges)


def markdown(table: pd.DataFrame) -> str:
    """All metrics of all data, one line for each kind of patches."""
    lines = [["data", "patches", *(METRICS[name].title for name in SHOWN_METRICS)]]
    lines.append(["---", "---", *["---:"] * len(SHOWN_METRICS)])
    for (data, cases, kind), rows in table.groupby(["data", "cases", "patches"], sort=False):
        found = rows.set_index("metric")
        cells = [_cell(found.loc[name]) if name in found.index else "–" for name in SHOWN_METRICS]
        lines.append([f"{data}, {cases}", kind, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: pd.Series) -> str:
    error = f" ± {row['standard_error']:.2g}" if np.isfinite(row["standard_error"]) else ""
    return (f"{row['value']:.2g}" + error).replace("-", "−") if np.isfinite(row["value"]) else "–"


def main() -> None:
    """Write `NAME.csv` and `NAME.png`, and print the table of all data that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="name or number")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--fold", default="0", help="fold whose training cases the generators have seen")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="name of nnU-Net's plans")
    parser.add_argument("--nnunet", type=Path, help="trained nnU-Net of the fold (default: the newest)")
    arguments = parser.parse_args()
    table, picture = measure(arguments.dataset, arguments.fold, arguments.plans, arguments.nnunet)
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = table["data"].iloc[0].lower()
    table.to_csv(arguments.output / f"{name}.csv", index=False, float_format="%.4g")
    save_picture(arguments.output / f"{name}.png", picture)
    print(markdown(pd.concat([pd.read_csv(path) for path in sorted(arguments.output.glob("*.csv"))])))


if __name__ == "__main__":
    main()
