"""Unlabelled scans in a bank: images as nnU-Net preprocesses them, labels as nnU-Net predicts them."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from raw_files import NAME, Format, case_files, dataset, make_bank
from scipy import stats
from test_find_nnunets import save_model

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.inspection import inspect_bank
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.benchmark.scoring import read_rows
from nnunet_synth.pseudo_labels import calibration, rounds
from nnunet_synth.pseudo_labels import label as labelling
from nnunet_synth.pseudo_labels import record as record_of_scans
from nnunet_synth.pseudo_labels.calibration import label_unseen_cases
from nnunet_synth.pseudo_labels.label import pseudo_label
from nnunet_synth.pseudo_labels.request import PseudoLabelRequest
from nnunet_synth.pseudo_labels.rounds import run_rounds
from nnunet_synth.pseudo_labels.scans import find_scans
from nnunet_synth.pseudo_labels.teachers import open_teachers
from nnunet_synth.training.leak_guard import LeakError
from nnunet_synth.training.trainer import nnUNetTrainerSynth
from nnunet_synth.training.usage_record import TrainingRecord, record_use
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.planning import Source

STYLE = Format("SimpleITKIO", ".nii.gz")
SPLITS = [
    {"train": ["case_0", "case_1", "case_2"], "val": ["case_3", "case_4"]},
    {"train": ["case_2", "case_3", "case_4"], "val": ["case_0", "case_1"]},
]
SUMMARY = {"metric_per_case": [{"prediction_file": f"/x/{name}.nii.gz"} for name in SPLITS[0]["val"]]}
ANY = {"least_confidence": 0.0, "without": ("anatomy",)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Seven cases, of which fold 0 uses five, two untrained nnU-Nets of that fold, and a folder of three scans."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(variable, str(folder / variable))
        data = dataset(folder, STYLE, cases=7)
        (data.base / "splits_final.json").write_text(json.dumps(SPLITS))
        for seed, trainer in enumerate(("nnUNetTrainer", "nnUNetTrainerOther")):
            torch.manual_seed(seed)
            model = folder / "nnUNet_results" / NAME / f"{trainer}__nnUNetPlans__2d"
            save_model(model, data, summary=SUMMARY)
    for number in range(3):
        make_scan(folder / "scans", f"scan_{number}", seed=100 + number)
    return folder


def make_scan(folder, name, *, seed=0, image=None, ending=".nii.gz", direction=None, channels=2):
    """The files of a scan. image: `[C, z, y, x]`; random if None."""
    folder.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).uniform(30, 220, (channels, 5, 24, 20)) if image is None else image
    for channel, array in enumerate(image):
        file = sitk.GetImageFromArray(array.astype(np.float32))
        file.SetSpacing((1.2, 0.8, 3.0))
        if direction:
            file.SetDirection(direction)
        sitk.WriteImage(file, str(folder / f"{name}_{channel:04d}{ending}"))


@pytest.fixture
def copy(world, tmp_path, monkeypatch):
    """A copy of the world, and nnU-Net's variables that point there."""
    shutil.copytree(world, tmp_path / "copy")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / "copy" / variable))
    return tmp_path / "copy"


@pytest.fixture
def data(copy):
    return open_preprocessed(950, "2d")


@pytest.fixture
def teacher(copy):
    return copy / "nnUNet_results" / NAME / "nnUNetTrainer__nnUNetPlans__2d"


def fill(copy, data, **options):
    """Label the scans of the world's folder, or of another source."""
    options = {"source": str(copy / "scans"), **ANY, **options}
    return pseudo_label(data, "0", PseudoLabelRequest(**options))


def read(result):
    """Image and label of each shard, by the scan's name."""
    entered = [scan.name for scan in result.record.origin.scans if scan.refused is None]
    bank = BankDataset(str(result.folder))
    found = [bank.load_case(shard.name) for shard in result.record.shards]
    return {name: (image[:], label[:]) for name, (image, label, *_) in zip(entered, found, strict=True)}


