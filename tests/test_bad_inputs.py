"""Data that nobody hopes for: each trains, draws and is judged, or is refused with a reason; none crashes later."""

import json

import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from raw_cases import LABELS, NARROW, brain, cohort, own_folders, preprocess, run_options

from nnunet_synth.bank import calibration
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.inspection import inspect_bank
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.training.mixed_dataset import MixedDataset
from nnunet_synth.training.settings import make_settings, write_plans
from nnunet_synth.training.trainer import nnUNetTrainerSynth
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import evaluate as evaluation
from stylegan2_cond.planning import Plan, planner
from stylegan2_cond.snapshot import find_snapshots, load_generator, open_masks
from stylegan2_cond.training import run_logger, snapshot_evaluation
from stylegan2_cond.training.train import train

VARIANTS = ("pair", "mask", "image")
THREE_STEPS = 0.048


SAVE_PROGRESS = run_logger.save_progress


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_evaluation, "SAMPLES", {2: 40, 3: 24})
    monkeypatch.setattr(planner, "CONDITION_PATCHES", 100)
    monkeypatch.setattr(run_logger, "save_progress", lambda folder: None)  # it takes longer than all the rest
    return own_folders(tmp_path, monkeypatch)


@pytest.fixture
def pictured(monkeypatch):
    monkeypatch.setattr(run_logger, "save_progress", SAVE_PROGRESS)


def goes_the_whole_way(preprocessed, fold="0", variant="pair", overrides=None):
    """Train, draw and judge; returns the plan, and what was drawn."""
    folder = train(
        run_options(preprocessed, fold, variant=variant, kimg=THREE_STEPS, overrides=NARROW | (overrides or {}))
    )
    snapshot = find_snapshots(folder)[-1]
    generator = load_generator(snapshot)
    masks = open_masks("deformed", generator.plan) if variant == "image" else None
    drawn = generator.sample(12, seed=1, masks=masks)
    assert np.isfinite(drawn.image).all()
    found = evaluation.evaluate(snapshot, samples=40)
    assert found.generated
    plan = Plan.load(folder / "plan.json")
    assert set(np.unique(drawn.label)) <= set(plan.codec.labels)
    return plan, drawn


# --- no masks


def without_masks():
    return {name: (image, np.zeros_like(label)) for name, (image, label) in cohort().items()}


@pytest.mark.parametrize("variant", ["pair", "image"])
def test_empty_masks_everywhere_train_and_come_out_empty(folders, pictured, variant):
    plan, drawn = goes_the_whole_way(preprocess(folders, without_masks(), LABELS), variant=variant)
    assert "class 1 is shown by no case; class 2 is shown by no case" in plan.reasons["conditions"]
    assert variant == "pair" or not drawn.label.any()


def test_masks_alone_of_empty_masks_are_refused(folders):
    with pytest.raises(UserError, match=r"None of the training cases .* shows any class.*--variant pair"):
        train(run_options(preprocess(folders, without_masks(), LABELS), "0", variant="mask", kimg=THREE_STEPS))


# --- rare classes


SPLIT = [{"train": [f"case_{number}" for number in range(5)], "val": ["case_5"]}]


@pytest.mark.parametrize("variant", ["pair", "image"])
def test_a_class_of_one_case_trains_and_the_plan_says_so(folders, variant):
    cases = {f"case_{number}": brain(number, labels=2 if number in (2, 5) else 1) for number in range(6)}
    plan, _ = goes_the_whole_way(preprocess(folders, cases, LABELS, SPLIT), variant=variant)
    assert "class 2 is shown by 1 of 5 cases" in plan.reasons["conditions"]


def test_a_class_of_validation_cases_alone_is_known_and_never_drawn_by_itself(folders):
    cases = {f"case_{number}": brain(number, labels=2 if number == 5 else 1) for number in range(6)}
    plan, _ = goes_the_whole_way(preprocess(folders, cases, LABELS, SPLIT))
    assert "class 2 is shown by no case" in plan.reasons["conditions"]
    assert plan.conditions.classes == (1, 2)
    asked = [plan.conditions.sample(np.random.default_rng(seed))[1] for seed in range(50)]
    assert sum(asked) == 0


# --- few cases


def test_one_training_case_of_an_own_split_trains(folders):
    split = [{"train": ["case_0"], "val": ["case_1"]}]
    plan, _ = goes_the_whole_way(preprocess(folders, cohort(2), LABELS, split))
    assert plan.source.training_cases == ("case_0",)


