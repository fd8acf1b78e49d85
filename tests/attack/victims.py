"""One of every file that this project reads, small, in nnU-Net's three folders and a benchmark's: what is attacked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from raw_cases import NARROW, run_options
from raw_files import NAME, Format, dataset

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import Design, load_or_create, make_design
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.scoring import COLUMNS, write_rows
from nnunet_synth.benchmark.task_runner import TaskRecord, record_path, scores_path
from nnunet_synth.benchmark.tasks import make_tasks
from nnunet_synth.benchmark.workspace import bank_folder, generator_folder, prepare_workspace
from nnunet_synth.training.settings import SynthSettings
from nnunet_synth.training.usage_record import record_use
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.io import checksum
from stylegan2_cond.metrics.evaluate import evaluate
from stylegan2_cond.planning import Source, run_folder
from stylegan2_cond.snapshot import save_snapshot
from stylegan2_cond.training.checkpoint import save_checkpoint
from stylegan2_cond.training.log_file import Log
from stylegan2_cond.training.model_selection import link_best
from stylegan2_cond.training.run_setup import load_or_make_plan
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.step import take_step

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
CASES = 12
OVERRIDES = NARROW | {"batch_size": 8}
ARMS = (Arm(name="nnunet", title="nnU-Net alone", baseline=True), Arm(name="pair", variant="pair"))


@dataclass(frozen=True)
class Victims:
    """Paths below `folder`, which may be copied anywhere."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / NAME

    @property
    def results(self) -> Path:
        return self.folder / "nnUNet_results" / NAME

    @property
    def run(self) -> Path:
        return self.results / "StyleGAN2Cond_pair__nnUNetPlans__2d" / "fold_0"

    @property
    def snapshot(self) -> Path:
        return self.run / "snapshots" / "000000016"

    @property
    def bank(self) -> Path:
        return self.base / "nnUNetPlans_2d_synth" / "fold_0" / "kb"

    @property
    def judge(self) -> Path:
        return self.results / "nnUNetTrainer__nnUNetPlans__2d"

    @property
    def benchmark(self) -> Path:
        return self.folder / "benchmark"

    def copy(self, folder: Path) -> Victims:
        """The same in another folder, for damage; raw files and cases, which nobody writes, are links."""
        shared = {"nnUNet_raw", "gt_segmentations", "nnUNetPlans_2d"}

        def left_out(_: str, names: list[str]) -> set[str]:
            return {name for name in names if name in shared or name.endswith(".png")}

        shutil.copytree(self.folder, folder, symlinks=True, ignore=left_out, copy_function=shutil.copyfile)
        copied = Victims(folder)
        for path in (folder / "nnUNet_raw", copied.base / "gt_segmentations", copied.base / "nnUNetPlans_2d"):
            path.symlink_to(self.folder / path.relative_to(folder))
        return copied

    def enter(self) -> None:
        """Let this process's nnU-Net variables point here."""
        os.environ.update({name: str(self.folder / name) for name in VARIABLES})

    def open(self) -> Preprocessed:
        """The dataset."""
        return open_preprocessed(NAME, "2d")


def make_dataset(folder: Path) -> Victims:
    """Raw and preprocessed cases alone."""
    victims = Victims(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in VARIABLES:
        (folder / name).mkdir()
    victims.enter()
    preprocessed = dataset(folder, Format("SimpleITKIO", ".nii.gz"), CASES)
    shutil.copytree(folder / "nnUNet_raw" / NAME / "labelsTr", victims.base / "gt_segmentations")
    (victims.base / "dataset_fingerprint.json").write_text(json.dumps({"shapes_after_crop": [[5, 24, 20]] * CASES}))
    preprocessed.fold(0)
    return victims


def make_victims(folder: Path) -> Victims:
    """Everything, the same each time; call it in a process of its own, since it computes."""
    torch.manual_seed(0)
    victims = make_dataset(folder)
    preprocessed = victims.open()
    _generator(victims, preprocessed)
    evaluate(victims.snapshot, metrics=["swd", "masks"], samples=20, features="random")
    fill_bank(preprocessed, "0", FillRequest(samples=70, name="kb", without=("all",)))
    _judge(victims, preprocessed)
    _benchmark(victims, preprocessed)
    for path in folder.rglob("*.json"):
        _stop_the_clock(path)
    return victims


def _stop_the_clock(path: Path) -> None:
    """Replace what depends on when and how fast a file was written, so that damage meets the same bytes each time."""
    old = path.read_text()
    new = re.sub(r'"created": "[^"]*"', '"created": "2026-01-01T00:00:00+00:00"', old)
    new = re.sub(r'"seconds": [\d.e-]+', '"seconds": 1.0', new)
    if new != old:
        path.write_text(new)
        if "checksum" in (content := json.loads(new)):
            path.write_text(new.replace(content["checksum"], checksum(content)))


def _generator(victims: Victims, preprocessed: Preprocessed) -> None:
    """A run of two steps, with all files that a training writes."""
    options = run_options(preprocessed, "0", kimg=1.0, overrides=OVERRIDES)
    plan = load_or_make_plan(options, *options.open(), torch.device("cpu")).plan
    folder, state = run_folder(plan.source), TrainingState.start(plan, torch.device("cpu"))
    real = PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=plan.seed)
    for number in range(2):
        start, count = number * plan.batch_size, plan.batch_size
        batch = real.batch(start, count)
        take_step(state, batch.image, batch.label, batch.position)
    save_checkpoint(folder, state)
    save_snapshot(victims.snapshot, state.average, plan, state.images_seen)
    link_best(folder, victims.snapshot)
    log = Log(folder, 16)
    for images in (8, 16):
        log.write(
            images, {"loss_generator": 1.0, "loss_discriminator": 0.5, "kid": 0.2, "kid error": 0.1, "masks": 0.3}
        )