def own_prediction(model, files, fold=0, **options):
    """nnU-Net's own probabilities for files, in the space of the files."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(str(model), (fold,))
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(path) for path in files])
    return predictor.predict_single_npy_array(image, properties, None, None, True)[1]


@pytest.fixture
def named(teacher):
    """nnU-Net's predictor finds the trainer and configuration of a checkpoint in it."""
    for model in teacher.parent.iterdir():
        path = model / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        content |= {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": "2d"}}
        torch.save(content | {"inference_allowed_mirroring_axes": (0, 1)}, path)


def test_images_are_nnunets_preprocessing_and_labels_its_mirrored_mean_prediction(copy, data, teacher, named):
    found = fill(copy, data)
    assert [one.configuration for one in found.record.origin.teachers] == ["2d", "2d"]
    for name, (image, label) in read(found).items():
        files = sorted((copy / "scans").glob(f"{name}_*"))
        arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in files]
        assert np.array_equal(image, np.stack(arrays))  # no normalisation, no other spacing, nothing cropped
        mean = sum(own_prediction(model, files) for model in teacher.parent.iterdir()) / 2
        assert np.array_equal(label[0], mean.argmax(axis=0))


def test_confidence_is_probability_times_agreement(copy, data, teacher, named):
    found = fill(copy, data, teachers=(teacher,))
    for scan in found.record.origin.scans:
        files = sorted((copy / "scans").glob(f"{scan.name}_*"))
        mirrored, plain = (own_prediction(teacher, files, use_mirroring=on) for on in (True, False))
        for value, name in ((1, "first"), (2, "second")):
            mask, other = mirrored.argmax(axis=0) == value, plain.argmax(axis=0) == value
            if mask.any():
                dice = 2 * (mask & other).sum() / (mask.sum() + other.sum())
                assert scan.confidence[name] == pytest.approx(mirrored[value][mask].mean() * dice, rel=1e-5)
            else:
                assert name not in scan.confidence


def test_cases_of_the_dataset_that_the_fold_does_not_use_are_scans_too(copy, data):
    listed, written = fill(copy, data, source="case_6,case_5"), copy / "list.txt"
    written.write_text("case_5\ncase_6\n")
    assert fill(copy, data, source=str(written), name="again").record.origin.scans == listed.record.origin.scans
    for name, (image, _) in read(listed).items():
        assert np.array_equal(image, data.load(name).image[:])
    with pytest.raises(UserError, match="'case_x0' is not a case of"):  # a list longer than a path can be
        fill(copy, data, source=",".join(["case_5", *(f"case_x{number}" for number in range(500))]), name="long")


def test_a_bank_of_scans_is_verified_and_enters_training_as_it_is(copy, data):
    found = fill(copy, data)
    assert verify_bank(found.folder, data) == found.record
    training = datasets_of_training(data, "pseudo")
    training.control.ratios = [1]
    image, label, _, properties = training.load_case("case_0")
    assert image.shape == (2, 5, 24, 20)  # a whole case: no margins
    for value, voxels in properties["class_locations"].items():
        assert all(label[tuple(voxel)] == value for voxel in voxels[:20])


@pytest.mark.parametrize(("given", "ratio"), [({}, 0.5), ({"ratio": 0.1}, 0.1)])
def test_half_of_the_draws_are_scans_unless_told_otherwise(copy, data, given, ratio):
    fill(copy, data)
    trainer = trainer_with(data, {"bank": "pseudo"} | given)
    mixed, _ = trainer.get_tr_and_val_datasets()
    assert mixed.control.ratios.tolist() == [ratio]
    recorded = TrainingRecord.load(Path(trainer.output_folder) / "synthetic_data.json").uses[0].settings
    assert recorded.ratio == ratio


