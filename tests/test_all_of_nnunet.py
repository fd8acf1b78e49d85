"""What nnU-Net can train, trains with synthetic pairs too: in its own trainer, a few iterations of each."""

import json

import numpy as np
import pytest
import torch
from conftest import STRICT
from raw_cases import LABELS, NARROW, cohort, own_folders, preprocess, run_options

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.training.trainer import nnUNetTrainerDA5Synth, nnUNetTrainerSynth
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import planner
from stylegan2_cond.training import run_logger, snapshot_evaluation
from stylegan2_cond.training.train import train

REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
ORDERED = {"regions_class_order": [1, 2]}
SPLITS = [{"train": ["case_5", "case_1", "case_3"], "val": ["case_0"]}]  # in no order, and not all
RESIDUAL = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "n_blocks_per_stage": [1, 1, 1],
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_evaluation, "SAMPLES", {2: 40, 3: 24})
    monkeypatch.setattr(planner, "CONDITION_PATCHES", 100)
    monkeypatch.setattr(run_logger, "save_progress", lambda folder: None)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return own_folders(tmp_path, monkeypatch)


def plans_of(data, **block):
    plans = json.loads((data.base / f"{data.plans_name}.json").read_text())
    configuration = plans["configurations"][data.configuration_name]
    configuration["synth"] = block
    network = configuration["architecture"]["arch_kwargs"]  # deep supervision needs two resolutions beside the last
    network |= {"n_stages": 3, "features_per_stage": [4, 8, 8], "n_conv_per_stage": [1] * 3}
    network |= {"n_conv_per_stage_decoder": [1, 1], "kernel_sizes": network["kernel_sizes"][:1] * 3}
    network["strides"] = [*network["strides"], [1] * len(network["strides"][0])]
    return plans | {"continue_training": False}


def fill(data, fold="0"):
    """A generator of three steps, and its bank."""
    (data.base / "dataset_fingerprint.json").write_text("{}")  # nnU-Net copies it
    train(run_options(data, fold, kimg=0.048, overrides=NARROW))
    fill_bank(data, fold, FillRequest(samples=16, without=STRICT))


def nnunets(fold):
    """A fold as nnU-Net's command hands it to the trainer."""
    return fold if fold == "all" else int(fold)


def trained(data, fold="0", cls=nnUNetTrainerSynth, plans=None, **block):
    """A generator of three steps, its bank, and two iterations of nnU-Net; the trainer, and its log."""
    fill(data, fold)
    block = {"ratio": 0.5, "schedule": "constant"} | block
    trainer = cls(
        plans or plans_of(data, **block), data.configuration_name, nnunets(fold), data.dataset_json, torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.run_training()
    with open(trainer.log_file) as log:
        return trainer, log.read()


def with_ignored(cases):
    for _, label in cases.values():
        label[:, 8:] = 3
    return cases


@pytest.mark.parametrize(
    ("data", "fold"),
    [
        (lambda base: preprocess(base, cohort(), LABELS), "0"),
        (lambda base: preprocess(base, cohort(), LABELS, dims=3), "0"),
        (lambda base: preprocess(base, cohort(), LABELS), "all"),
        (lambda base: preprocess(base, cohort(), LABELS, splits=SPLITS), "0"),
        (lambda base: preprocess(base, cohort(), REGIONS, **ORDERED), "0"),
        (lambda base: preprocess(base, with_ignored(cohort()), LABELS | {"ignore": 3}), "0"),
        (
            lambda base: preprocess(base, with_ignored(cohort()), REGIONS | {"ignore": 3}, regions_class_order=[1, 2]),
            "0",
        ),
        (lambda base: preprocess(base, cohort(empty_rim=2), LABELS), "0"),
    ],
    ids=["2d", "3d_fullres", "fold all", "own splits", "regions", "ignore", "regions and ignore", "outside"],
)
def test_every_kind_of_dataset_trains_with_synthetic_draws(folders, data, fold):
    trainer, log = trained(data(folders), fold)
    tally = [line for line in log.splitlines() if "Synthetic share" in line]
    assert len(tally) == 1
    assert ("Fold all:" in log) == (fold == "all")
    assert all(torch.isfinite(value).all() for value in trainer.network.state_dict().values())
    assert 0 < float(tally[0].split("Synthetic share ")[1].split()[0]) < 1


def test_residual_encoders_train(folders):
    data = preprocess(folders, cohort(), LABELS)
    plans = plans_of(data, ratio=0.5, schedule="constant")
    architecture = plans["configurations"]["2d"]["architecture"]
    architecture["network_class_name"] = RESIDUAL["network_class_name"]
    architecture["arch_kwargs"]["n_blocks_per_stage"] = RESIDUAL["n_blocks_per_stage"]
    del architecture["arch_kwargs"]["n_conv_per_stage"]
    trainer, log = trained(data, plans=plans)
    assert "ResidualEncoder" in repr(trainer.network)
    assert "Synthetic share" in log


def test_another_trainers_augmentation_takes_them_too(folders):
    _, log = trained(preprocess(folders, cohort(), LABELS), cls=nnUNetTrainerDA5Synth)
    assert "Synthetic share" in log


def test_a_cascades_second_stage_is_refused_unless_it_is_real(folders):
    data = preprocess(folders, cohort(), LABELS, dims=3)
    plans = plans_of(data, ratio=0.5)
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_fullres"}
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    trainer = nnUNetTrainerSynth(plans, "3d_fullres", 0, data.dataset_json, torch.device("cpu"))
    trainer.initialize()
    assert trainer.is_cascaded
    with pytest.raises(UserError, match="second stage of a cascade"):
        trainer.get_tr_and_val_datasets()


def test_each_worker_draws_for_itself(folders, monkeypatch):
    """nnU-Net seeds the workers of one training apart; what they draw differs."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    data = preprocess(folders, cohort(), LABELS)
    fill(data)
    plans = plans_of(data, ratio=0.5, schedule="constant")
    trainer = nnUNetTrainerSynth(plans, "2d", 0, data.dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    try:
        batches = [next(trainer.dataloader_train)["data"].numpy() for _ in range(6)]
    finally:
        trainer.dataloader_train._finish()
        trainer.dataloader_val._finish()
    assert len({batch.tobytes() for batch in batches}) == 6
    real, synthetic = trainer._control.take()
    assert real > 0
    assert synthetic > 0
    assert np.isfinite(batches).all()