def _judge(victims: Victims, preprocessed: Preprocessed) -> None:
    """A trained folder of nnU-Net's own trainer, with its validation; after no epoch."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, fold = json.loads((victims.base / "nnUNetPlans.json").read_text()), preprocessed.fold(0)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = nnUNetTrainer(
            plans | {"continue_training": False}, "2d", 0, preprocessed.dataset_json, torch.device("cpu")
        )
        trainer.initialize()
        trainer.save_checkpoint(str(victims.judge / "fold_0" / "checkpoint_final.pth"))
    for name in ("dataset.json", "dataset_fingerprint.json"):
        shutil.copyfile(victims.base / name, victims.judge / name)
    shutil.copyfile(victims.base / "nnUNetPlans.json", victims.judge / "plans.json")
    _validation(victims.judge / "fold_0" / "validation", victims, fold.validation)
    record_use(victims.judge / "fold_0", "nnUNetTrainerSynth", 0, SynthSettings(ratio=0), ())


def _validation(folder: Path, victims: Victims, cases: tuple[str, ...]) -> None:
    """Predictions that are the truth, and nnU-Net's summary of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in cases:
        shutil.copyfile(victims.base / "gt_segmentations" / f"{case}.nii.gz", folder / f"{case}.nii.gz")
        metrics = {"Dice": 1.0, "IoU": 1.0, "FN": 0, "FP": 0, "TP": 9, "TN": 9, "n_pred": 9, "n_ref": 9}
        files = {f"{kind}_file": f"/x/{case}.nii.gz" for kind in ("prediction", "reference")}
        rows.append(files | {"metrics": {"1": metrics, "2": metrics}})
    summary = {"foreground_mean": {"Dice": 1.0}, "mean": {"1": {"Dice": 1.0}}, "metric_per_case": rows}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def _benchmark(victims: Victims, preprocessed: Preprocessed) -> None:
    """A finished benchmark of two runs."""
    folder = victims.benchmark
    design = load_or_create(small_design(preprocessed), folder)
    prepare_workspace(folder, design, preprocessed)
    run = generator_folder(folder, design, "pair", 0)
    shutil.copytree(victims.snapshot, run / "snapshots" / victims.snapshot.name)
    bank = bank_folder(folder, design, preprocessed, design.arms[1], 0)
    bank.mkdir(parents=True)
    shutil.copyfile(victims.bank / "bank.json", bank / "bank.json")
    for name, task in make_tasks(design).items():
        TaskRecord(state="done", started=1.0, seconds=2.0).save(record_path(folder, name))
        if task.kind == "run":
            rng = np.random.default_rng(len(name))
            rows = [
                (case, label, rng.uniform(), rng.uniform(), "") for case in design.test_cases for label in design.labels
            ]
            write_rows(scores_path(folder, name), COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    write_tables(folder, design)


def small_design(preprocessed: Preprocessed) -> Design:
    """Two arms, one size, one training set."""
    typed = {"sizes": "4", "training_sets": 1, "test_cases": "5", "steps": 1, "kimg": 0.01}
    return make_design(preprocessed, ARMS, BenchmarkOptions(NAME, "2d", quick=True, **typed))


def source_of(victims: Victims) -> Source:
    """Of the dataset's fold 0."""
    preprocessed = victims.open()
    return Source.of(preprocessed, preprocessed.fold(0))