def trainer_with(data, block, fold=0):
    """A trainer whose plans have a `synth` block."""
    plans = json.loads((data.base / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    plans["configurations"]["2d"]["synth"] = block
    trainer = nnUNetTrainerSynth(plans, "2d", fold, data.dataset_json, torch.device("cpu"))
    trainer.initialize()
    return trainer


def datasets_of_training(data, bank, fold=0):
    """What the trainer takes for training."""
    return trainer_with(data, {"ratio": 0.5, "bank": bank}, fold).get_tr_and_val_datasets()[0]


# --- leaks


def validation_image(data):
    files, _ = case_files(data.base.parents[1] / "nnUNet_raw" / NAME, "case_3", STYLE)
    return np.stack([sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in files]).astype(float)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda image: image, "the same image"),
        (lambda image: 3 * image + 100, "correlation"),
        (lambda image: np.round((image - 30) / 190 * 255), "correlation"),
        (lambda image: image + np.random.default_rng(0).normal(0, 1, image.shape), "correlation"),
    ],
)
def test_a_validation_case_under_another_name_is_refused(copy, data, change, same):
    make_scan(copy / "scans", "renamed", image=change(validation_image(data)))
    found = fill(copy, data)
    (scan,) = [scan for scan in found.record.origin.scans if scan.refused]
    assert scan.name == "renamed"
    assert "validation case case_3" in scan.refused
    assert same in scan.refused
    assert found.record.samples == 3
    datasets_of_training(data, "pseudo")


def test_test_images_are_refused(copy, data):
    tests = copy / "nnUNet_raw" / NAME / "imagesTs"
    tests.mkdir()
    for path in (copy / "scans").glob("scan_1_*"):
        shutil.copy(path, tests / path.name.replace("scan_1", "unknown"))
    found = fill(copy, data)
    assert "test case unknown" in next(scan.refused for scan in found.record.origin.scans if scan.name == "scan_1")


def test_transductive_lets_them_in_and_says_so(copy, data):
    make_scan(copy / "scans", "renamed", image=validation_image(data))
    found = fill(copy, data, transductive=True)
    assert found.record.origin.evaluation_scans == ("renamed",)
    datasets_of_training(data, "pseudo")
    assert "validation or test cases (--transductive)" in labelling.describe(found)


@pytest.mark.parametrize(
    ("begun", "told"), [(False, "begun without --trans.* leave out"), (True, "begun with --.* add")]
)
def test_a_bank_is_transductive_from_its_first_scan_or_never(copy, data, begun, told):
    fill(copy, data, transductive=begun)
    make_scan(copy / "scans", "renamed", image=validation_image(data))
    with pytest.raises(UserError, match=told):
        fill(copy, data, transductive=not begun)
    assert fill(copy, data, transductive=begun).record.samples == 3 + begun


def test_training_of_another_fold_refuses_a_bank_that_holds_its_validation_cases(copy, data):
    (data.base / "splits_final.json").write_text(
        json.dumps([SPLITS[0], {"train": ["case_0", "case_1", "case_2"], "val": ["case_5"]}])
    )
    fill(copy, data, source="case_5,case_6")
    shutil.copytree(data.base / "nnUNetPlans_2d_synth/fold_0", data.base / "nnUNetPlans_2d_synth/fold_1")
    with pytest.raises(LeakError, match="1 of the 1 validation cases of fold 1, case_5 among them"):
        datasets_of_training(data, "pseudo", fold=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model, data: write_summary(model, ["case_0", "case_3"]), "validated on case_0, a training case"),
        (lambda model, data: change_json(model / "plans.json", other_spacing), "preprocessed differently"),
        (lambda model, data: change_json(model / "dataset.json", other_labels), "preprocessed differently"),
        (lambda model, data: (model / "fold_0").rename(model / "fold_all"), "no trained nnU-Net of fold 0"),
        (lambda model, data: (model / "fold_0").rename(model / "fold_1"), "no trained nnU-Net of fold 0"),
    ],
)
def test_a_teacher_of_other_data_or_that_saw_validation_cases_is_refused(copy, data, teacher, change, told):
    change(teacher, data)
    with pytest.raises(UserError, match=told):
        fill(copy, data, teachers=(teacher,))
    assert not (data.base / "nnUNetPlans_2d_synth/fold_0/pseudo").exists()


def write_summary(model, names, fold=0):
    summary = {"metric_per_case": [{"prediction_file": f"{name}.nii.gz"} for name in names]}
    (model / f"fold_{fold}/validation/summary.json").write_text(json.dumps(summary))


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_spacing(plans):
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]


def other_labels(dataset_json):
    dataset_json["labels"] = {"background": 0, "second": 1, "first": 2}


