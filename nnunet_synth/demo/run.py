"""The demo: virtual subjects, a generator, a bank, and nnU-Net with and without it, by everyone's real commands."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

from nnunet_synth.demo.cohort import write_cohort
from nnunet_synth.demo.steps import Steps
from nnunet_synth.launcher import VARIABLE, ext_trainer_path
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write, write_atomically

DATASET_ID, DATASET = "901", "Dataset901_VirtualBrain"
PLANS = "nnUNetPlansDemo"
KIMG, SAMPLES = "8", "500"
OPEN_FILTERS = ("range", "anatomy", "fit")  # a generator that has seen so little would hardly pass one of them
ARMS = {"real cases alone": "nnUNetTrainer_5epochs", "with synthetic pairs": "nnUNetTrainerSynth_5epochs"}
CLASSES = {"1": "grey matter", "2": "white matter"}
CAVEAT = (
    "A run this short shows the way, not the benefit: the generator saw few images, nnU-Net trained for minutes, once\n"
    "per row, and nnU-Net's own run-to-run noise is up to one Dice point. These two rows can't say whether it helps."
)


def run_demo(folder: Path, device: str) -> None:
    """Go the whole way in `folder`; a demo that was stopped goes on.

    Raises:
        UserError: the folder holds something else or can't be made, or a command failed.
        Stopped: after Ctrl-C.
    """
    if importlib.util.find_spec("nilearn") is None:
        raise UserError('The demo\'s template brain comes with nilearn. Type: pip install "nnunet-synth[demo]"')
    with explained_write(folder / "done"):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / "done").exists():
        raise UserError(f"{folder} holds other things. Choose another folder: nnunet-synth demo --folder {folder}_2")
    steps = Steps(folder, _variables(folder))
    print(
        f"All of it goes to {folder.resolve()}. About 10 minutes on two cores. After Ctrl-C, the same command goes on."
    )
    _write_cohort(folder, steps)
    preprocess = ["nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", "2d", "-np", "2", "-npfp", "2"]
    steps.run("preprocess", "nnU-Net plans and preprocesses", preprocess)
    _write_small_plans(folder)
    data = [DATASET_ID, "2d", "0"]
    steps.run(
        "generator",
        "A generator learns from the training cases of fold 0",
        ["stylegan2-cond", "train", *data, "--kimg", KIMG, "--device", device],
        own_bar=True,
    )
    without = [word for filter_ in OPEN_FILTERS for word in ("--without", filter_)]
    steps.run(
        "bank",
        f"It fills a bank with new pairs, without the filters {', '.join(OPEN_FILTERS)}: it is too young",
        ["nnunet-synth", "bank", *data, "-n", SAMPLES, "--device", device, *without],
        own_bar=True,
    )
    for arm in ARMS:
        _train_and_test(folder, steps, arm, device)
    _report(folder)


def _variables(folder: Path) -> dict[str, str]:
    """nnU-Net's folders inside of the demo's, the plugin's trainers, and few processes on a small machine."""
    folders = {name: str((folder / name).resolve()) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"} if (os.cpu_count() or 1) <= 4 else {}
    return folders | few | {VARIABLE: ext_trainer_path(os.environ.get(VARIABLE))}


def _write_cohort(folder: Path, steps: Steps) -> None:
    if steps.is_done("cohort"):
        return
    print("\n▶ 24 virtual subjects are warped from the MNI152 template: 16 to train on, 8 held out as a test set")
    raw = folder / "nnUNet_raw" / DATASET
    shutil.rmtree(raw, ignore_errors=True)  # what a stopped run left
    write_cohort(raw)
    steps.mark_done("cohort")


def _write_small_plans(folder: Path) -> None:
    """nnU-Net's plans with a narrower network and small batches, so that five epochs take two minutes on a CPU."""
    base = folder / "nnUNet_preprocessed" / DATASET
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"]["2d"]
    network = configuration["architecture"]["arch_kwargs"]
    stages = network["n_stages"]
    configuration["batch_size"] = 4
    network["features_per_stage"] = [8 * 2**stage for stage in range(stages)]
    network["n_conv_per_stage"] = [1] * stages
    network["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    with write_atomically(base / f"{PLANS}.json") as temporary:
        temporary.write_text(json.dumps(plans, indent=2))


def _train_and_test(folder: Path, steps: Steps, arm: str, device: str) -> None:
    """nnU-Net's own train, predict and evaluate for one arm."""
    trainer = ARMS[arm]
    model, predictions = _model(folder, trainer), _predictions(folder, trainer)
    going_on = ["--c"] if (model / "fold_0" / "checkpoint_best.pth").exists() else []
    steps.run(
        f"train_{trainer}",
        f"nnU-Net trains: {arm}",
        ["nnUNetv2_train", DATASET_ID, "2d", "0", "-p", PLANS, "-tr", trainer, "-device", device, *going_on],
    )
    raw = folder / "nnUNet_raw" / DATASET
    which = ["-d", DATASET_ID, "-c", "2d", "-f", "0", "-tr", trainer, "-p", PLANS]
    files = ["-i", str(raw / "imagesTs"), "-o", str(predictions)]
    steps.run(
        f"predict_{trainer}",
        "nnU-Net predicts the test subjects",
        ["nnUNetv2_predict", *files, *which, "-device", device, "--disable_tta", "-npp", "1", "-nps", "1"],
    )
    descriptions = ["-djfile", str(model / "dataset.json"), "-pfile", str(model / "plans.json")]
    steps.run(
        f"evaluate_{trainer}",
        "nnU-Net evaluates them",
        ["nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(predictions), *descriptions, "-np", "1"],
    )


def _report(folder: Path) -> None:
    rows = [f"| Dice on 8 test subjects | {' | '.join(CLASSES.values())} | mean |", "| --- | --- | --- | --- |"]
    for arm, trainer in ARMS.items():
        summary = json.loads((_predictions(folder, trainer) / "summary.json").read_text())
        figures = [*(summary["mean"][label]["Dice"] for label in CLASSES), summary["foreground_mean"]["Dice"]]
        rows.append(f"| {arm} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    table = "\n".join(rows) + f"\n\n{CAVEAT}\n"
    with write_atomically(folder / "results.md") as temporary:
        temporary.write_text(table)
    generator = folder / "nnUNet_results" / DATASET / "StyleGAN2Cond_pair__nnUNetPlans__2d" / "fold_0"
    bank = next((folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d_synth" / "fold_0").glob("*/previews.png"))
    newest = sorted((generator / "previews").glob("*.png"))[-1]
    print(f"\n{table}\nReal above, drawn below: {newest}\nBank:                    {bank.parent}")
    for arm, trainer in ARMS.items():
        print(f"{arm + ':':<24} {_model(folder, trainer)}")
    print(f"Table:                   {folder / 'results.md'}\nLogs:                    {folder / 'logs'}")


def _model(folder: Path, trainer: str) -> Path:
    return folder / "nnUNet_results" / DATASET / f"{trainer}__{PLANS}__2d"


def _predictions(folder: Path, trainer: str) -> Path:
    return folder / "predictions" / trainer
