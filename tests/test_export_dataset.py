"""An exported bank is a raw dataset of which nnU-Net makes the bank's values again, and on which it never validates."""

import json
import multiprocessing
import shlex
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from raw_cases import own_folders
from raw_files import NAME, SHAPE, Format, case_files, dataset, make_bank, preprocess, write_record
from skimage import io

from nnunet_synth.export import dataset as exporting
from nnunet_synth.export.dataset import export_dataset, extended_folds
from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard
from nnunet_synth.export.intensities import denormalize, learn_inverses
from nnunet_synth.export.messages import describe_dataset
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import lock_folder

PATCH_SIZE = (14, 12)
CT = {"mean": 120.0, "std": 35.0, "percentile_00_5": 20.0, "percentile_99_5": 250.0}  # as raw_files has it
VOLUMES = Format("SimpleITKIO", ".nii.gz", scheme="CTNormalization", channels=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of nnU-Net's folders, whose pools are of threads: each of its processes would import torch."""
    own_folders(tmp_path, monkeypatch)
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SimpleNamespace(Pool=ThreadPool))
    return tmp_path


def samples(style, count=7, seed=0):
    """image `[N, C, *spatial]` as the style's scheme leaves it, label `[N, *spatial]`."""
    rng = np.random.default_rng(seed)
    patch_size = PATCH_SIZE if style.configuration == 2 else (4, *PATCH_SIZE)
    low, high = {
        "CTNormalization": ((20 - 120) / 35, (250 - 120) / 35),
        "RGBTo01Normalization": (0.05, 1),
        "RescaleTo01Normalization": (0, 1),
        "NoNormalization": (2, 250),
    }.get(style.scheme, (-2, 2))
    image = rng.uniform(low, high, (count, style.channels, *patch_size)).astype(np.float32)
    return image, rng.integers(0, 3, (count, *patch_size)).astype(np.int16)


def as_cases(array, per_case, volumes):
    """`[N, …, *spatial]` → what preprocessed cases of so many samples are."""
    return list(array) if volumes else [array[n : n + per_case].swapaxes(0, -3) for n in range(0, len(array), per_case)]


def preprocessed_again(folder, card, style, preprocessed):
    """Each synthetic case as nnU-Net preprocesses it: image, label, properties."""
    dataset_json = json.loads((folder / "dataset.json").read_text())
    for name in card.synthetic:
        yield preprocess(preprocessed.plans_manager.plans, dataset_json, *case_files(folder, name, style))