def test_without_a_teacher_the_command_says_how_to_train_one(copy, data):
    shutil.rmtree(copy / "nnUNet_results" / NAME)
    with pytest.raises(UserError, match=r"There is no teacher.*nnUNetv2_train Dataset950_Small 2d 0"):
        fill(copy, data)


def test_a_training_that_has_not_ended_is_no_teacher_unless_it_is_named(copy, data, teacher, capsys):
    (teacher / "fold_0/checkpoint_final.pth").rename(teacher / "fold_0/checkpoint_best.pth")
    (one,) = fill(copy, data).record.origin.teachers
    assert one.path.endswith("nnUNetTrainerOther__nnUNetPlans__2d")
    assert f"the training in {teacher} has not ended" in capsys.readouterr().err
    assert fill(copy, data, teachers=(teacher,), name="named").record.origin.teachers[0].path == str(teacher)


# --- scans that do not fit


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: damage(folder, lambda content: b"no image"), "cannot be read ("),
        (lambda folder: damage(folder, lambda content: content[:900]), "cannot be read ("),
        (lambda folder: make_broken(folder, np.full((2, 5, 24, 20), np.nan)), "has voxels that are NaN"),
        (lambda folder: make_scan(folder, "scan_1", image=np.zeros((2, 5, 24, 20))), "is empty"),
        (lambda folder: make_scan(folder, "scan_1", direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1)), "is oriented along -1"),
        (
            lambda folder: make_scan(folder, "scan_1", image=(np.ones((5, 24, 20)), np.ones((5, 24, 21)))),
            "cannot be read",
        ),
    ],
)
def test_a_scan_that_cannot_be_used_is_left_out_and_counted(copy, run_here, make, told):
    make(copy / "scans")
    code, out, _ = run_here("nnunet-synth", "pseudo-label", "950", "2d", "0", "-i", str(copy / "scans"), *OPEN)
    assert code == 1
    assert f"Scan scan_1 {told}" in out
    assert "2 of 2 scans entered" in out
    assert "1 scans cannot be used: scan_1" in out


def damage(folder, change):
    for path in folder.glob("scan_1_*"):
        path.write_bytes(change(path.read_bytes()))


def make_broken(folder, image):
    for path in folder.glob("scan_1_*"):
        path.unlink()
    make_scan(folder, "scan_1", image=image, ending=".nrrd")  # ITK reads NaN in a .nii.gz as 0


def test_a_damaged_training_case_is_named(copy, data):
    (data.folder / "case_1.b2nd").write_bytes(b"")
    with pytest.raises(UserError, match="case_1"):
        fill(copy, data)


OPEN = ("--without", "all", "--device", "cpu")


def test_a_scan_that_was_repaired_or_added_enters_the_next_time(copy, data):
    broken = [(path, path.read_bytes()) for path in (copy / "scans").glob("scan_1_*")]
    for path, _ in broken:
        path.write_bytes(b"")
    first = fill(copy, data)
    for path, content in broken:
        path.write_bytes(content)
    make_scan(copy / "scans", "scan_9", seed=9)
    second = fill(copy, data)
    assert [scan.name for scan in second.record.origin.scans] == ["scan_0", "scan_2", "scan_1", "scan_9"]
    assert second.record.shards[:2] == first.record.shards
    assert verify_bank(second.folder, data).complete


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "no image named <case>_0000"),
        (lambda folder: (folder / "scan_1_0001.nii.gz").unlink(), r"scan_1 .* 0000, the dataset has 0000, 0001"),
        (lambda folder: make_scan(folder, "case_3 b", channels=3), r"case_3 b .* 0002"),
        (lambda folder: make_scan(folder, "scan_1", ending=".nrrd"), "twice: scan_1_0000.nii.gz and scan_1_0000.nrrd"),
        (lambda folder: make_scan(folder, "case_1"), "1 training cases of fold 0, e.g. case_1"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_before_anything_is_labelled(copy, data, make, told):
    make(copy / "scans")
    with pytest.raises(UserError, match=told):
        fill(copy, data)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("case_6,case_6", "case_6 twice"),
        ("case_6,case_9", "'case_9' is not a case of"),
        ("case_6,case_0", "1 training cases of fold 0, e.g. case_0"),
        ("nowhere", "neither a folder nor a list"),
        ("", "neither a folder nor a list"),
    ],
)
def test_names_of_cases_are_checked(data, source, told):
    with pytest.raises(UserError, match=told):
        find_scans(data, data.fold(0), source)


