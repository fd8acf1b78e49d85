#!/usr/bin/env bash
# What made this report: do better generators help more? Those of ../hippocampus_benchmark saw 8,000 images, these 32,000.
#
#   examples/hippocampus_longer/run.sh [FOLDER]
#
# FOLDER  where everything goes; ./hippocampus_longer if not given
#
# About two hours on two CPU cores; after a stop, the same command goes on. The dataset's preprocessed folder had
# the 160 cases that are no test cases in ../hippocampus_benchmark/design.json, so that nothing is learnt from those.
set -euo pipefail
nnunet-synth benchmark 4 2d --quick -o "${1:-hippocampus_longer}" --sizes 4 --training-sets 2 --test-cases 40 --seed 11 \
  --kimg 32 --arms "$(dirname "$0")/arms.toml"
