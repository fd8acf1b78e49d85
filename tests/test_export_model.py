"""An exported model works where this project is not installed, and tells what synthetic data it saw."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import DATASET, TINY_PLANS
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_synth import launcher
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.cli import main
from nnunet_synth.export.messages import describe_model
from nnunet_synth.export.model import export_model
from nnunet_synth.export.model_card import ModelCard, describe_fold
from nnunet_synth.export.sanitize import without_paths
from nnunet_synth.training.settings import SynthSettings
from nnunet_synth.training.usage_record import TrainingRecord, record_use
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, SYNTHETIC_DATA_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder
from stylegan2_cond.metrics.trained_nnunets import find_nnunets
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import find_snapshots, sha256

PLAIN = "nnUNetTrainer_1epoch"
NAME = f"{PLAIN}__{TINY_PLANS}__2d"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")

# Runs commands one after the other, as on a machine where this project is not installed.
ELSEWHERE = """
import json, sys
from importlib.metadata import entry_points
for package in ("nnunet_synth", "stylegan2_cond"):
    sys.modules[package] = None
    try:
        __import__(package + ".errors")
    except ModuleNotFoundError:
        continue
    raise SystemExit(package + " is here")
for command in json.loads(sys.argv[1]):
    sys.argv = command
    (script,) = entry_points(group="console_scripts", name=command[0])
    script.load()()