def test_names_with_spaces_and_every_ending_of_the_reader_are_taken(data, tmp_path):
    for number, ending in enumerate((".nii.gz", ".nrrd", ".mha")):
        make_scan(tmp_path / "mixed", f"patient {number}", ending=ending)
    assert [scan.name for scan in find_scans(data, data.fold(0), tmp_path / "mixed")] == [
        "patient 0",
        "patient 1",
        "patient 2",
    ]


# --- inspection


def test_the_page_shows_the_least_certain_scans_first_and_says_what_was_refused(copy, data):
    make_scan(copy / "scans", "renamed", image=validation_image(data))
    found = fill(copy, data)
    path, page = inspect_bank(found.folder)
    text = path.read_text()
    least = sorted(found.record.origin.scans, key=lambda scan: min(scan.confidence.values(), default=2))
    order = [picture.alt.split()[1].rstrip(":") for picture in page.sections[0].pictures]
    assert order == [scan.name for scan in least if not scan.refused]
    assert "validation case case_3" in text
    assert all(teacher.sha256 in text for teacher in found.record.origin.teachers)
    assert "3 unlabelled scans" in page.summary


# --- filters


def test_unsure_classes_refuse_the_scan_and_nothing_is_left_says_by_how_much(copy, data):
    sure = {scan.name: min(scan.confidence.values()) for scan in fill(copy, data).record.origin.scans}
    limit = sorted(sure.values())[1]
    found = fill(copy, data, least_confidence=limit, name="strict")
    assert {scan.name for scan in found.record.origin.scans if scan.refused} == {min(sure, key=sure.get)}
    assert found.record.filters["confidence"].refused == 1
    with pytest.raises(UserError, match=r"None of 3 scans entered .*confidence: .* less than 1"):
        fill(copy, data, least_confidence=1.0, name="none")


def test_where_the_dataset_has_an_ignore_label_unsure_classes_become_ignored(copy, data):
    change_json(data.base / "dataset.json", lambda content: content["labels"].update(ignore=3))
    for model in (copy / "nnUNet_results" / NAME).iterdir():
        change_json(model / "dataset.json", lambda content: content["labels"].update(ignore=3))
    data = open_preprocessed(950, "2d")
    open_, strict = fill(copy, data), fill(copy, data, least_confidence=1.0, name="strict")
    for scan, (_, before), (_, after) in zip(
        strict.record.origin.scans, read(open_).values(), read(strict).values(), strict=True
    ):
        assert scan.ignored == tuple(scan.confidence)
        assert np.array_equal(after, np.where(before > 0, 3, before))
    assert verify_bank(strict.folder, data).complete


# --- limits learnt from labelled cases


@pytest.fixture
def cross_validation(data, teacher, named):
    """Two folds of all cases and an nnU-Net of each, which were validated on these cases."""
    validated = [["case_3", "case_4"], ["case_0", "case_1", "case_2"]]
    splits = [{"train": sorted(set(data.case_names()) - set(part)), "val": part} for part in validated]
    (data.base / "splits_final.json").write_text(json.dumps(splits))
    other = teacher.with_name("nnUNetTrainerOther__nnUNetPlans__2d")
    (other / "fold_0").rename(teacher / "fold_1")
    shutil.rmtree(other)
    write_summary(teacher, validated[1], fold=1)
    return validated


def fill_all(copy, data, **options):
    request = PseudoLabelRequest(**{"source": str(copy / "scans"), "without": ("anatomy",), **options})
    return pseudo_label(data, "all", request).record


