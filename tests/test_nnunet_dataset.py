"""Reading nnU-Net's preprocessed folder: the same cases and folds as nnU-Net's own trainer."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import DATASET, TINY_PLANS
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from stylegan2_cond.data import nnunet_dataset as module
from stylegan2_cond.data.fingerprint import read_fingerprint
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.errors import UserError


def nnunet_split(preprocessed, fold):
    plans = json.loads((preprocessed.base / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    return nnUNetTrainer(plans, "2d", fold, preprocessed.dataset_json, torch.device("cpu")).do_split()


@pytest.mark.parametrize("fold", [0, 4, "all"])
def test_folds_are_those_of_nnunets_trainer(preprocessed, fold):
    ours = preprocessed.fold(fold)
    training, validation = nnunet_split(preprocessed, fold)
    assert sorted(ours.training) == sorted(training)
    assert sorted(ours.validation) == sorted(validation)


def test_an_absent_split_is_written_as_nnunet_writes_it(preprocessed):
    path = preprocessed.base / "splits_final.json"
    path.unlink(missing_ok=True)
    preprocessed.fold(0)
    ours = json.loads(path.read_text())
    path.unlink()
    nnunet_split(preprocessed, 0)
    assert ours == json.loads(path.read_text())


def test_the_format_of_a_folder_is_looked_up_once(preprocessed, monkeypatch):
    opened, looked = open_preprocessed(DATASET, "2d"), []
    infer = module.infer_dataset_class
    monkeypatch.setattr(module, "infer_dataset_class", lambda folder: looked.append(folder) or infer(folder))
    for name in opened.case_names()[:3]:
        opened.load(name)
    assert len(looked) == 1


def test_npz_folders_give_the_same_cases_as_b2nd(preprocessed, nnunet_folders):
    base = nnunet_folders / "nnUNet_preprocessed" / "Dataset902_VirtualNpz"
    folder = base / preprocessed.configuration.data_identifier
    folder.mkdir(parents=True)
    for file in preprocessed.base.glob("*.json"):
        shutil.copy(file, base)
    for name in preprocessed.case_names():
        image, label, _, properties = preprocessed.dataset_class(str(preprocessed.folder), [name]).load_case(name)
        nnUNetDatasetNumpy.save_case(image[:], label[:], properties, str(folder / name))
    try:
        npz = open_preprocessed("Dataset902_VirtualNpz", "2d")
        assert npz.case_names() == preprocessed.case_names()
        for name in npz.case_names()[:3]:
            ours, other = npz.load(name), preprocessed.load(name)
            assert np.array_equal(ours.image, other.image[:])
            assert np.array_equal(ours.label, other.label[:])
            assert ours.class_locations.keys() == other.class_locations.keys()
    finally:
        shutil.rmtree(base)


def test_dataset_by_number_and_by_name_are_one(preprocessed):
    assert open_preprocessed("901", "2d").base == open_preprocessed(DATASET, "2d").base == preprocessed.base


def test_plans_that_differ_in_the_network_alone_share_preprocessing(preprocessed):
    assert open_preprocessed(901, "2d", TINY_PLANS).preprocessing_hash == preprocessed.preprocessing_hash


def test_other_normalisation_is_other_preprocessing(preprocessed):
    plans = json.loads((preprocessed.base / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"] * 2
    (preprocessed.base / "nnUNetPlansCT.json").write_text(json.dumps(plans))
    changed = open_preprocessed(901, "2d", "nnUNetPlansCT")
    (preprocessed.base / "nnUNetPlansCT.json").unlink()
    assert changed.preprocessing_hash != preprocessed.preprocessing_hash


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Dataset901_Virtuel", "2d"), ["Dataset901_Virtuel", "Did you mean Dataset901_Virtual?"]),
        (("903", "2d"), ["903", "nnUNetv2_plan_and_preprocess -d 903"]),
        (("901", "2D"), ["'2D'", "It has: 2d"]),
        (("901", "2d", "nnUNetResEncUNetMPlans"), ["nnUNetResEncUNetMPlans", "There are: nnUNetPlans", "-p"]),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(preprocessed, arguments, words):
    with pytest.raises(UserError) as error:
        open_preprocessed(*arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("fold", ["5", "-1", "zero", "٣", "00", "+1", "1.0", "²"])
def test_a_fold_that_does_not_exist_is_refused(preprocessed, fold):
    with pytest.raises(UserError, match="has folds 0 to 4"):
        preprocessed.fold(fold)


@pytest.mark.parametrize(
    "content",
    [
        '[{"train": ["virtual_000"]}]',
        '{"train": [], "val": []}',
        "[1]",
        '[{"train": [["virtual_000"]], "val": []}]',
        '[{"train": [0], "val": []}]',
    ],
)
def test_a_split_of_another_shape_is_told(damaged_copy, content):
    copy, _ = damaged_copy
    (copy.base / "splits_final.json").write_text(content)
    with pytest.raises(UserError, match=r"splits_final.json is not a list of folds"):
        copy.fold(0)


@pytest.mark.parametrize(
    ("train", "val"), [(["virtual_000", "virtual_001"], ["virtual_001"]), (["virtual_001", "virtual_001"], [])]
)
def test_a_split_that_names_a_case_twice_is_refused(damaged_copy, train, val):
    copy, _ = damaged_copy
    (copy.base / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    with pytest.raises(UserError, match=r"splits_final\.json, fold 0.*virtual_001"):
        copy.fold(0)


def test_folds_within_a_fold_use_its_training_cases_alone_and_have_some(damaged_copy):
    copy, _ = damaged_copy
    one, two, three = copy.case_names()[:3]
    splits = [
        {"train": [one, two], "val": [three]},
        {"train": [one], "val": [two]},
        {"train": [], "val": []},  # only keeps the numbers of others, as a benchmark's folds do
        {"train": [one], "val": [three]},
        {"train": [one, two], "val": []},
    ]
    (copy.base / "splits_final.json").write_text(json.dumps(splits))
    assert [fold.name for fold in copy.folds_within(copy.fold(0))] == ["1", "4"]


@pytest.mark.parametrize("plans_name", ["dataset", "splits_final", "dataset_fingerprint"])
def test_a_file_that_is_not_plans_is_refused(preprocessed, plans_name):
    preprocessed.fold(0)
    with pytest.raises(UserError, match=rf"{plans_name}\.json"):
        open_preprocessed(901, "2d", plans_name)


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("nnUNetPlans", ("plans_name",), None),
        ("nnUNetPlans", ("configurations",), [1]),
        ("nnUNetPlans", ("configurations", "2d"), None),
        ("nnUNetPlans", ("configurations", "2d", "patch_size"), "x"),
        ("nnUNetPlans", ("configurations", "2d", "patch_size"), [0, 8]),
        ("nnUNetPlans", ("configurations", "2d", "spacing"), None),
        ("nnUNetPlans", ("configurations", "2d", "data_identifier"), 7),
        ("nnUNetPlans", ("configurations", "2d", "inherits_from"), "2d"),
        ("dataset", ("labels",), None),
        ("dataset", ("labels",), {"background": "zero"}),
        ("dataset", ("channel_names",), ["T1"]),
        ("dataset", ("file_ending",), 3),
        ("dataset", (), []),
    ],
)
def test_plans_and_dataset_json_of_another_structure_are_refused(damaged_copy, file, place, value):
    copy, _ = damaged_copy
    path = copy.base / f"{file}.json"
    content = {"whole": json.loads(path.read_text())}
    *inside, last = ("whole", *place)
    part = content
    for key in inside:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(content["whole"]))
    with pytest.raises(UserError, match=rf"{file}\.json.*nnUNetv2_plan_and_preprocess"):
        open_preprocessed(901, "2d")


def test_an_unset_variable_is_named(preprocessed, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(UserError, match="export nnUNet_preprocessed="):
        open_preprocessed(901, "2d")


def test_a_folder_that_was_not_preprocessed_names_the_command(preprocessed, monkeypatch, tmp_path):
    shutil.copytree(preprocessed.base, tmp_path / DATASET, ignore=shutil.ignore_patterns("nnUNetPlans_2d"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    with pytest.raises(UserError, match="nnUNetv2_plan_and_preprocess -d 901 -c 2d"):
        open_preprocessed(901, "2d")


@pytest.fixture
def damaged_copy(preprocessed, monkeypatch, tmp_path):
    """A copy of the dataset of which one case can be damaged, and that case's name."""
    shutil.copytree(preprocessed.base, tmp_path / DATASET)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    copy = open_preprocessed(901, "2d")
    return copy, copy.case_names()[0]