def test_one_case_in_all_trains_by_fold_all_and_no_other(folders):
    preprocessed = preprocess(folders, cohort(1), LABELS)
    with pytest.raises(UserError, match=r"too few for nnU-Net's five folds.* use fold 'all'"):
        train(run_options(preprocessed, "0", kimg=THREE_STEPS))
    goes_the_whole_way(preprocessed, fold="all", variant="image")


@pytest.mark.parametrize(("count", "fold"), [(1, "all"), (2, "0")])
def test_of_few_cases_a_bank_is_filled_inspected_and_mixed_in(folders, count, fold, monkeypatch):
    monkeypatch.setattr(calibration, "REAL_PATCHES", {2: 60})
    names = [f"case_{number}" for number in range(count)]
    split = None if fold == "all" else [{"train": names[:-1], "val": names[-1:]}]
    data = preprocess(folders, cohort(count), LABELS, split)
    train(run_options(data, fold, kimg=THREE_STEPS, overrides=NARROW))
    bank = fill_bank(data, fold, FillRequest(samples=8, without=("range", "anatomy"), balanced=True))
    record = BankRecord.load(bank / RECORD_FILE)
    assert record.samples == 8
    assert "found 1" in record.filters["copy"].off
    page, _ = inspect_bank(bank, None)
    assert page.exists()
    plans = write_plans(data, make_settings(banks=[bank.name], ratio=0.5, schedule="linear"), "nnUNetPlansHalf")
    trainer = nnUNetTrainerSynth(
        load_json(str(plans)) | {"continue_training": False},
        "2d",
        fold if fold == "all" else int(fold),
        data.dataset_json,
        torch.device("cpu"),
    )
    trainer.initialize()
    mixed, validation = trainer.get_tr_and_val_datasets()
    assert sorted(validation.identifiers) == sorted(names[-1:] if fold == "0" else names)
    assert isinstance(mixed, MixedDataset)


# --- constant channels


def with_constant(channels):
    cases = cohort()
    for image, _ in cases.values():
        image[channels] = 7
    return cases


def test_a_constant_channel_trains_and_the_plan_says_so(folders, pictured):
    plan, _ = goes_the_whole_way(preprocess(folders, with_constant([1]), LABELS))
    assert "channel 1 is the same everywhere" in plan.reasons["codec"]


@pytest.mark.parametrize("variant", ["pair", "image"])
def test_images_that_are_constant_are_refused(folders, variant):
    with pytest.raises(UserError, match=r"Each image channel has one value.*--variant mask"):
        train(run_options(preprocess(folders, with_constant([0, 1]), LABELS), "0", variant=variant, kimg=THREE_STEPS))


def test_masks_of_constant_images_train(folders):
    goes_the_whole_way(preprocess(folders, with_constant([0, 1]), LABELS), variant="mask")


# --- labels


@pytest.mark.parametrize("variant", ["pair", "image"])
def test_many_labels_train(folders, variant):
    many = 35
    labels = {"background": 0} | {f"class{value}": value for value in range(1, many + 1)}
    plan, drawn = goes_the_whole_way(preprocess(folders, cohort(labels=many), labels), variant=variant)
    assert plan.codec.labels == tuple(range(many + 1))
    assert len(np.unique(drawn.label)) > 5


@pytest.mark.parametrize("variant", ["pair", "mask"])
def test_an_ignore_label_trains_and_is_never_drawn(folders, variant):
    cases = cohort()
    for _, label in cases.values():
        label[:, 8:] = 3
    plan, drawn = goes_the_whole_way(preprocess(folders, cases, LABELS | {"ignore": 3}), variant=variant)
    assert plan.codec.ignore == 3
    assert 3 not in drawn.label
    assert plan.conditions.classes == (1, 2)