def test_labelled_cases_are_labelled_by_teachers_that_had_not_seen_them(copy, data, teacher, cross_validation):
    fold = data.fold("all")
    teachers = open_teachers(data, fold, Source.of(data, fold), (), "cpu")
    assert [member.record.fold for member in teachers.members] == ["0", "1"]
    found = label_unseen_cases(teachers)
    assert [case.name for case in found] == [f"case_{number}" for number in range(5)]
    for case in found:
        files, _ = case_files(data.base.parents[1] / "nnUNet_raw" / NAME, case.name, STYLE)
        number = next(number for number, part in enumerate(cross_validation) if case.name in part)
        mirrored, plain = (own_prediction(teacher, files, number, use_mirroring=on) for on in (True, False))
        shown = [value for value in (1, 2) if (mirrored.argmax(axis=0) == value).any()]
        assert set(case.confidence) == set(case.dice) == {("first", "second")[value - 1] for value in shown}
        for value in shown:
            name = ("first", "second")[value - 1]
            sides = mirrored.argmax(axis=0), plain.argmax(axis=0), data.load(case.name).label[0]
            mask, other, truth = (side == value for side in sides)
            same, dice = (2 * (mask & one).sum() / (mask.sum() + one.sum()) for one in (other, truth))
            assert case.confidence[name] == pytest.approx(mirrored[value][mask].mean() * same, rel=1e-5)
            assert case.dice[name] == pytest.approx(dice)


@pytest.fixture
def alike(teacher, cross_validation, monkeypatch):
    """Both nnU-Nets have the same weights, so that they are as sure of scans as of labelled cases, if not very sure."""
    monkeypatch.setattr(record_of_scans, "DEFAULT_LEAST", 0.05)
    shutil.copy(teacher / "fold_1/checkpoint_final.pth", teacher / "fold_0/checkpoint_final.pth")


def test_least_confidence_is_learnt_from_labelled_cases(copy, data, alike):
    record = fill_all(copy, data)
    limits = record.filters["confidence"].limits
    assert set(limits) == {"first", "second"}
    for name, limit in limits.items():
        sure = np.array([case.confidence[name] for case in record.origin.unseen_cases])
        interval = stats.t.interval(0.9, 4, sure.mean(), sure.std(ddof=1) * np.sqrt(1 + 1 / 5))
        assert limit == pytest.approx(interval[0])
    for scan in record.origin.scans:
        assert (scan.refused is None) == all(scan.confidence[name] >= limit for name, limit in limits.items())
    page = inspect_bank(data.base / "nnUNetPlans_2d_synth/fold_all/pseudo")[0].read_text()
    assert all(f"{name} {limit:.2f}" in page for name, limit in limits.items())
    assert all(said in page for said in ("learnt from 5 labelled cases", "configuration 2d, fold 1,"))


def test_learnt_limits_hold_in_the_next_rounds_and_after_a_stop(copy, data, teacher, alike, monkeypatch):
    record = fill_all(copy, data)
    monkeypatch.setattr(record_of_scans, "label_unseen_cases", None)
    assert fill_all(copy, data) == record
    request = PseudoLabelRequest(str(copy / "scans"), (teacher,), name="next", without=("anatomy",))
    following = pseudo_label(data, "all", request, previous=record).record
    assert following.origin.round == 2
    assert following.filters["confidence"].limits == record.filters["confidence"].limits
    with pytest.raises(UserError, match="other filters"):
        fill_all(copy, data, least_confidence=0.1)


def test_of_too_few_cases_no_limit_is_learnt(copy, data, alike, monkeypatch):
    monkeypatch.setattr(calibration, "FEWEST_CASES", 6)
    assert set(fill_all(copy, data).filters["confidence"].limits.values()) == {0.05}


def test_weak_teachers_do_not_lower_the_limit(copy, data, cross_validation):
    with pytest.raises(UserError, match=r"confidence: .* less than 0.7"):
        fill_all(copy, data)


def test_a_model_that_was_validated_on_cases_of_another_split_does_not_teach(copy, data, teacher, cross_validation):
    write_summary(teacher, ["case_0", "case_6"], fold=1)
    with pytest.raises(UserError, match="validated on case_6, a training case of fold 1"):
        fill_all(copy, data, teachers=(teacher,))
    assert [one.fold for one in fill_all(copy, data, least_confidence=0.0).origin.teachers] == ["0"]


# --- stops


