"""The nnU-Net of the same fold: found in nnU-Net's own folders, read safely, and evaluated as nnU-Net does."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATASET, TINY_PLANS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tolerance import NETWORK, assert_rounded

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.request import FillRequest
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.evaluate import evaluate
from stylegan2_cond.metrics.features_nnunet import open_nnunet
from stylegan2_cond.metrics.segmentation_agreement import dice, overlaps
from stylegan2_cond.metrics.trained_nnunets import find_nnunets
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import find_snapshots


@pytest.fixture(scope="module")
def source(preprocessed):
    return Source.of(preprocessed, preprocessed.fold(0))


@pytest.fixture(scope="module")
def network(model, source):
    return open_nnunet(model[0], source)


@pytest.fixture
def plain_model(model, nnunet_folders):
    """The same weights under the name of a trainer without synthetic pairs, and without a record of any."""
    folder = nnunet_folders / "nnUNet_results" / DATASET / f"nnUNetTrainer_1epoch__{TINY_PLANS}__2d"
    yield shutil.copytree(model[0], folder, ignore=shutil.ignore_patterns("validation", "synthetic_data.json"))
    shutil.rmtree(folder)


def patches(preprocessed, size, count=24, names=None):
    fold = preprocessed.fold(0)
    stream = PatchSampler(preprocessed, names or fold.validation, size, foreground_share=0.7, seed=3)
    found = stream.batch(0, count)
    return SampleSet(found.image, found.label)


def test_a_model_that_saw_synthetic_pairs_is_not_found_and_a_plain_one_is(model, source, plain_model):
    assert find_nnunets(source).models[0].folder == plain_model
    shutil.move(plain_model, plain_model.with_name("away"))
    try:
        assert not find_nnunets(source).models
    finally:
        shutil.move(plain_model.with_name("away"), plain_model)


def test_a_bank_asks_the_nnunet_that_was_named(preprocessed, generator_run, model, plain_model, tmp_path):
    named = shutil.copytree(plain_model, tmp_path / plain_model.name)
    away = shutil.move(plain_model, plain_model.with_name("away"))
    without = ("range", "anatomy", "copy")
    try:
        found, asked = (
            fill_bank(preprocessed, "0", FillRequest(samples=4, name=name, without=without, margin=1.0, nnunet=nnunet))
            for name, nnunet in (("found", None), ("asked", named))
        )
        assert BankRecord.load(found / RECORD_FILE).filters["fit"].off
        assert BankRecord.load(asked / RECORD_FILE).filters["fit"].off is None
        with pytest.raises(UserError, match="fit"):
            fill_bank(
                preprocessed, "0", FillRequest(samples=8, name="found", without=without, margin=1.0, nnunet=named)
            )
        with pytest.raises(UserError, match=str(away.parent / "none")):
            fill_bank(preprocessed, "0", FillRequest(samples=4, name="none", nnunet=away.parent / "none"))
    finally:
        shutil.move(away, plain_model)


def test_a_model_of_another_fold_or_preprocessing_is_not_taken(source, plain_model):
    other_fold = source.model_copy(update={"fold": "1"})
    assert not find_nnunets(other_fold).models
    with pytest.raises(UserError, match="no trained nnU-Net of fold 1"):
        open_nnunet(plain_model, other_fold)
    plans = json.loads((plain_model / "plans.json").read_text())
    plans["configurations"]["2d"]["spacing"] = [9.0, 9.0]
    (plain_model / "plans.json").write_text(json.dumps(plans))
    assert not find_nnunets(source).models
    with pytest.raises(UserError, match="preprocessed differently"):
        open_nnunet(plain_model, source)


def test_a_model_of_older_splits_is_not_taken(model, source, plain_model):
    """It may have been trained on cases that are kept for validation now."""
    shutil.copytree(model[0] / "fold_0" / "validation", plain_model / "fold_0" / "validation")
    assert find_nnunets(source).models[0].folder == plain_model
    summary = json.loads((plain_model / "fold_0" / "validation" / "summary.json").read_text())
    name = Path(summary["metric_per_case"][0]["prediction_file"]).name.split(".")[0]
    resplit = source.model_copy(update={"training_cases": (*source.training_cases, name)})
    assert not find_nnunets(resplit).models
    with pytest.raises(UserError, match=f"other splits: it was validated on {name}"):
        open_nnunet(plain_model, resplit)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_model_whose_splits_cannot_be_read_is_not_taken(source, plain_model, content):
    (plain_model / "fold_0" / "validation").mkdir()
    (plain_model / "fold_0" / "validation" / "summary.json").write_text(content)
    assert not find_nnunets(source).models
    with pytest.raises(UserError, match=r"validation/summary\.json .*--val"):
        open_nnunet(plain_model, source)


def test_a_checkpoint_that_would_run_code_is_refused(source, plain_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    path = plain_model / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": Trap()}, path, pickle_module=pickle)
    with pytest.raises(UserError, match=r"checkpoint_final.pth can't be read"):
        open_nnunet(plain_model, source)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.update(features_per_stage=[4] * network["n_stages"]),
        lambda network: network["norm_op_kwargs"].update(eps=[0, 1]),  # which fails only when the network runs
    ],
)
def test_a_network_that_is_not_the_plans_is_refused(source, plain_model, change):
    plans = json.loads((plain_model / "plans.json").read_text())
    change(plans["configurations"]["2d"]["architecture"]["arch_kwargs"])
    (plain_model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match="can't be read as the network of its plans"):
        open_nnunet(plain_model, source)


def test_a_network_that_cannot_be_read_is_left_out_unless_it_is_wanted(generator_run, plain_model, tmp_path):
    snapshot = shutil.copytree(find_snapshots(generator_run)[-1], tmp_path / "snapshot")
    (plain_model / "fold_0" / "checkpoint_final.pth").write_bytes(b"cut off")
    found = evaluate(snapshot, samples=40, metrics=["kid"])
    assert found.features == "random"
    assert any("checkpoint_final.pth can't be read" in note for note in found.notes)
    for wanted in ({"nnunet": plain_model}, {"features": "nnunet"}):
        with pytest.raises(UserError, match="can't be read"):
            evaluate(snapshot, samples=40, metrics=["kid"], **wanted)


def test_masks_are_those_of_nnunets_own_predictor(model, network, preprocessed):
    samples = patches(preprocessed, preprocessed.patch_size, count=6)
    predictor = nnUNetPredictor(use_mirroring=False, use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model[0]), (0,), "checkpoint_final.pth")
    stacked = torch.from_numpy(samples.image).transpose(0, 1)  # [C, slices, H, W], as a 2-D case lies on disk
    logits = predictor.predict_sliding_window_return_logits(stacked).float()
    best, second = logits.topk(2, dim=0).values
    clear = (best - second > 0.05).numpy()  # nnU-Net keeps logits in half precision, which may turn a near tie
    assert clear.mean() > 0.9
    assert (network.segment(samples) == logits.argmax(dim=0).numpy())[clear].all()


def test_any_patch_will_do(network, preprocessed):
    odd = tuple(length - 5 for length in preprocessed.patch_size)
    samples = patches(preprocessed, odd)
    assert network.segment(samples).shape == (24, *odd)
    vectors = network(samples)
    assert vectors.shape[0] == 24
    assert vectors.isfinite().all()


def test_masks_agree_with_the_image_that_they_belong_to(network, preprocessed):
    """With the network's own masks, as how well it does on real ones depends on a training without a seed."""
    samples = patches(preprocessed, preprocessed.patch_size, count=40)
    masks = network.segment(samples)
    present = [value for value in (1, 2) if (masks == value).any()]
    assert present
    assert (dice(*overlaps(masks, network.segment(samples), present)) == 1).all()
    assert (dice(*overlaps(np.roll(masks, 7, axis=0), network.segment(samples), present)) < 1).all()


def test_vectors_do_not_depend_on_the_batch(network, preprocessed, monkeypatch):
    samples = patches(preprocessed, preprocessed.patch_size, count=5)
    together = network(samples)
    monkeypatch.setattr("stylegan2_cond.metrics.features_nnunet.BATCH_VOXELS", 1)
    assert_rounded(network(samples), together, terms=NETWORK)