def test_images_for_masks_with_an_ignore_label_are_refused_before_training(folders):
    with pytest.raises(UserError, match=r"voxels to be ignored \(label 3\).*--variant pair"):
        train(
            run_options(preprocess(folders, cohort(), LABELS | {"ignore": 3}), "0", variant="image", kimg=THREE_STEPS)
        )


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def test_regions_train_as_the_labels_that_they_are_made_of(folders):
    plan, _ = goes_the_whole_way(preprocess(folders, cohort(), REGIONS, regions_class_order=[1, 2]))
    assert plan.codec.labels == (0, 1, 2)
    assert plan.conditions.classes == (1, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_regions_whose_image_is_not_everywhere_train_with_the_outside_as_a_class(folders, variant):
    data = preprocess(folders, cohort(empty_rim=2), REGIONS, regions_class_order=[1, 2])
    assert OUTSIDE in data.load("case_0").label[:]
    plan, drawn = goes_the_whole_way(data, variant=variant)
    assert plan.codec.labels == (0, 1, 2, OUTSIDE)
    assert plan.conditions.classes == (1, 2)
    outside = np.moveaxis(drawn.image, 1, -1)[drawn.label == OUTSIDE]
    assert (outside == 0).all()


def test_regions_with_an_ignore_label_train(folders):
    cases = cohort()
    for _, label in cases.values():
        label[:, 8:] = 3
    data = preprocess(folders, cases, REGIONS | {"ignore": 3}, regions_class_order=[1, 2])
    plan, drawn = goes_the_whole_way(data)
    assert plan.codec.labels == (0, 1, 2)
    assert 3 not in drawn.label


@pytest.mark.parametrize("change", [lambda image, label: (image[:1], label), lambda image, label: (image, label[:-1])])
def test_a_case_of_another_shape_than_the_dataset_is_named(folders, change):
    preprocessed = preprocess(folders, cohort(), LABELS)
    name = preprocessed.fold(0).training[0]
    case = preprocessed.load(name)
    image, label = change(case.image[:], case.label[:][0])
    for path in preprocessed.folder.glob(f"{name}[._]*"):
        path.unlink()
    properties = {"class_locations": case.class_locations, "spacing": [3.0, 1.0, 1.0]}
    preprocessed.dataset_class.save_case(image, label[None], properties, str(preprocessed.folder / name))
    with pytest.raises(UserError, match=f"{name}.*channels"):
        train(run_options(preprocessed, "0", kimg=THREE_STEPS))


# --- nnU-Net's own files, damaged or edited


def network_of(plans: dict) -> dict:
    return plans["configurations"]["2d"]["architecture"]["arch_kwargs"]


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("nnUNetPlans.json", lambda plans: plans.pop("configurations"), "configurations"),
        ("nnUNetPlans.json", lambda plans: plans.update(plans_name=["x"]), "plans_name"),
        ("nnUNetPlans.json", lambda plans: plans["configurations"]["2d"].update(patch_size="16"), "patch_size"),
        ("nnUNetPlans.json", lambda plans: plans["configurations"]["2d"].update(spacing=[1.0, -1.0]), "spacing"),
        ("nnUNetPlans.json", lambda plans: plans["configurations"]["2d"].update(data_identifier="../x"), "identifier"),
        ("nnUNetPlans.json", lambda plans: plans["configurations"]["2d"].update(inherits_from="none"), "2d"),
        ("nnUNetPlans.json", lambda plans: plans["configurations"]["2d"].update(patch_size=[4, 16, 14]), "strides"),
        ("nnUNetPlans.json", lambda plans: network_of(plans).pop("strides"), "strides"),
        ("nnUNetPlans.json", lambda plans: network_of(plans).update(strides="twice"), "strides"),
        ("dataset.json", lambda content: content.pop("labels"), "labels"),
        ("dataset.json", lambda content: content.update(labels={"first": 1}), "labels"),
        ("dataset.json", lambda content: content.update(labels={"background": 0, "first": "one"}), "labels.first"),
        ("dataset.json", lambda content: content["labels"].update(third=40000), "labels.third"),
        ("dataset.json", lambda content: content.update(file_ending=3), "file_ending"),
        ("splits_final.json", lambda splits: splits[0]["train"].append(["case_0"]), "splits_final"),
        ("splits_final.json", lambda splits: splits[0]["train"].append(splits[0]["val"][0]), "case_"),
        ("splits_final.json", lambda splits: splits[0]["train"].append(splits[0]["train"][0]), "twice"),
    ],
)
def test_files_of_nnunet_that_cannot_be_used_are_named_with_the_key(folders, file, change, named):
    preprocessed = preprocess(folders, cohort(), LABELS)
    preprocessed.fold(0)
    path = preprocessed.base / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=named) as told:
        open_preprocessed(preprocessed.dataset_name, "2d").fold(0)
    assert file in str(told.value)


@pytest.mark.parametrize("name", ["dataset", "splits_final"])
def test_other_files_of_the_folder_are_not_taken_for_plans(folders, name):
    preprocessed = preprocess(folders, cohort(), LABELS)
    preprocessed.fold(0)
    with pytest.raises(UserError, match=name):
        open_preprocessed(preprocessed.dataset_name, "2d", name)