def test_stopped_at_any_scan_and_started_again_equals_uninterrupted(copy, data, monkeypatch):
    whole = fill(copy, data, name="whole")
    write, calls = labelling.write_shard, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) % 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(labelling, "write_shard", stopping)
    for _ in range(3):
        with pytest.raises(Stopped, match="same command continues"):
            fill(copy, data, name="parts")
    monkeypatch.undo()
    monkeypatch.setenv("nnUNet_results", str(copy / "nnUNet_results"))
    monkeypatch.setenv("nnUNet_preprocessed", str(copy / "nnUNet_preprocessed"))
    monkeypatch.setenv("nnUNet_raw", str(copy / "nnUNet_raw"))
    parts = fill(copy, data, name="parts")
    assert parts.record.origin == whole.record.origin
    for name, pair in read(whole).items():  # the bytes of two equal arrays differ: blosc2 pads its blocks with anything
        assert all(map(np.array_equal, read(parts)[name], pair))
    assert {path.name for path in parts.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_what_a_killed_process_left_half_written_is_removed(copy, data):
    left = fill(copy, data).folder / ".filling_x"
    left.mkdir()
    (left / "synth_00003.b2nd").write_bytes(b"half")
    fill(copy, data)
    assert not left.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"least_confidence": 0.1}, "other filters"), ({"without": ("all",)}, "other filters")],
)
def test_another_request_does_not_touch_a_bank(copy, data, options, told):
    before = fill(copy, data).record
    with pytest.raises(UserError, match=told):
        fill(copy, data, **options)
    assert BankRecord.load(data.base / "nnUNetPlans_2d_synth/fold_0/pseudo" / RECORD_FILE) == before


def test_other_teachers_and_generated_banks_are_not_touched(copy, data, teacher):
    fill(copy, data)
    with pytest.raises(UserError, match="other teachers"):
        fill(copy, data, teachers=(teacher,))
    make_bank(data, np.ones((4, 2, 16, 14)), np.ones((4, 16, 14)))
    with pytest.raises(UserError, match="holds generated pairs"):
        fill(copy, data, name="known")


# --- rounds


@pytest.fixture
def training(monkeypatch, copy):
    """Stands in for nnU-Net's training: an untrained network of another seed, with the trainer's record."""
    calls = []

    def train(arguments, device):
        dataset, configuration = arguments[:2]
        plans, trainer = arguments[arguments.index("-p") + 1], arguments[arguments.index("-tr") + 1]
        calls.append(plans)
        here = open_preprocessed(dataset, configuration, plans)
        folder = copy / "nnUNet_results" / NAME / f"{trainer}__{plans}__{configuration}"
        torch.manual_seed(len(calls))
        save_model(folder, here, summary=SUMMARY)
        bank = json.loads((here.base / f"{plans}.json").read_text())["configurations"]["2d"]["synth"]["bank"]
        settings = rounds.make_settings(banks=[bank], ratio=rounds.RATIO_OF_SCANS)
        record_use(folder / "fold_0", trainer, 0, settings, [here.base / "nnUNetPlans_2d_synth/fold_0" / bank])
        return 0

    monkeypatch.setattr(rounds, "run_training", train)
    return calls


def run_all(copy, data, number, **options):
    options = {"source": str(copy / "scans"), **ANY, **options}
    return run_rounds(data, "0", PseudoLabelRequest(**options), "cpu", number, "nnUNetTrainerSynth")


def test_each_round_is_labelled_by_the_model_that_was_trained_with_the_one_before(copy, data, training):
    last = run_all(copy, data, 3)
    assert training == ["nnUNetPlans_pseudo", "nnUNetPlans_pseudo_round_2"]
    assert last.folder.name == "pseudo_round_3"
    assert last.record.origin.round == 3
    (teacher,) = last.record.origin.teachers
    assert teacher.banks == ("pseudo_round_2",)
    assert verify_bank(last.folder, data).complete


def test_a_finished_round_is_not_trained_or_labelled_again(copy, data, training):
    first = run_all(copy, data, 2)
    assert run_all(copy, data, 2).record == first.record
    assert len(training) == 1
    assert run_all(copy, data, 3).record.origin.round == 3
    assert len(training) == 2


