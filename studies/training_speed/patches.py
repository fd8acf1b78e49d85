"""How many patches a second one thread reads from cases that do not fit the memory for them.

python studies/training_speed/patches.py 27 2d
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler

CASES, PATCHES, ROUNDS, SEED = 1000, 1000, 6, 0
PATCH_SIZE, FOREGROUND_SHARE = (64, 64), 0.33
SHARES = (0.0, 0.1, 0.5)  # of the bytes of all cases, kept in memory


def link_cases(few: Preprocessed, folder: Path) -> Preprocessed:
    """The same dataset in `folder` with `CASES` cases, which are links to the few."""
    there = folder / few.dataset_name / few.folder.name
    there.mkdir(parents=True)
    names = few.case_names()
    for number in range(CASES):
        name = names[number % len(names)]
        for file in [*few.folder.glob(f"{name}.*"), *few.folder.glob(f"{name}_seg.*")]:
            (there / f"case_{number:04}{file.name.removeprefix(name)}").symlink_to(file)
    for file in few.base.glob("*.json"):
        (there.parent / file.name).symlink_to(file)
    os.environ["nnUNet_preprocessed"] = str(folder)  # noqa: SIM112
    return open_preprocessed(few.dataset_name, few.configuration_name, few.plans_name)


def per_second(patches: PatchSampler, first: int) -> float:
    """Patches a second, from patch `first` on."""
    start = time.perf_counter()
    patches.batch(first, PATCHES)
    return PATCHES / (time.perf_counter() - start)


def main() -> None:
    """Print a line for each size of the memory: mean and standard deviation of rounds, after one that fills it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    args = parser.parse_args()
    few = open_preprocessed(args.dataset, args.configuration)
    with tempfile.TemporaryDirectory() as folder:
        many = link_cases(few, Path(folder))
        names = many.case_names()
        size = sum(np.prod(case.image.shape) * 4 + np.prod(case.label.shape) * 2 for case in map(many.load, names))
        print(f"{len(names)} cases, {size / 2**30:.1f} GiB in memory, patches of {'×'.join(map(str, PATCH_SIZE))}")
        for share in SHARES:
            cache = int(share * size)
            patches = PatchSampler(many, names, PATCH_SIZE, foreground_share=FOREGROUND_SHARE, seed=SEED, cache=cache)
            rounds = [per_second(patches, number * PATCHES) for number in range(ROUNDS + 1)][1:]
            print(f"{cache / 2**30:.2f} GiB for cases: {np.mean(rounds):.0f} ± {np.std(rounds):.0f} patches a second")


if __name__ == "__main__":
    main()
