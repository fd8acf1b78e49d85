#!/usr/bin/env bash
# Synthetic pairs on MSD Task04 Hippocampus, 2d, fold 0: nnU-Net with and without them.
#
#   examples/hippocampus.sh [DATA] [OUTPUT]
#
# DATA    a folder with Dataset004_Hippocampus (nnU-Net's raw format, anywhere below it) or Task04_Hippocampus (as
#         unpacked from the Medical Segmentation Decathlon); downloaded (CC BY-SA 4.0) by default
# OUTPUT  output folder (default: ./hippocampus)
#
# With a GPU: a generator of 200,000 images and nnU-Net's full 1000 epochs. Without one: 20,000 images, and five epochs
# of a narrower nnU-Net, about half an hour on two cores. Finished steps are not repeated.
set -euo pipefail

data=${1:-}
output=${2:-hippocampus}
url=https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar
md5=9d24dba78a72977dbd1d2e110310f31b

fail() { echo "Error: $*" >&2; exit 2; }
say() { printf '\n▶ %s\n' "$*"; }
command -v nnunet-synth >/dev/null || fail "nnunet-synth is not on the PATH. Type: source .venv/bin/activate"

mkdir -p "$output"
output=$(cd "$output" && pwd)
export nnUNet_raw=$output/nnUNet_raw nnUNet_preprocessed=$output/nnUNet_preprocessed nnUNet_results=$output/nnUNet_results
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
eval "$(nnunet-synth env)"

if [ ! -e "$nnUNet_raw/Dataset004_Hippocampus/dataset.json" ]; then
  if [ -z "$data" ]; then
    say "Downloading MSD Task04 Hippocampus"
    curl --fail --location --continue-at - --output "$output/Task04_Hippocampus.tar" "$url" ||
      fail "$url cannot be reached. Download it elsewhere, unpack it, and give the folder: $0 FOLDER"
    found=$(python -c 'import hashlib, sys; print(hashlib.md5(open(sys.argv[1], "rb").read()).hexdigest())' \
      "$output/Task04_Hippocampus.tar")
    if [ "$found" != "$md5" ]; then
      rm "$output/Task04_Hippocampus.tar"
      fail "the download has checksum $found, not $md5, and was removed. Run the same command again."
    fi
    tar -xf "$output/Task04_Hippocampus.tar" -C "$output"
    data=$output
  fi
  [ -d "$data" ] || fail "there is no folder $data"
  raw=$(find -L "$data" -maxdepth 3 -type d -name Dataset004_Hippocampus | head -n 1)
  task=$(find -L "$data" -maxdepth 2 -type d -name Task04_Hippocampus | head -n 1)
  if [ -n "$raw" ]; then
    rm -rf "$nnUNet_raw/Dataset004_Hippocampus"
    cp -RL "$raw" "$nnUNet_raw/Dataset004_Hippocampus.part"
    chmod -R u+w "$nnUNet_raw/Dataset004_Hippocampus.part"
    mv "$nnUNet_raw/Dataset004_Hippocampus.part" "$nnUNet_raw/Dataset004_Hippocampus"
  elif [ -n "$task" ]; then
    say "Converting to nnU-Net's format"
    find "$task" -name '._*' -delete # macOS leaves these in the archive
    nnUNetv2_convert_MSD_dataset -i "$task"
  else
    fail "$data has neither Dataset004_Hippocampus nor Task04_Hippocampus below it"
  fi
fi

if [ ! -e "$nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans_2d" ]; then
  say "nnU-Net plans and preprocesses"
  nnUNetv2_plan_and_preprocess -d 4 -c 2d -np 2 --verify_dataset_integrity
fi

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  device=cuda plans=nnUNetPlans kimg=200 length=
else
  device=cpu plans=nnUNetPlansSmall kimg=20 length=_5epochs
  export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=2
  python - <<'PYTHON'
import json, os, pathlib
base = pathlib.Path(os.environ["nnUNet_preprocessed"], "Dataset004_Hippocampus")
plans = json.loads((base / "nnUNetPlans.json").read_text())
plans["plans_name"] = "nnUNetPlansSmall"
plans["configurations"]["2d"]["batch_size"] = 16
plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [16, 32, 64, 128]
(base / "nnUNetPlansSmall.json").write_text(json.dumps(plans, indent=2))
PYTHON
fi

say "A generator learns from the training cases of fold 0"
stylegan2-cond train 4 2d 0 --kimg "$kimg" --device "$device"

say "It fills a bank with new pairs"
nnunet-synth bank 4 2d 0 -n 1000 --device "$device"

for trainer in "nnUNetTrainer$length" "nnUNetTrainerSynth$length"; do
  model=$nnUNet_results/Dataset004_Hippocampus/${trainer}__${plans}__2d
  if [ ! -e "$model/fold_0/validation/summary.json" ]; then
    say "nnU-Net trains: $trainer"
    resume=
    if [ -e "$model/fold_0/checkpoint_best.pth" ]; then resume=--c; fi
    nnUNetv2_train 4 2d 0 -p "$plans" -tr "$trainer" -device "$device" $resume
  fi
done

say "Dice on the validation cases of fold 0, on which neither generator nor nnU-Net was trained"
python - "$plans" "$length" <<'PYTHON'
import json, os, pathlib, sys
plans, length = sys.argv[1:]
results = pathlib.Path(os.environ["nnUNet_results"], "Dataset004_Hippocampus")
print("| trainer | anterior | posterior | mean |\n| --- | --- | --- | --- |")
for trainer in (f"nnUNetTrainer{length}", f"nnUNetTrainerSynth{length}"):
    summary = json.loads((results / f"{trainer}__{plans}__2d/fold_0/validation/summary.json").read_text())
    figures = [summary["mean"]["1"]["Dice"], summary["mean"]["2"]["Dice"], summary["foreground_mean"]["Dice"]]
    print(f"| {trainer} | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |")
print("\nOne run each: nnU-Net's own run-to-run noise is up to one Dice point, so this shows how it works, not whether it helps.")
PYTHON
