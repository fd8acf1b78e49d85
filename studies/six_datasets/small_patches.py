"""Writes nnUNetPlans64: plans with 2-D patches of 64 × 64 and six stages at most, for short trainings.

python studies/six_datasets/small_patches.py DATASET
"""

from __future__ import annotations

import argparse
import json

from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.io import write_atomically

PATCH_SIZE, STAGES = [64, 64], 6  # with which the deepest features are 2 × 2
PER_STAGE = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage")


def small(plans: dict) -> dict:
    """The plans, changed."""
    configuration = plans["configurations"]["2d"] | {"patch_size": PATCH_SIZE}
    network = dict(configuration["architecture"]["arch_kwargs"])
    network |= {key: network[key][:STAGES] for key in PER_STAGE}
    network["n_stages"] = len(network["strides"])
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: network["n_stages"] - 1]
    configuration["architecture"] = configuration["architecture"] | {"arch_kwargs": network}
    return plans | {"plans_name": "nnUNetPlans64", "configurations": plans["configurations"] | {"2d": configuration}}


def main() -> None:
    """Write the plans next to the dataset's own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="name or number")
    preprocessed = open_preprocessed(parser.parse_args().dataset, "2d", "nnUNetPlans")
    with write_atomically(preprocessed.base / "nnUNetPlans64.json") as temporary:
        temporary.write_text(json.dumps(small(preprocessed.plans_manager.plans), indent=4))


if __name__ == "__main__":
    main()