FORMATS = {
    "ct, transposed": Format("SimpleITKIO", ".nii.gz", scheme="CTNormalization", channels=1, transpose=(1, 0, 2)),
    "ct, volumes": Format("SimpleITKIO", ".nii.gz", scheme="CTNormalization", configuration=3, transpose=(2, 0, 1)),
    "ct, 2-D files": Format("SimpleITKIO", ".mha", dims=2, scheme="CTNormalization"),
    "nrrd": Format("SimpleITKIO", ".nrrd", transpose=(2, 1, 0)),
    "rgb, pictures": Format(
        "NaturalImage2DIO", ".png", dims=2, scheme="RGBTo01Normalization", channels=3, in_one_file=True, dtype="uint8"
    ),
    "rgb, fractions": Format(
        "NaturalImage2DIO", ".tif", dims=2, scheme="RGBTo01Normalization", channels=3, in_one_file=True, dtype="uint8"
    ),
    "rgb, a file each": Format(
        "NaturalImage2DIO", ".bmp", dims=2, scheme="RGBTo01Normalization", channels=3, dtype="uint8"
    ),
    "grey, 16 bit": Format("NaturalImage2DIO", ".png", dims=2, channels=1, dtype="uint16"),
    "nibabel": Format("NibabelIO", ".nii.gz", transpose=(1, 2, 0)),
    "nibabel, reoriented": Format("NibabelIOWithReorient", ".nii.gz", configuration=3, transpose=(1, 0, 2)),
    "sitk, reoriented": Format("SimpleITKIOWithReorient", ".nii.gz", configuration=3),
    "tiff": Format("Tiff3DIO", ".tif", configuration=3, transpose=(0, 2, 1)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_nnunets_preprocessing_gives_the_banks_values_back(folder, kind):
    style = FORMATS[kind]
    data = dataset(folder, style)
    image, label = samples(style)
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    volumes = style.configuration == 3
    per_case = 1 if volumes else style.transposed[0][0]
    images, labels = as_cases(image, per_case, volumes), as_cases(label[:, None], per_case, volumes)
    assert len(images) == len(card.synthetic)
    assert {channel.inverse for channel in card.channels} == {"exact"}
    integers = style.ending in (".png", ".bmp")
    step = (1 / 255 if "RGB" in style.scheme else 1) if integers else 0
    assert card.stored_as == (style.dtype if integers else "float32")
    for found, image, label in zip(preprocessed_again(exported, card, style, data), images, labels, strict=True):
        assert np.array_equal(found[1], label)
        np.testing.assert_allclose(found[0], image, atol=step / 2 + 2e-5, rtol=1e-6)
        spacing = [found[2]["spacing"][axis] for axis in style.transpose]
        assert np.allclose(spacing[-style.configuration :], data.configuration.spacing, rtol=1e-5)
        if style.reader != "NaturalImage2DIO" and style.dims == 3:
            assert np.allclose(spacing, style.transposed[1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["nibabel", "nibabel, reoriented", "sitk, reoriented"])
def test_new_files_lie_in_space_as_nnunet_sees_those_of_the_dataset(folder, kind):
    style = FORMATS[kind]
    data = dataset(folder, style)
    exported, card = export_dataset(make_bank(data, *samples(style, 1)), folder / "nnUNet_raw")
    example = nibabel.load(case_files(exported, "case_0", style)[0][0])
    if "reoriented" in kind:
        assert nibabel.aff2axcodes(example.affine) != ("R", "A", "S")
        example = nibabel.as_closest_canonical(example)
    for path in case_files(exported, card.synthetic[0], style)[0]:
        ours, theirs = nibabel.load(path).affine, example.affine
        assert np.allclose(ours[:3, 3], theirs[:3, 3], atol=1e-4)
        assert np.allclose(np.sign(ours[:3, :3].round(4)), np.sign(theirs[:3, :3].round(4)))


def test_values_beyond_ct_limits_are_clipped_by_nnunet_and_that_is_told(folder):
    data = dataset(folder, VOLUMES)
    image, label = samples(VOLUMES, 5)
    image[0, 0, 0, 0], image[1, 0, 0, 0] = -9, 9
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    (found,) = preprocessed_again(exported, card, VOLUMES, data)
    assert found[0][0, 0, 0, 0] == pytest.approx((20 - 120) / 35, abs=1e-5)
    assert found[0][0, 1, 0, 0] == pytest.approx((250 - 120) / 35, abs=1e-5)
    assert "below 20 or above 250" in card.channels[0].note


@pytest.mark.parametrize("scheme", ["CTNormalization", "NoNormalization", "ZScoreNormalization"])
def test_what_lies_outside_is_outside_again(folder, scheme):
    style = replace(VOLUMES, scheme=scheme, outside=True)
    data = dataset(folder, style)
    image, label = samples(style, 5)
    label[:, :4, :5] = -1  # a corner, so that cropping to what is not zero changes nothing
    image[:, :, :4, :5] = (20 - 120) / 35 if scheme == "CTNormalization" else 0
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    (found,) = preprocessed_again(exported, card, style, data)
    assert np.array_equal(found[1][0] == -1, label == -1)
    assert np.array_equal(np.maximum(found[1][0], 0), np.maximum(label, 0))
    assert np.allclose(found[0][0][label == -1], image[:, 0][label == -1], atol=1e-5)
    raw_label = data.plans_manager.image_reader_writer_class().read_seg(
        case_files(exported, card.synthetic[0], style)[1]
    )
    assert raw_label[0].min() == 0


def test_a_z_score_is_turned_back_as_in_a_typical_case_and_done_again_by_nnunet(folder):
    style = replace(VOLUMES, scheme="ZScoreNormalization")
    data = dataset(folder, style)
    image, label = samples(style, 5)
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    reader = data.plans_manager.image_reader_writer_class()
    real = [reader.read_images(case_files(exported, name, style)[0])[0] for name in data.fold(0).training]
    (channel,) = card.channels
    assert channel.inverse == "typical"
    assert channel.offset == pytest.approx(np.median([case.mean() for case in real]), rel=1e-5)
    assert channel.scale == pytest.approx(np.median([case.std() for case in real]), rel=1e-5)
    raw = reader.read_images(case_files(exported, card.synthetic[0], style)[0])[0]
    np.testing.assert_allclose(raw[0], image[:, 0] * channel.scale + channel.offset, rtol=1e-5)
    (found,) = preprocessed_again(exported, card, style, data)
    again = (image[:, 0] - image.mean()) / image.std()
    np.testing.assert_allclose(found[0][0], again, atol=1e-4)
    assert channel.note in describe_dataset(exported, card)


def test_a_z_score_within_a_mask_is_measured_within_it(folder, monkeypatch):
    style = replace(VOLUMES, scheme="ZScoreNormalization", outside=True)
    data = dataset(folder, style)
    raw = folder / "nnUNet_raw" / NAME
    reader = data.plans_manager.image_reader_writer_class()
    values = reader.read_images(case_files(raw, "case_0", style)[0])[0]
    values[:, :, :9, :9] = 0
    monkeypatch.setattr(type(reader), "read_images", lambda self, files: (values.copy(), {}))
    (channel,) = learn_inverses(data, [["any"]])
    assert channel.offset == pytest.approx(values[values > 0].mean(), rel=1e-5)
    assert channel.scale == pytest.approx(values[values > 0].std(), rel=1e-5)


def test_rescaling_is_turned_back_as_in_a_typical_case(folder):
    style = replace(VOLUMES, scheme="RescaleTo01Normalization")
    data = dataset(folder, style)
    image, label = samples(style, 5)
    image[0, 0, 0, 0], image[1, 0, 0, 0] = 0, 1
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    reader = data.plans_manager.image_reader_writer_class()
    real = [reader.read_images(case_files(exported, name, style)[0])[0] for name in data.fold(0).training]
    lowest, highest = (np.median([f(case) for case in real]) for f in (np.min, np.max))
    raw = reader.read_images(case_files(exported, card.synthetic[0], style)[0])[0]
    assert (raw.min(), raw.max()) == pytest.approx((lowest, highest), rel=1e-5)
    assert card.channels[0].inverse == "typical"
    (found,) = preprocessed_again(exported, card, style, data)
    np.testing.assert_allclose(found[0][0], image[:, 0], atol=1e-5)


def test_pictures_hold_z_scores_rounded_and_all_of_them(folder):
    style = replace(FORMATS["rgb, pictures"], scheme="ZScoreNormalization")
    data = dataset(folder, style)
    image, label = samples(style, 2)
    image[0, 1, 0, :6] = 50  # beyond 255 by the scale of a typical case
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    picture = io.imread(exported / "imagesTr" / f"{card.synthetic[0]}_0000.png")
    assert picture.shape == (*PATCH_SIZE, 3)
    assert picture.dtype == np.uint8
    for number, channel in enumerate(card.channels):
        wanted = image[0, number] * channel.scale + channel.offset
        assert np.abs(picture[..., number] - wanted).max() <= 0.5 + 1e-3
    assert card.clipped == (0, 0, 0)
    assert "uint8" in card.channels[1].note  # contrast had to change
    assert "did not fit" not in describe_dataset(exported, card)
    found = next(preprocessed_again(exported, card, style, data))
    step = image[0, 1].std() ** -1 * card.channels[1].scale ** -1  # of whole numbers, in deviations
    expected = (image[0, 1] - image[0, 1].mean()) / image[0, 1].std()
    assert np.abs(found[0][1, 0] - expected).max() <= 2 * step


def test_values_beyond_what_nnunet_allows_are_clipped_in_pictures_and_counted(folder):
    style = FORMATS["rgb, pictures"]
    data = dataset(folder, style)
    image, label = samples(style, 2)
    image[0, 1, 0, :6] = 50  # RGB lies between 0 and 1
    exported, card = export_dataset(make_bank(data, image, label), folder / "nnUNet_raw")
    assert card.clipped[1] >= 6 / label.size - 1e-6
    assert f"Up to {100 * max(card.clipped):.2g} % of a channel's values did not fit" in describe_dataset(
        exported, card
    )


def test_a_scheme_that_is_not_nnunets_is_left_in_normalised_units(folder):
    data = dataset(folder, VOLUMES)
    plans = json.loads(json.dumps(data.plans_manager.plans))
    plans["configurations"]["2d"]["normalization_schemes"] = ["MyOwn"]
    (channel,) = learn_inverses(replace(data, plans_manager=PlansManager(plans)), [])
    assert channel.inverse == "none"
    image = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    assert np.array_equal(denormalize(image, np.zeros(image.shape[1:], int), [channel]), image)


@pytest.fixture
def volumes(folder):
    data = dataset(folder, VOLUMES)
    return folder, data, make_bank(data, *samples(VOLUMES, 12))


def test_real_cases_are_unchanged_and_never_among_the_synthetic(volumes):
    folder, data, bank = volumes
    exported, card = export_dataset(bank, folder / "nnUNet_raw")
    original = folder / "nnUNet_raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        for path in (original / part).iterdir():
            assert (exported / part / path.name).read_bytes() == path.read_bytes()
            assert not (exported / part / path.name).is_symlink()
    splits = json.loads((exported / "splits_final.json").read_text())
    before = json.loads((data.base / "splits_final.json").read_text())
    assert card.synthetic == ("synth_00000", "synth_00001", "synth_00002")  # 5 + 5 + 2 slices
    assert len(splits) == len(before) == 5
    for number, (new, old) in enumerate(zip(splits, before, strict=True)):
        assert new["val"] == old["val"]
        assert new["train"] == [*old["train"], *(card.synthetic if number == 0 else ())]
    dataset_json = json.loads((exported / "dataset.json").read_text())
    assert dataset_json["numTraining"] == 6 + 3
    assert dataset_json["synthetic_data"].startswith("3 of the training cases; synthetic.json")
    assert dataset_json["labels"] == json.loads((original / "dataset.json").read_text())["labels"]
    assert sorted(path.name for path in exported.iterdir()) == [
        "dataset.json", "imagesTr", "labelsTr", "splits_final.json", CARD_FILE,
    ]  # fmt: skip


def test_the_card_tells_where_samples_come_from(volumes):
    folder, data, bank = volumes
    exported, card = export_dataset(bank, folder / "nnUNet_raw")
    assert DatasetCard.load(exported / CARD_FILE) == card
    assert card.bank.source.training_cases == data.fold(0).training
    assert (card.bank.samples, card.bank.origin.seed, card.made_from) == (12, 3, NAME)
    assert card.bank.origin.snapshots[0].path == "1"  # of this machine's path, which is not below nnUNet_results
    assert str(folder) not in (exported / CARD_FILE).read_text()
    told = describe_dataset(exported, card)
    assert "6 real cases, 3 synthetic cases of 5 slices each" in told
    assert "Fold 0 trains on 4 real and the synthetic cases" in told
    assert f"{100 * 3 / 7:.0f} % of the draws" in told


def test_links_lead_to_the_real_files(volumes):
    folder, _, bank = volumes
    exported, card = export_dataset(bank, folder / "nnUNet_raw", links=True)
    original = folder / "nnUNet_raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        for path in (original / part).iterdir():
            assert (exported / part / path.name).is_symlink()
            assert (exported / part / path.name).resolve() == path.resolve()
    assert (card.real, card.links) == (6, True)


def test_spacing_files_of_tiffs_come_along(folder):
    style = FORMATS["tiff"]
    data = dataset(folder, style)
    exported, card = export_dataset(make_bank(data, *samples(style, 2)), folder / "nnUNet_raw")
    for part in ("imagesTr", "labelsTr"):
        names = {path.stem for path in (exported / part).glob("*.json")}
        assert names == {*(f"case_{number}" for number in range(6)), *card.synthetic}


def test_synthetic_only_has_no_fold_to_validate_on(volumes):
    folder, _, bank = volumes
    exported, card = export_dataset(bank, folder / "elsewhere", synthetic_only=True)
    assert sorted(path.name for path in (exported / "labelsTr").iterdir()) == [f"{n}.nii.gz" for n in card.synthetic]
    assert not (exported / "splits_final.json").exists()
    assert json.loads((exported / "dataset.json").read_text())["numTraining"] == 3
    assert "there is no splits_final.json" in describe_dataset(exported, card)


def test_slices_are_stacked_as_asked(volumes):
    folder, data, bank = volumes
    exported, card = export_dataset(bank, folder / "nnUNet_raw", stack=1)
    assert len(card.synthetic) == 12
    found = next(preprocessed_again(exported, card, VOLUMES, data))
    assert found[1].shape == (1, 1, *PATCH_SIZE)


FOLDS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["a", "c"], "val": ["b"]}]


def test_synthetic_cases_enter_only_folds_that_validate_on_cases_new_to_the_generator():
    assert extended_folds(FOLDS, "abc", seen=["a", "b"], synthetic=["s"]) == [
        {"train": ["a", "b", "s"], "val": ["c"]},
        {"train": ["a", "c"], "val": ["b"]},
    ]
    assert extended_folds(FOLDS, "abc", seen=["a", "b", "c"], synthetic=["s"]) == FOLDS
    assert extended_folds([{"train": ["a"], "val": []}], "a", seen=["a"], synthetic=["s"])[0]["train"] == ["a"]


def test_a_fold_whose_cases_are_not_there_keeps_its_place_and_is_empty():
    empty = {"train": [], "val": []}
    assert extended_folds([FOLDS[0], {"train": ["a"], "val": ["x"]}], "abc", "ab", ["s"])[1] == empty
    assert extended_folds([{"train": ["x"], "val": ["c"]}, FOLDS[1]], "abc", "ab", ["s"]) == [empty, FOLDS[1]]


def test_a_bank_of_fold_all_is_in_no_fold(folder):
    data = dataset(folder, VOLUMES)
    bank = make_bank(data, *samples(VOLUMES, 5))
    record = json.loads((bank / RECORD_FILE).read_text())
    names = data.case_names()
    record["source"] |= {"fold": "all", "training_cases": names, "training_sha256": ["0" * 64] * len(names)}
    write_record(bank, record)
    (data.base / "splits_final.json").unlink()
    exported, card = export_dataset(bank, folder / "nnUNet_raw")
    splits = json.loads((exported / "splits_final.json").read_text())
    assert len(splits) == 5
    assert not any(name in card.synthetic for fold in splits for part in fold.values() for name in part)
    assert {name for fold in splits for name in fold["val"]} == set(data.case_names())
    assert "only fold all does" in describe_dataset(exported, card)


def test_stopped_and_started_again_equals_uninterrupted(volumes, monkeypatch):
    folder, data, bank = volumes
    write, calls = exporting.write_case, []

    def stop_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(exporting, "write_case", stop_at_the_second)
    with pytest.raises(Stopped, match="complete cases"):
        export_dataset(bank, folder / "nnUNet_raw")
    begun = folder / "nnUNet_raw" / "Dataset500_SmallSynth"
    assert not (begun / "dataset.json").exists()
    first = begun / "imagesTr" / "synth_00000_0000.nii.gz"
    written = first.stat().st_mtime_ns
    assert not (begun / "imagesTr" / "synth_00001_0000.nii.gz").exists()
    monkeypatch.setattr(exporting, "write_case", write)
    exported, card = export_dataset(bank, folder / "nnUNet_raw")
    assert exported == begun
    assert first.stat().st_mtime_ns == written
    whole, other = export_dataset(bank, folder / "whole")
    assert whole.name == "Dataset501_SmallSynth"
    assert card == other.model_copy(update={"dataset": card.dataset})
    again = [list(preprocessed_again(path, card, VOLUMES, data)) for path in (exported, whole)]
    for one, two in zip(*again, strict=True):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert not [path for path in exported.iterdir() if path.name.startswith(".")]


def test_a_bank_is_no_place_for_a_dataset(volumes):
    with pytest.raises(UserError, match=r"-o .* is a bank"):
        export_dataset(volumes[2], volumes[2])


def test_the_same_again_changes_nothing_and_another_wish_goes_elsewhere(volumes):
    folder, _, bank = volumes
    exported, card = export_dataset(bank, folder / "nnUNet_raw")
    times = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert export_dataset(bank, folder / "nnUNet_raw") == (exported, card)
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == times
    other, _ = export_dataset(bank, folder / "nnUNet_raw", stack=2)
    assert (exported.name, other.name) == ("Dataset500_SmallSynth", "Dataset501_SmallSynth")
    asked, _ = export_dataset(bank, folder / "nnUNet_raw", dataset_id=77)
    assert asked.name == "Dataset077_SmallSynth"
    assert export_dataset(bank, folder / "nnUNet_raw", dataset_id=77)[0] == asked


def test_an_id_that_nnunet_would_find_is_not_given_twice(volumes):
    folder, _, bank = volumes
    for variable, number in (("nnUNet_preprocessed", 500), ("nnUNet_results", 501), ("nnUNet_raw", 502)):
        (folder / variable / f"Dataset{number}_Other").mkdir(parents=True)
    with pytest.raises(UserError, match=r"Id 501 is taken by .*Dataset501_Other\. Choose another --id"):
        export_dataset(bank, folder / "out", dataset_id=501)
    assert export_dataset(bank, folder / "out")[0].name == "Dataset503_SmallSynth"


def test_names_of_real_cases_are_not_given_again(volumes, monkeypatch):
    folder, data, bank = volumes
    names = [*data.case_names(), "synth_00000", "synth2_00000"]
    monkeypatch.setattr(type(data), "case_names", lambda self: names)
    assert export_dataset(bank, folder / "out")[1].synthetic[0] == "synth3_00000"


def test_an_incomplete_damaged_or_foreign_bank_is_refused(volumes):
    folder, data, bank = volumes
    record = json.loads((bank / RECORD_FILE).read_text())

    def refused(match, **changes):
        write_record(bank, record | changes)
        with pytest.raises(UserError, match=match):
            export_dataset(bank, folder / "out")
        write_record(bank, record)

    refused("has 12 of 99 samples", requested=99)
    refused("other preprocessing", source=record["source"] | {"preprocessing": "0"})
    seen = [*record["source"]["training_cases"], data.fold(0).validation[0]]
    refused(
        "saw 1 of the 2 validation cases of fold 0",
        source=record["source"] | {"training_cases": seen, "training_sha256": ["0" * 64] * len(seen)},
    )
    (bank / "synth_00001.b2nd").write_bytes(b"")
    with pytest.raises(UserError, match=r"synth_00001.b2nd was changed or truncated"):
        export_dataset(bank, folder / "out")
    with pytest.raises(UserError, match=r"bank.json does not exist"):
        export_dataset(folder / "nothing", folder / "out")
    assert not (folder / "out").exists()


def test_raw_files_that_are_missing_are_told(volumes):
    folder, _, bank = volumes
    original = folder / "nnUNet_raw" / NAME
    label = original / "labelsTr" / "case_3.nii.gz"
    label.rename(original / "away")
    with pytest.raises(UserError, match="lacks files of 1 of 6 cases, the first is case_3"):
        export_dataset(bank, folder / "out")
    original.rename(folder / "moved")
    with pytest.raises(UserError, match=r"raw dataset .* can't be read \(FileNotFoundError"):
        export_dataset(bank, folder / "out")


def test_what_makes_no_sense_is_refused(volumes, monkeypatch):
    folder, _, bank = volumes
    with lock_folder(folder / "out" / NAME, inside=False), pytest.raises(UserError, match="in use by process"):
        export_dataset(bank, folder / "out")
    monkeypatch.setattr("nnunet_synth.export.image_files.WRITTEN", ())
    with pytest.raises(UserError, match="is read by SimpleITKIO, for which this release writes no images"):
        export_dataset(bank, folder / "out")


@pytest.mark.parametrize("kind", ["ct, volumes", "ct, 2-D files"])
def test_only_slices_of_volumes_are_stacked(folder, kind):
    data = dataset(folder, FORMATS[kind])
    bank = make_bank(data, *samples(FORMATS[kind], 1))
    with pytest.raises(UserError, match=r"--stack 2 is for slices of volumes.*Leave it out"):
        export_dataset(bank, folder / "out", stack=2)


def test_nnunets_commands_as_printed_check_and_preprocess_it(volumes, monkeypatch, capsys):
    folder, data, bank = volumes

    def typed(*command):
        (script,) = entry_points(group="console_scripts", name=command[0])
        monkeypatch.setattr(sys, "argv", list(command))
        script.load()()
        return capsys.readouterr().out

    monkeypatch.setattr("nnunet_synth.cli.run_app", lambda app: app(standalone_mode=False))
    printed = typed("nnunet-synth", "export-dataset", str(bank), "-o", str(folder / "nnUNet_raw"))
    planning, moving, preprocessing, training = [
        shlex.split(line) for line in printed.splitlines() if line.startswith("  nnUNetv2_")
    ]
    checked = typed(*planning)
    assert "verify_dataset_integrity Done" in checked
    assert not [line for line in checked.splitlines() if line.lower().startswith(("error", "warning"))]
    typed(*moving)
    typed(*preprocessing)
    base = folder / "nnUNet_preprocessed" / "Dataset500_SmallSynth"
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    assert plans["configurations"] == data.plans_manager.plans["configurations"]
    assert training == ["nnUNetv2_train", "500", "2d", "0", "-p", "nnUNetPlans"]
    trainer = get_trainer_from_args("500", "2d", 0, device=torch.device("cpu"))
    learnt, validated = trainer.do_split()
    assert set(learnt) == {*data.fold(0).training, "synth_00000", "synth_00001", "synth_00002"}
    assert set(validated) == set(data.fold(0).validation)
    found = trainer.dataset_class(str(base / "nnUNetPlans_2d"), ["synth_00000"]).load_case("synth_00000")
    image, _ = samples(VOLUMES, 12)
    np.testing.assert_allclose(found[0][:], image[: SHAPE[3][0]].swapaxes(0, 1), atol=2e-5)
