"""What scans teach a generator: compares snapshots with the validation cases of their fold, which none of them saw.

python studies/generators_with_scans/measure.py SNAPSHOT [SNAPSHOT …] -o FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nnunet_synth.benchmark.scoring import write_rows
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.compare import compare
from stylegan2_cond.metrics.features_nnunet import open_newest, open_nnunet
from stylegan2_cond.metrics.reference_sets import ReferenceSet
from stylegan2_cond.snapshot import load_generator, open_same_cases
from stylegan2_cond.visualization import GAP, overlay_grid, save_picture

METRICS = ("kid", "kid-pair", "precision", "coverage", "masks", "agreement")
SAMPLES, SHOWN = 2000, 16
COLUMNS = ("snapshot", "patches", "images_seen", "metric", "value", "standard_error")


def picture(samples: SampleSet, plan) -> np.ndarray:
    """The first samples, `[height, width, 3]` uint8."""
    codec = plan.codec
    first = samples.take(slice(SHOWN))
    return overlay_grid(first.image, first.label, low=codec.low, high=codec.high, labels=codec.labels, rgb=codec.rgb)


def measure(folder: Path, nnunet: Path | None) -> tuple[list[dict], np.ndarray]:
    """Rows as `COLUMNS`, of generated and of the training's real patches, and a picture of both."""
    generator = load_generator(folder)
    plan, preprocessed = generator.plan, open_same_cases(generator.plan)
    cases = preprocessed.fold(plan.source.fold).validation
    reference = ReferenceSet(preprocessed, plan, SAMPLES, held_out_cases=cases)
    network = open_nnunet(nnunet, plan.source, "cpu") if nnunet else open_newest(plan.source, "cpu")
    sets = {"generated": generator.sample(SAMPLES), "training": reference.real}
    rows = []
    for patches, samples in sets.items():
        results = compare(reference.held_out, samples, METRICS, "random", nnunet=network)
        for name, result in results.items():
            values = plan.source.describe_cases(), patches, generator.card.images_seen, name
            rows.append(dict(zip(COLUMNS, (*values, result.value, result.standard_error), strict=True)))
    return rows, picture(sets["generated"], plan)


def main() -> None:
    """Write `metrics.csv` and `samples.png`, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshots", nargs="+", type=Path, help="folder of a snapshot")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--nnunet", type=Path, help="trained nnU-Net of the fold (default: the newest)")
    arguments = parser.parse_args()
    rows, pictures = [], []
    for folder in arguments.snapshots:
        found, shown = measure(folder, arguments.nnunet)
        rows += found
        pictures += [shown, np.full((4 * GAP, shown.shape[1], 3), 255, np.uint8)]
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.output / "metrics.csv", COLUMNS, rows)
    width = min(shown.shape[1] for shown in pictures)
    save_picture(arguments.output / "samples.png", np.concatenate([shown[:, :width] for shown in pictures[:-1]]))
    for row in rows:
        print(f"{row['snapshot']:<45}{row['patches']:<11}{row['metric']:<11}", end="")
        print(f"{row['value']:.4g} ± {row['standard_error']:.2g}")


if __name__ == "__main__":
    main()
