#!/usr/bin/env bash
# What made this report: do synthetic pairs help on MSD Task04 Hippocampus, 2-D, with 4, 8 and 16 training cases?
#
#   examples/hippocampus_benchmark/run.sh [FOLDER]
#
# FOLDER  where everything goes; ./hippocampus_benchmark if not given
#
# About two hours on two CPU cores; after a stop, the same command goes on. nnU-Net's three variables must be set, and the
# dataset preprocessed: nnUNetv2_plan_and_preprocess -d 4 -c 2d. The report is of 200 of the dataset's 260 labelled cases;
# with others, other cases are drawn. Which ones were trained and tested on stands in design.json.
set -euo pipefail
nnunet-synth benchmark 4 2d --quick -o "${1:-hippocampus_benchmark}" --sizes 4,8,16 --training-sets 3 --test-cases 40 \
  --arm nnunet --arm nnunet-again --arm da5 --arm elastic --arm pair --arm image --arm image-pretrain
