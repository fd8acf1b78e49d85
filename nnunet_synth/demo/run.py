"""The demo: virtual subjects, a generator, a bank, and nnU-Net with and without it, by the real commands."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

from nnunet_synth.demo.cohort import write_cohort
from nnunet_synth.launcher import VARIABLE, ext_trainer_path, nnunet_folders, run_logged
from stylegan2_cond.data.nnunet_folders import banks_folder, run_folder_in
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import explained_write, write_atomically
from stylegan2_cond.progress_bar import ProgressBar

DATASET_ID, DATASET = "901", "Dataset901_VirtualBrain"
DATA = (DATASET_ID, "2d", "0")
PLANS = "nnUNetPlansDemo"
KIMG, SAMPLES = "8", "500"
DISABLED_FILTERS = ("range", "anatomy", "fit")  # a generator trained so briefly would hardly pass one of them
ARMS = {"real cases alone": "nnUNetTrainer_5epochs", "with synthetic pairs": "nnUNetTrainerSynth_5epochs"}
CLASSES = {"1": "grey matter", "2": "white matter"}
LOG_LINES = 15  # of a failed command that are shown
CAVEAT = (
    "A run this short shows how it works, not whether it helps: the generator saw few images, nnU-Net trained for\n"
    "minutes, once per row, and two runs of nnU-Net alone differ by up to one Dice point."
)


@dataclass(frozen=True)
class Steps:
    """Commands that run one after the other and are not repeated once done.

    Attributes:
        folder: logs go to `logs/`, and an empty file `done/<name>` marks a finished step.
        variables: environment variables beyond those of this process.
    """

    folder: Path
    variables: Mapping[str, str]

    def run(self, name: str, title: str, command: Sequence[str], *, own_bar: bool = False) -> None:
        """Run a command unless it is done.

        Args:
            name: name of the log and of the mark.
            title: what the step is for.
            command: an installed command and its arguments.
            own_bar: the command has a progress bar; for others, the elapsed time is shown.

        Raises:
            UserError: the command failed, with the end of its log.
            Stopped: after Ctrl-C.
        """
        if self.is_done(name):
            print(f"· {title}: already done")
            return
        print(f"\n▶ {title}\n  $ {' '.join(command)}", flush=True)
        began, log = time.monotonic(), self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        hidden = own_bar or not sys.stderr.isatty()
        try:
            with ProgressBar(bar_format="  {elapsed}", leave=False, disable=hidden) as clock:
                code = run_logged(command, log, self.variables, own_bar=own_bar, each_second=clock.refresh)
        except KeyboardInterrupt:
            raise Stopped("Stopped. The same command continues with this step.") from None
        if code:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise UserError(f"{command[0]} ended with code {code}:\n{end}\nFull log: {log}")
        self.mark_done(name)
        print(f"  {time.monotonic() - began:.0f} s, log: {log}")

    def is_done(self, name: str) -> bool:
        """Whether a step has finished."""
        return (self.folder / "done" / name).exists()

    def mark_done(self, name: str) -> None:
        """Record that a step has finished."""
        (self.folder / "done").mkdir(parents=True, exist_ok=True)
        (self.folder / "done" / name).touch()


def run_demo(folder: Path, device: str) -> None:
    """Run all steps in `folder`; a stopped demo continues.

    Raises:
        UserError: the folder is not empty or can't be made, or a command failed.
        Stopped: after Ctrl-C.
    """
    if importlib.util.find_spec("nilearn") is None:
        raise UserError('The demo\'s template brain comes with nilearn. Type: pip install "nnunet-synth[demo]"')
    with explained_write(folder / "done"):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / "done").exists():
        raise UserError(f"{folder} is not empty. Choose another folder: nnunet-synth demo --folder {folder}_2")
    folder = folder.resolve()
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"} if (os.cpu_count() or 1) <= 4 else {}
    steps = Steps(folder, nnunet_folders(folder) | few | {VARIABLE: ext_trainer_path(os.environ.get(VARIABLE))})
    print(f"Everything is written to {folder}. It takes about 10 minutes on two cores. Press Ctrl-C to stop; the same")
    print("command continues.")
    if not steps.is_done("cohort"):
        print("\n▶ 24 virtual subjects are warped from the MNI152 template: 16 to train on, 8 held out as a test set")
        raw = folder / "nnUNet_raw" / DATASET
        shutil.rmtree(raw, ignore_errors=True)  # what a stopped run left
        write_cohort(raw)
        steps.mark_done("cohort")
    preprocess = ["nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", "2d", "-np", "2", "-npfp", "2"]
    steps.run("preprocess", "nnU-Net plans and preprocesses", preprocess)
    _write_small_plans(folder)
    train = ["stylegan2-cond", "train", *DATA, "--kimg", KIMG, "--device", device]
    steps.run("generator", "A generator trains on the training cases of fold 0", train, own_bar=True)
    without = [word for name in DISABLED_FILTERS for word in ("--without", name)]
    title = (
        f"It fills a bank with new pairs, without the filters {', '.join(DISABLED_FILTERS)} after so short a training"
    )
    fill = ["nnunet-synth", "bank", *DATA, "-n", SAMPLES, "--device", device, *without]
    steps.run("bank", title, fill, own_bar=True)
    for arm in ARMS:
        _train_and_test(steps, arm, device)
    _report(folder)


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


def _train_and_test(steps: Steps, arm: str, device: str) -> None:
    """nnU-Net's own train, predict and evaluate."""
    trainer, raw = ARMS[arm], steps.folder / "nnUNet_raw" / DATASET
    model, predictions = _model(steps.folder, trainer), _predictions(steps.folder, trainer)
    begun = (model / "fold_0" / "checkpoint_best.pth").exists()
    train = ["nnUNetv2_train", *DATA, "-p", PLANS, "-tr", trainer, "-device", device, *["--c"] * begun]
    steps.run(f"train_{trainer}", f"nnU-Net trains: {arm}", train)
    which = ["-d", DATASET_ID, "-c", "2d", "-f", "0", "-tr", trainer, "-p", PLANS]
    files = ["-i", str(raw / "imagesTs"), "-o", str(predictions)]
    few = ["-device", device, "--disable_tta", "-npp", "1", "-nps", "1"]
    steps.run(f"predict_{trainer}", "nnU-Net predicts the test subjects", ["nnUNetv2_predict", *files, *which, *few])
    descriptions = ["-djfile", str(model / "dataset.json"), "-pfile", str(model / "plans.json"), "-np", "1"]
    evaluate = ["nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(predictions), *descriptions]
    steps.run(f"evaluate_{trainer}", "nnU-Net evaluates the predictions", evaluate)


def _report(folder: Path) -> None:
    rows = [f"| Dice on 8 test subjects | {' | '.join(CLASSES.values())} | mean |", "| --- | --- | --- | --- |"]
    for arm, trainer in ARMS.items():
        summary = json.loads((_predictions(folder, trainer) / "summary.json").read_text())
        figures = [*(summary["mean"][label]["Dice"] for label in CLASSES), summary["foreground_mean"]["Dice"]]
        rows.append(f"| {arm} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    table = "\n".join(rows) + f"\n\n{CAVEAT}\n"
    with write_atomically(folder / "results.md") as temporary:
        temporary.write_text(table)
    generator = run_folder_in(folder / "nnUNet_results", DATASET, "nnUNetPlans", "2d", 0)
    banks = banks_folder(folder / "nnUNet_preprocessed" / DATASET, "nnUNetPlans_2d", 0)
    print(f"\n{table}\nReal above, generated below: {sorted((generator / 'previews').glob('*.png'))[-1]}")
    print(f"Bank: {next(banks.glob('*/previews.png')).parent}")
    print(*(f"{arm[0].upper()}{arm[1:]}: {_model(folder, trainer)}" for arm, trainer in ARMS.items()), sep="\n")
    print(f"Table: {folder / 'results.md'}\nLogs: {folder / 'logs'}")
    print("Next, for a dataset of your own: stylegan2-cond train DATASET 2d 0")


def _model(folder: Path, trainer: str) -> Path:
    name = convert_trainer_plans_config_to_identifier(trainer, PLANS, "2d")
    return folder / "nnUNet_results" / DATASET / name


def _predictions(folder: Path, trainer: str) -> Path:
    return folder / "predictions" / trainer