def test_a_failed_training_ends_the_command_and_keeps_the_bank(copy, data, training, monkeypatch):
    monkeypatch.setattr(rounds, "run_training", lambda arguments, device: 3)
    with pytest.raises(UserError, match="exit code 3"):
        run_all(copy, data, 2)
    assert (data.base / "nnUNetPlans_2d_synth/fold_0/pseudo/bank.json").exists()


def test_rounds_end_when_labels_settle(copy, data, training, monkeypatch, capsys):
    def same(arguments, device):
        """A model with the weights of the first teacher."""
        plans = arguments[arguments.index("-p") + 1]
        training.append(plans)
        results = copy / "nnUNet_results" / NAME
        shutil.copytree(results / "nnUNetTrainer__nnUNetPlans__2d", results / f"nnUNetTrainerSynth__{plans}__2d")
        return 0

    monkeypatch.setattr(rounds, "run_training", same)
    teacher = copy / "nnUNet_results" / NAME / "nnUNetTrainer__nnUNetPlans__2d"
    last = run_all(copy, data, 5, teachers=(teacher,))
    assert last.record.origin.round == 2
    assert len(training) == 1
    assert "mean Dice 1.000" in capsys.readouterr().out


def test_the_training_between_rounds_ends_on_labelled_cases(copy, data, training):
    run_all(copy, data, 2)
    plans = json.loads((data.base / "nnUNetPlans_pseudo.json").read_text())
    assert plans["configurations"]["2d"]["synth"] == {"bank": "pseudo", "ratio": 0.5, "schedule": "linear"}


def test_agreement_is_the_mean_dice_of_classes(copy, data, training):
    first = run_all(copy, data, 1)
    second = run_all(copy, data, 2)
    pairs = [(read(first)[name][1], read(second)[name][1]) for name in read(first)]
    masks = [(one == value, other == value) for one, other in pairs for value in (1, 2)]
    truth = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks if a.any() or b.any()]
    classes = rounds.target_classes(data.label_manager)
    assert rounds.agreement(first, second, classes) == pytest.approx(np.mean(truth))


def test_a_teacher_whose_bank_holds_validation_cases_is_refused(copy, data, training):
    run_all(copy, data, 2)
    record = copy / "nnUNet_results" / NAME / "nnUNetTrainerSynth__nnUNetPlans_pseudo__2d/fold_0/synthetic_data.json"
    content = TrainingRecord.load(record)
    (bank,) = content.uses[0].banks
    scans = tuple(scan.model_copy(update={"name": "case_3"}) for scan in bank.origin.scans[:1])
    held = bank.model_copy(update={"origin": bank.origin.model_copy(update={"scans": scans})})
    content.model_copy(update={"uses": (content.uses[0].model_copy(update={"banks": (held,)}),)}).save(record)
    with pytest.raises(UserError, match="comes from 1 validation cases of fold 0, case_3 among them"):
        run_all(copy, data, 1, name="other", teachers=(record.parent.parent,))


# --- how good they are


def test_the_study_compares_a_bank_of_cases_with_their_labels(copy, data, tmp_path, monkeypatch, capsys):
    found = fill(copy, data, source="case_5,case_6", without=("all",))
    truth = {name: data.load(name).label[0] for name in ("case_5", "case_6")}
    masks = {
        name: [(label[0] == value, truth[name] == value) for value in (1, 2)]
        for name, (_, label) in read(found).items()
    }
    expected = [2 * (a & b).sum() / (a.sum() + b.sum()) for pairs in masks.values() for a, b in pairs]
    monkeypatch.setattr("sys.argv", ["measure.py", str(found.folder), "-o", str(tmp_path / "out")])
    runpy.run_path(str(Path(__file__).parents[1] / "studies/pseudo_labels/measure.py"), run_name="__main__")
    rows = read_rows(tmp_path / "out/scans.csv")
    assert [float(row["dice"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    sure = found.record.origin.scans[0].confidence
    assert {row["class"]: float(row["confidence"]) for row in rows[:2]} == pytest.approx(sure, abs=1e-4)
    means = np.reshape(expected, (2, 2)).mean(axis=1)
    assert f"| {100 * means.mean():.1f} |" in capsys.readouterr().out
