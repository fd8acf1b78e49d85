#!/usr/bin/env bash
# The command of this report: do synthetic pairs help on MSD Task04 Hippocampus, 2-D, with 4, 8 and 16 training cases?
#
#   examples/hippocampus_benchmark/run.sh [FOLDER]
#
# FOLDER  output folder (default: ./hippocampus_benchmark)
#
# It takes about two hours on two CPU cores; to resume, run it again. nnU-Net's three variables must be set, and the dataset
# preprocessed: nnUNetv2_plan_and_preprocess -d 4 -c 2d. The report is based on 200 of the dataset's 260 labelled cases; with
# others, other cases are chosen. design.json lists the training and test cases.
#
# The report was made before the benchmark compared training sets (format_version 2 of design.json, release 0.1.0). Today's
# benchmark does not read it, and repeats nnU-Net alone by itself, without an arm nnunet-again.
set -euo pipefail
nnunet-synth benchmark 4 2d --quick -o "${1:-hippocampus_benchmark}" --sizes 4,8,16 --training-sets 3 --test-cases 40 \
  --arm nnunet --arm nnunet-again --arm da5 --arm elastic --arm pair --arm image --arm image-pretrain