def rewrite(preprocessed, name, change):
    folder = preprocessed.folder
    image, label, _, properties = preprocessed.dataset_class(str(folder), [name]).load_case(name)
    image, label = change(image[:].copy(), label[:].copy())
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (folder / (name + ending)).unlink()
    preprocessed.dataset_class.save_case(
        image, label, properties, str(folder / name), chunks=image.shape, blocks=image.shape, chunks_seg=label.shape,
        blocks_seg=label.shape,
    )  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_name_the_case(damaged_copy, value):
    copy, name = damaged_copy

    def spoil(image, label):
        image[0, 3, 5, 5] = value
        return image, label

    rewrite(copy, name, spoil)
    with pytest.raises(UserError, match=rf"{name} .* 1 voxels that are NaN or infinite"):
        read_fingerprint(copy, copy.case_names())


def test_labels_outside_of_dataset_json_name_case_and_label(damaged_copy):
    copy, name = damaged_copy

    def spoil(image, label):
        label[0, 3, 5, 5] = 7
        return image, label

    rewrite(copy, name, spoil)
    with pytest.raises(UserError, match=rf"{name} .* has label 7, .*grey_matter"):
        read_fingerprint(copy, copy.case_names())


def test_a_cut_off_case_names_file_and_command(damaged_copy):
    copy, name = damaged_copy
    path = copy.folder / f"{name}.b2nd"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"Case {name} .*nnUNetv2_plan_and_preprocess"):
        read_fingerprint(copy, copy.case_names())