"""
SHORT = """
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs
begin = nnUNetTrainer_5epochs.__init__
def short(self, plans, configuration, fold, dataset_json, device):
    begin(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1
nnUNetTrainer_5epochs.__init__ = short
nnUNetTrainer_5epochs.perform_actual_validation = lambda *_: None
"""


def elsewhere(*commands, before="", **variables):
    """What nnU-Net's commands print where it knows nothing of this project."""
    kept = {key: value for key, value in os.environ.items() if key != launcher.VARIABLE}
    typed = json.dumps([[str(part) for part in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", before + ELSEWHERE, typed], capture_output=True, text=True, env=kept | variables
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """What `nnunet-synth export-model` wrote, and what it printed."""
    target, printed = tmp_path_factory.mktemp("exported"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["nnunet-synth", "export-model", str(model[0]), "-o", str(target)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return target / DATASET / NAME, printed.getvalue()


@pytest.fixture
def trained(model, tmp_path):
    """A trained folder to spoil."""
    return shutil.copytree(model[0], tmp_path / DATASET / model[0].name, ignore=shutil.ignore_patterns("validation"))


def checkpoint(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def test_weights_optimizer_and_log_are_those_of_the_training(model, exported):
    for name in CHECKPOINTS:
        before, after = (checkpoint(folder / "fold_0" / name) for folder in (model[0], exported[0]))
        assert before.keys() == after.keys()
        for key in ("network_weights", "optimizer_state"):
            torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
        assert after["optimizer_state"]["state"][0]["momentum_buffer"].abs().max() > 0
        for key in ("logging", "current_epoch", "_best_ema", "inference_allowed_mirroring_axes", "grad_scaler_state"):
            assert after[key] == before[key]
        assert after["trainer_name"] == PLAIN


def test_the_zip_of_nnunets_own_command_predicts_where_the_plugin_is_unknown(exported, nnunet_folders, tmp_path):
    """Zipped, installed as on another machine, and used there, all by nnU-Net's own commands."""
    installed, images, archive = tmp_path / "installed", tmp_path / "images", tmp_path / "model.zip"
    installed.mkdir()
    images.mkdir()
    for path in sorted((nnunet_folders / "nnUNet_raw" / DATASET / "imagesTs").iterdir())[:2]:
        shutil.copy(path, images)
    names = ["-d", "901", "-tr", PLAIN, "-p", TINY_PLANS, "-c", "2d", "-f", "0"]
    single = ["-device", "cpu", "--disable_tta", "-npp", "0", "-nps", "0"]
    elsewhere(["nnUNetv2_export_model_to_zip", *names, "-o", archive], nnUNet_results=str(exported[0].parents[1]))
    elsewhere(
        ["nnUNetv2_install_pretrained_model_from_zip", archive],
        ["nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", *names, *single],
        nnUNet_results=str(installed),
    )
    card = json.loads((installed / DATASET / NAME / "dataset.json").read_text())["synthetic_data"]
    assert card == json.loads((exported[0] / "synthetic_data.json").read_text())
    (predicted,) = (tmp_path / "out").glob("*.nii.gz")
    truth = nnunet_folders / "nnUNet_raw" / DATASET / "labelsTs" / predicted.name
    found, real = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (predicted, truth))
    assert 2 * ((found > 0) & (real > 0)).sum() / ((found > 0).sum() + (real > 0).sum()) > 0.5


def test_vanilla_training_goes_on_from_the_exported_epoch(model, tmp_path):
    folder = export_model(model[0], tmp_path, "nnUNetTrainer_5epochs").folder
    before = checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    names = [DATASET, "2d", "0", "-p", TINY_PLANS, "-tr", "nnUNetTrainer_5epochs", "-device", "cpu"]
    printed = elsewhere(
        ["nnUNetv2_train", *names, "--c"], before=SHORT, nnUNet_results=str(tmp_path), nnUNet_n_proc_DA="0"
    )
    assert "Epoch 1" in printed
    assert "Epoch 0" not in printed
    after = checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    assert (before["current_epoch"], after["current_epoch"]) == (1, 2)
    assert after["logging"]["train_losses"][0] == before["logging"]["train_losses"][0]
    assert len(after["logging"]["train_losses"]) == 2
    weights = [next(iter(one["network_weights"].values())) for one in (before, after)]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0, atol=0.2)


def test_nothing_of_this_machine_and_no_block_travels(trained, model, nnunet_folders, tmp_path):
    shutil.copytree(model[0] / "fold_0" / "validation", trained / "fold_0" / "validation")
    path = trained / "fold_0" / "checkpoint_final.pth"
    content = checkpoint(path)
    for plans in (content["init_args"]["plans"], json.loads((trained / "plans.json").read_text())):
        plans["configurations"]["2d"]["synth"] = {"bank": "secret_bank", "ratio": 0.25}
    (trained / "plans.json").write_text(json.dumps(plans))
    files = {"case": {"images": ["/secret/case_0000.nii.gz"], "label": "/secret/case.nii.gz"}}
    content["init_args"]["dataset_json"] = content["init_args"]["dataset_json"] | {"dataset": files}
    torch.save(content, path)
    dataset_json = json.loads((trained / "dataset.json").read_text()) | {"dataset": files}
    (trained / "dataset.json").write_text(json.dumps(dataset_json))
    summary = (trained / "fold_0" / "validation" / "summary.json").read_text()
    assert str(nnunet_folders) in summary + (trained / "fold_0" / "debug.json").read_text()
    folder = export_model(trained, tmp_path / "out").folder
    exported = [path for path in folder.rglob("*") if path.is_file()]
    for path in exported:
        for secret in (str(nnunet_folders), str(tmp_path), "/secret", "secret_bank"):
            assert secret.encode() not in path.read_bytes(), path
    cases = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())["metric_per_case"]
    assert [set(case) for case in cases] == [set(case) for case in json.loads(summary)["metric_per_case"]]
    assert {path.name for path in exported if path.suffix not in (".png", ".pdf")} == {
        *CHECKPOINTS, "plans.json", "dataset.json", "dataset_fingerprint.json", "summary.json", "synthetic_data.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/home/someone/case.nii.gz", "case.nii.gz"),
        ("C:\\data\\case.nii.gz", "case.nii.gz"),
        ("case.nii.gz", "case.nii.gz"),
        ("http://example.org/a/b", "http://example.org/a/b"),
        ("1/2 of it", "1/2 of it"),
        (["/a/b", {"k": "/c/d"}, 1.5, None], ["b", {"k": "d"}, 1.5, None]),
    ],
)
def test_only_absolute_paths_are_shortened(value, kept):
    assert without_paths({"key": value}) == {"key": kept}


def test_the_card_tells_what_the_fold_saw(exported, bank, preprocessed, generator_run, nnunet_folders):
    folder, printed = exported
    card = ModelCard.load(folder / "synthetic_data.json")
    assert (card.trainer, card.trained_by) == (PLAIN, "nnUNetTrainerSynth_1epoch")
    assert (card.dataset_name, card.plans_name, card.configuration) == (DATASET, TINY_PLANS, "2d")
    assert card.folds["0"].checkpoints == dict.fromkeys(CHECKPOINTS, 1)
    (use,) = card.folds["0"].uses
    assert (use.first_epoch, use.settings.shares, use.settings.schedule) == (0, ((None, 0.25),), "linear")
    (used,) = use.banks
    assert (used.name, used.samples, used.origin.seed) == ("tests", 100, 0)
    assert used.record_sha256 == sha256(bank / RECORD_FILE)
    assert used.source.training_cases == preprocessed.fold(0).training
    assert used.filters == BankRecord.load(bank / RECORD_FILE).filters
    (snapshot,) = used.origin.snapshots
    newest = find_snapshots(generator_run)[-1]
    assert snapshot.weights_sha256 == sha256(newest / "generator.safetensors")
    assert snapshot.path == str(newest.relative_to(nnunet_folders / "nnUNet_results"))
    for told in ("0.25", "'tests': 100 samples, seed 0", "8 training cases of Dataset901_Virtual, fold 0"):
        assert told in card.folds["0"].summary
        assert told in printed
    assert f"-tr {PLAIN} -p {TINY_PLANS} -f 0" in printed


def test_what_was_not_recorded_is_told_as_unknown(trained, tmp_path):
    record = trained / "fold_0" / SYNTHETIC_DATA_FILE
    record.write_text("{")
    card = export_model(trained, tmp_path / "damaged").card
    assert card.folds["0"].uses is None
    assert "synthetic_data.json, which this release's trainers write, cannot be read" in card.folds["0"].summary
    record.unlink()
    exported = export_model(trained, tmp_path / "missing")
    assert exported.card.folds["0"].summary.startswith("Unknown: ")
    assert "does not exist" in exported.card.folds["0"].summary
    assert exported.missing == ["fold_0/validation/summary.json"]
    described = describe_model(exported)
    assert "nnUNetv2_export_model_to_zip" in described
    assert "fold_0/validation/summary.json" in described


def test_an_exported_model_is_not_taken_for_one_that_saw_real_cases_alone(exported, nnunet_folders, preprocessed):
    folder = nnunet_folders / "nnUNet_results" / DATASET / NAME
    shutil.copytree(exported[0], folder, ignore=shutil.ignore_patterns("synthetic_data.json"))  # as out of a zip
    source = Source.of(preprocessed, preprocessed.fold(0))
    try:
        assert not find_nnunets(source).models
        dataset_json = json.loads((folder / "dataset.json").read_text())
        del dataset_json["synthetic_data"]
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        assert find_nnunets(source).models[0].folder == folder
    finally:
        shutil.rmtree(folder)


def test_a_record_of_no_use_is_told_as_unknown(tmp_path):
    record_use(tmp_path, "T", 0, SynthSettings(ratio=0), [])
    content = json.loads((tmp_path / SYNTHETIC_DATA_FILE).read_text())
    (tmp_path / SYNTHETIC_DATA_FILE).write_text(json.dumps(content | {"uses": []}))
    assert describe_fold(tmp_path, {}).uses is None


def test_every_use_of_a_training_that_went_on_is_recorded(bank, tmp_path):
    quarter, half = SynthSettings(ratio=0.25), SynthSettings(ratio=0.5)

    def uses():
        return [
            (use.first_epoch, use.settings.ratio) for use in TrainingRecord.load(tmp_path / SYNTHETIC_DATA_FILE).uses
        ]

    record_use(tmp_path, "T", 0, quarter, [bank])
    record_use(tmp_path, "T", 50, quarter, [bank])
    assert uses() == [(0, 0.25)]
    record_use(tmp_path, "T", 50, half, [bank])
    assert uses() == [(0, 0.25), (50, 0.5)]
    record_use(tmp_path, "T", 100, SynthSettings(ratio=0), [])
    assert uses() == [(0, 0.25), (50, 0.5), (100, 0)]
    record_use(tmp_path, "T", 50, quarter, [bank])  # killed, and gone on from a checkpoint before the others
    assert uses() == [(0, 0.25)]
    record_use(tmp_path, "T", 0, SynthSettings(ratio=0), [])  # begun anew
    assert uses() == [(0, 0)]
    (tmp_path / SYNTHETIC_DATA_FILE).unlink()
    record_use(tmp_path, "T", 50, half, [bank])
    assert uses() == [(50, 0.5)]


def test_a_record_that_cannot_be_read_is_said_to_lose_earlier_epochs(tmp_path, capsys):
    (tmp_path / SYNTHETIC_DATA_FILE).write_text("{")
    record_use(tmp_path, "T", 50, SynthSettings(ratio=0), [])
    assert "Earlier epochs stay unrecorded" in capsys.readouterr().out
    assert [use.first_epoch for use in TrainingRecord.load(tmp_path / SYNTHETIC_DATA_FILE).uses] == [50]


def test_ratio_0_and_what_came_before_the_record_are_told(trained, bank, tmp_path):
    fold = trained / "fold_0"
    record_use(fold, "T", 7, SynthSettings(ratio=0), [])
    record_use(fold, "T", 0, SynthSettings(ratio=0), [])
    assert export_model(trained, tmp_path / "a").card.folds["0"].summary == "No synthetic data (ratio 0)."
    (fold / SYNTHETIC_DATA_FILE).unlink()
    record_use(fold, "T", 7, SynthSettings(ratio=0.5), [bank])
    summary = export_model(trained, tmp_path / "b").card.folds["0"].summary
    assert summary.startswith("Epochs before 7 were not recorded. From epoch 7 on: Of the training draws (linear), a")


def test_something_else_is_no_trained_folder(trained, tmp_path):
    with pytest.raises(UserError, match=f"Did you mean .*{trained.name}"):
        export_model(trained.parent, tmp_path)
    with pytest.raises(UserError, match=f"Did you mean .*{trained.name}"):
        export_model(trained / "fold_0", tmp_path)
    with pytest.raises(UserError, match="nnU-Net model folder"):
        export_model(tmp_path / "nothing", tmp_path)
    (trained / "dataset_fingerprint.json").unlink()
    with pytest.raises(UserError, match=r"dataset_fingerprint.json does not exist"):
        export_model(trained, tmp_path)


def test_nothing_is_overwritten_and_nothing_half_is_left(trained, tmp_path):
    folder = tmp_path / "out" / DATASET / NAME
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"exists\. Choose another place with -o"):
        export_model(trained, tmp_path / "out")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    path = trained / "fold_0" / "checkpoint_best.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"checkpoint_best.pth can't be read"):
        export_model(trained, tmp_path / "other")
    assert not list((tmp_path / "other" / DATASET).iterdir())


def test_a_fold_without_a_checkpoint_is_left_out(trained, tmp_path):
    (trained / "fold_1").mkdir()
    assert list(export_model(trained, tmp_path / "out").card.folds) == ["0"]
    for name in CHECKPOINTS:
        (trained / "fold_0" / name).unlink()
    with pytest.raises(UserError, match="has no fold with a checkpoint"):
        export_model(trained, tmp_path / "none")


def test_a_checkpoint_that_would_run_code_is_refused(trained, tmp_path):
    class Foul:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "foul"),)

    path = trained / "fold_0" / "checkpoint_final.pth"
    torch.save(checkpoint(path) | {"logging": Foul()}, path)
    with pytest.raises(UserError, match=r"checkpoint_final.pth can't be read"):
        export_model(trained, tmp_path / "out")
    assert not (tmp_path / "foul").exists()


def test_a_trainer_that_nnunet_lacks_or_of_another_network_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"nnU-Net itself has no trainer nnUNetTrainerMine.*--trainer nnUNetTrainer"):
        export_model(trained, tmp_path, "nnUNetTrainerMine")
    with pytest.raises(UserError, match="--trainer have another network"):
        export_model(trained, tmp_path, "nnUNetTrainerBN")
    assert not list((tmp_path / DATASET).glob("nnUNetTrainerBN*"))
    path = trained / "fold_0" / "checkpoint_final.pth"
    torch.save(checkpoint(path) | {"trainer_name": "Mine"}, path)
    with pytest.raises(UserError, match="nnU-Net itself has no trainer Mine"):
        export_model(trained, tmp_path)
    assert export_model(trained, tmp_path, nnUNetTrainer.__name__).card.trainer == "nnUNetTrainer"


def test_two_exports_at_once_are_told(trained, tmp_path):
    with lock_folder(tmp_path / DATASET / NAME, inside=False), pytest.raises(UserError, match="in use by process"):
        export_model(trained, tmp_path)
    assert np.isfinite(checkpoint(export_model(trained, tmp_path).folder / "fold_0" / CHECKPOINTS[0])["_best_ema"])
