"""nnU-Nets in `$nnUNet_results`: the newest suitable one that can be opened is used, whatever lies next to it."""

import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch
from damage import WRONG, choose_value, damage
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from raw_cases import LABELS, cohort, own_folders, preprocess

from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features_nnunet import open_newest
from stylegan2_cond.metrics.trained_nnunets import find_nnunets
from stylegan2_cond.planning import Source

SPLITS = [{"train": ["case_0", "case_1"], "val": ["case_2"]}]
SUMMARY = {"metric_per_case": [{"prediction_file": "/x/validation/case_2.nii.gz"}]}
FILES = ("plans.json", "dataset.json", "fold_0/validation/summary.json", "fold_0/checkpoint_final.pth")


@pytest.fixture
def data(tmp_path, monkeypatch):
    return preprocess(own_folders(tmp_path, monkeypatch), cohort(3), LABELS, SPLITS)


@pytest.fixture
def source(data):
    return Source.of(data, data.fold(0))


@pytest.fixture
def results(tmp_path, data):
    """A folder with an old nnU-Net."""
    folder = tmp_path / "nnUNet_results" / data.dataset_name
    save_model(folder / "nnUNetTrainer__nnUNetPlans__2d", data, age=100)
    return folder


def save_model(folder, data, *, age=0, summary=SUMMARY):
    """What nnU-Net's training leaves, so many seconds ago; untrained."""
    fold, configuration = folder / "fold_0", data.configuration
    (fold / "validation").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(data.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(data.dataset_json))
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        2,
        3,
    )
    content = {"network_weights": network.state_dict(), "_best_ema": np.float64(0.5), "current_epoch": 1}
    torch.save(content, fold / "checkpoint_final.pth")
    if summary is not None:
        (fold / "validation" / "summary.json").write_text(json.dumps(summary))
    written = (fold / "checkpoint_final.pth").stat().st_mtime - age
    os.utime(fold / "checkpoint_final.pth", (written, written))
    return folder


@pytest.fixture
def newer(results, data):
    return save_model(results / "nnUNetTrainerOther__nnUNetPlans__2d", data)


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"a": 1}', "[" * 100_000, b"\xff\xfe", None])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_model_is_left_out_with_a_warning_that_names_the_file(results, newer, source, file, content, capsys):
    assert open_newest(source).model.folder == newer
    path = newer / file
    damage(path, content)
    assert open_newest(source).model.folder != newer
    assert str(path) in capsys.readouterr().err.replace("plans.json or ", f"plans.json or {newer}/")
    shutil.rmtree(results / "nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(UserError, match=path.name):
        open_newest(source)


@pytest.mark.parametrize("file", FILES[:3])
def test_no_damage_of_a_neighbour_keeps_the_others_from_being_found(results, newer, source, file):
    """One value of the file at a time is replaced or removed."""
    path, chance = newer / file, random.Random(0)
    whole = path.read_text()
    for _ in range(60):
        content = json.loads(whole)
        part, key = choose_value(content, chance)
        if chance.random() < 0.3:
            del part[key]
        else:
            part[key] = chance.choice([*WRONG, 1e308])
        path.write_text(json.dumps(content))
        assert find_nnunets(source).models[-1].folder.name == "nnUNetTrainer__nnUNetPlans__2d"
        open_newest(source)


@pytest.mark.parametrize("strides", ["2", 2, [], [[2]]])
def test_plans_with_strides_of_no_use_are_damaged(newer, results, source, strides):
    plans = json.loads((newer / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["strides"] = strides
    (newer / "plans.json").write_text(json.dumps(plans))
    assert open_newest(source).model.folder != newer


def test_a_checkpoint_that_was_written_under_numpy_1_is_read(newer, results, source):
    """The same pickle, but for the module that numpy's scalars were in."""
    path = newer / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    assert b"numpy._core.multiarray\nscalar" in records[pickled]
    records[pickled] = records[pickled].replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    assert open_newest(source).model.folder == newer


def uses(*banks):
    return json.dumps(
        {"uses": [{"first_epoch": place, "banks": [bank] if bank else []} for place, bank in enumerate(banks)]}
    )


@pytest.mark.parametrize(
    ("name", "record", "taken"),
    [
        ("Mine", None, True),
        ("Mine", uses(None), True),
        ("Mine", uses({"name": "kb"}), False),
        ("Mine", uses(None, {"name": "kb"}), False),
        ("nnUNetTrainerSynth", uses(None), True),  # ratio 0
        ("nnUNetTrainerSynth", None, False),  # its record was lost
        ("Mine", "{}", False),
        ("Mine", "[", False),
        ("Mine", '{"uses": [1]}', False),
        ("Mine", '{"uses": [{}]}', False),
    ],
)
def test_the_record_of_a_fold_says_whether_it_saw_synthetic_pairs(results, data, source, name, record, taken):
    folder = save_model(results / f"{name}__nnUNetPlans__2d", data)
    if record is not None:
        (folder / "fold_0" / "synthetic_data.json").write_text(record)
    assert (find_nnunets(source).models[0].folder == folder) == taken


def test_a_model_that_is_older_than_the_splits_is_not_taken_without_its_validation(results, data, source):
    """Its training cases are no longer known."""
    shutil.rmtree(results)
    folder = save_model(results / "nnUNetTrainer__nnUNetPlans__2d", data, summary=None)
    assert find_nnunets(source).models[0].folder == folder
    later = (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime + 9
    os.utime(data.base / "splits_final.json", (later, later))
    with pytest.raises(UserError, match=r"splits_final\.json.*--val"):
        open_newest(source)
    (folder / "fold_0" / "validation" / "summary.json").write_text(json.dumps(SUMMARY))
    assert find_nnunets(source).models[0].folder == folder


def test_the_reason_is_named_for_each_nnunet_that_is_skipped(results, data, source):
    save_model(results / "nnUNetTrainerSynth__nnUNetPlans__2d", data)
    other = data.plans_manager.plans["configurations"]["2d"] | {"spacing": [9.0, 9.0]}
    plans = data.plans_manager.plans | {"configurations": {"2d": other}}
    (results / "nnUNetTrainer__nnUNetPlans__2d" / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError) as error:
        open_newest(source)
    for name in (
        "nnUNetTrainerSynth__nnUNetPlans__2d was trained with",
        "nnUNetTrainer__nnUNetPlans__2d was trained on",
    ):
        assert name in str(error.value)
