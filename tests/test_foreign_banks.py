"""A bank from elsewhere, or a damaged one: nothing in it runs, and what does not fit is refused in one line."""

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from raw_cases import LABELS, cohort, own_folders, preprocess
from raw_files import make_bank, write_record

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.resume import resume_bank
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.training.leak_guard import LeakError
from nnunet_synth.training.settings import make_settings, read_settings, write_plans
from nnunet_synth.training.trainer import nnUNetTrainerSynth
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import SHARD_ENDINGS, BankDataset
from stylegan2_cond.errors import UserError

PATCH_SIZE, SAMPLES = (16, 14), 8
SPLITS = [
    {"train": ["case_0", "case_1", "case_2", "case_3"], "val": ["case_4", "case_5"]},
    {"train": ["case_2", "case_3", "case_4", "case_5"], "val": ["case_0", "case_1"]},
]


def some_samples(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(SAMPLES, 2, *PATCH_SIZE)), rng.integers(0, 3, (SAMPLES, *PATCH_SIZE))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six cases in two folds, and a bank for fold 0; a template that tests copy."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        preprocessed = preprocess(own_folders(folder, patch), cohort(6), LABELS, SPLITS)
        make_bank(preprocessed, *some_samples())
    return folder


@pytest.fixture
def data(world, tmp_path, monkeypatch):
    """A copy of the world, and nnU-Net's variables that point there."""
    shutil.copytree(world, tmp_path / "copy")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / "copy" / variable))
    return open_preprocessed(950, "2d")


@pytest.fixture
def bank(data):
    return data.base / "nnUNetPlans_2d_synth" / "fold_0" / "known"


def datasets_of_training(data, fold=0, bank="known"):
    """What the trainer itself takes for training and validation."""
    plans = json.loads((data.base / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    plans["configurations"]["2d"]["synth"] = {"ratio": 0.5} | ({"bank": bank} if bank else {})
    trainer = nnUNetTrainerSynth(plans, "2d", fold, data.dataset_json, torch.device("cpu"))
    trainer.initialize()
    return trainer.get_tr_and_val_datasets()


def change_record(bank, **changes):
    """By hand, as somebody would with an editor who also renews the checksum."""
    write_record(bank, json.loads((bank / RECORD_FILE).read_text()) | changes)


def renew_checksums(bank):
    """As somebody does who changed shards on purpose."""
    shards = json.loads((bank / RECORD_FILE).read_text())["shards"]
    for shard in shards:
        shard["files"] = {name: hashlib.sha256((bank / name).read_bytes()).hexdigest() for name in shard["files"]}
    change_record(bank, shards=shards)


def test_an_untouched_bank_enters_training(data, bank):
    training, _ = datasets_of_training(data)
    training.control.ratios = [1]
    image, label, _, properties = training.load_case("case_0")
    assert image.shape[2:] >= PATCH_SIZE
    assert label[:, :1, :2, :2].shape == (1, 1, 2, 2)
    assert set(properties["class_locations"]) == {1, 2}


# --- what blosc2 would compute


def touch(inputs, output, offset):
    output[:] = 1


def lazy_function(folder, array):
    return blosc2.lazyudf(touch, (array,), array.dtype, shape=array.shape)


def lazy_expression(folder, array):
    return array + 1


def save_as(make, path):
    """Put a lazy object in the place of the array at `path`, by blosc2's own writer."""
    operand = path.with_name("operand.b2nd")
    shutil.move(path, operand)
    make(path.parent, blosc2.open(str(operand), mode="r")).save(urlpath=str(path))


@pytest.mark.parametrize("ending", SHARD_ENDINGS[:2])
@pytest.mark.parametrize("make", [lazy_function, lazy_expression])
def test_what_blosc2_would_compute_is_refused_and_never_opened_by_it(data, bank, make, ending, monkeypatch):
    path = bank / f"synth_00000{ending}"
    save_as(make, path)
    renew_checksums(bank)

    def rebuild(*_, **__):
        raise AssertionError("blosc2 rebuilds what the file describes")

    monkeypatch.setattr(blosc2, "open", rebuild)
    with pytest.raises(UserError, match=f"{path.name} is not a plain array"):
        verify_bank(bank)
    with pytest.raises(UserError, match=f"{path.name} is not a plain array"):
        BankDataset(str(bank), ["synth_00000"]).load_case("synth_00000")


def test_variable_metadata_is_refused_unread(bank):
    """blosc2 keeps descriptions of what it computes there."""
    path = bank / "synth_00000.b2nd"
    array = blosc2.open(str(path), mode="a")
    array.schunk.vlmeta["anything"] = 1
    renew_checksums(bank)
    with pytest.raises(UserError, match=r"synth_00000\.b2nd is not a plain array"):
        verify_bank(bank)


# --- what nnU-Net could not train on


def rewrite(bank, ending, change):
    path = bank / f"synth_00000{ending}"
    array = blosc2.open(str(path), mode="r")[:]
    path.unlink()
    blosc2.asarray(np.ascontiguousarray(change(array)), urlpath=str(path))
    renew_checksums(bank)


def with_value(value):
    def change(array):
        array.flat[5] = value
        return array

    return change


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (".b2nd", lambda array: array.astype(np.float64), "float64"),
        (".b2nd", lambda array: array[:1], r"\(1, "),
        (".b2nd", lambda array: array[..., 1:], r"13\)"),
        (".b2nd", lambda array: array[0], r"\(2, 4, 16, 14\)"),
        (".b2nd", with_value(np.nan), "NaN"),
        (".b2nd", with_value(np.inf), "infinite"),
        ("_seg.b2nd", lambda array: array.astype(np.float32), "float32"),
        ("_seg.b2nd", lambda array: array[:, 1:], r"\(1, 3, "),
        ("_seg.b2nd", with_value(7), "label 7"),
        ("_seg.b2nd", with_value(-2), "label -2"),
    ],
)
def test_arrays_that_nnunet_could_not_train_on_are_refused(data, bank, ending, change, words):
    rewrite(bank, ending, change)
    with pytest.raises(UserError, match=rf"synth_00000{ending} .*{words}"):
        datasets_of_training(data)


def test_a_bank_whose_filter_for_it_was_left_open_may_hold_values_that_are_not_numbers(bank):
    rewrite(bank, ".b2nd", with_value(np.nan))
    change_record(bank, filters={"finite": {"refused": 0, "limits": {}, "off": "not wanted"}})
    verify_bank(bank)


def test_an_array_that_cannot_be_read_to_its_end_is_refused_whatever_filters_were_left_open(bank):
    path = bank / "synth_00000.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    renew_checksums(bank)
    change_record(bank, filters={"finite": {"refused": 0, "limits": {}, "off": "not wanted"}})
    with pytest.raises(UserError, match=r"synth_00000\.b2nd cannot be read to its end"):
        verify_bank(bank)


@pytest.mark.parametrize(
    "properties",
    [
        [],
        {},
        {"class_locations": []},
        {"class_locations": {1: [[0, 0, 0]]}},
        {"class_locations": {1: [[0, 0, 0, 14]]}},
        {"class_locations": {1: [[0, 0, -1, 0]]}},
        {"class_locations": {1: [[0.0, 0, 0, 0]]}},
    ],
)
def test_properties_that_nnunets_loader_could_not_use_are_refused(bank, properties):
    path = bank / "synth_00000.pkl"
    path.write_bytes(pickle.dumps(properties))
    renew_checksums(bank)
    with pytest.raises(UserError, match=r"synth_00000\.pkl .*'class_locations'"):
        verify_bank(bank)


@pytest.mark.parametrize("ending", SHARD_ENDINGS)
def test_a_folder_in_place_of_a_file_is_a_missing_file(bank, ending):
    path = bank / f"synth_00000{ending}"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"synth_00000{ending} is missing"):
        verify_bank(bank)


@pytest.mark.parametrize("ending", SHARD_ENDINGS)
@pytest.mark.parametrize("seed", range(4))
def test_a_shard_damaged_at_random_is_used_or_refused_without_a_traceback(bank, ending, seed):
    """With its checksum renewed, so that what reads the file gets to see the damage."""
    rng, path = np.random.default_rng(seed), bank / f"synth_00000{ending}"
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 20):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content[: len(content) // 2] if seed == 0 else content)
    renew_checksums(bank)
    with contextlib.suppress(UserError):  # any other error fails
        verify_bank(bank)


# --- the record


def shard_changed(**changes):
    def change(record):
        record["shards"][0] |= changes
        return record

    return change


def renamed(name):
    """The first shard under another name, files and all."""

    def change(record):
        shard = record["shards"][0]
        shard["files"] = {f"{name}{ending}": "0" * 64 for ending in SHARD_ENDINGS}
        shard["name"] = name
        return record

    return change


@pytest.mark.parametrize(
    "change",
    [
        renamed("../../../nnUNetPlans_2d/case_4"),
        renamed("/etc/passwd"),
        renamed("case_4"),
        renamed("synth_00000\n"),
        renamed("synth_00007"),
        shard_changed(files={}),
        shard_changed(files={"/etc/passwd": "0" * 64}),
        shard_changed(numbers=[]),
        shard_changed(numbers=[1, 1, 2, 3]),
        shard_changed(numbers=[-1, 0, 1, 2]),
        shard_changed(next_sample=2),
        lambda record: record | {"shards": record["shards"] * 2},
        lambda record: record | {"shards": record["shards"][::-1]},
        lambda record: record | {"requested": -1},
        lambda record: record | {"requested": 0, "shards": []},
        lambda record: record | {"name": "../elsewhere"},
        lambda record: record | {"name": "two\nlines"},
        lambda record: record | {"origin": record["origin"] | {"patch_size": [16]}},
        lambda record: record | {"origin": record["origin"] | {"patch_size": [0, 14]}},
        lambda record: record | {"origin": record["origin"] | {"snapshots": []}},
        lambda record: record | {"format_version": 2},
        lambda record: record | {"source": record["source"] | {"training_cases": []}},
    ],
)
def test_a_record_that_no_filling_writes_is_refused(bank, change):
    change_record(bank, **change(json.loads((bank / RECORD_FILE).read_text())))
    with pytest.raises(UserError, match=r"bank\.json"):
        verify_bank(bank)


def test_a_record_with_one_bit_changed_is_refused(bank):
    """A name of a case that the generator saw, which is still valid: only the checksum shows it."""
    path = bank / RECORD_FILE
    path.write_text(path.read_text().replace("case_0", "case_2"))
    with pytest.raises(UserError, match=r"bank\.json .*checksum"):
        verify_bank(bank)


def test_a_bank_that_tells_of_more_samples_than_it_holds_is_refused(bank):
    shards = json.loads((bank / RECORD_FILE).read_text())["shards"]
    shards[-1] |= {"numbers": list(range(4, 40)), "next_sample": 40, "shape": [36, 16, 14]}
    change_record(bank, shards=shards)
    with pytest.raises(UserError, match=r"synth_00001.b2nd holds .*\(any, 36, 16, 14\)"):
        verify_bank(bank)


def test_volumes_are_refused_for_slices(data, bank):
    record = BankRecord.load(bank / RECORD_FILE)
    volumes = [shard.model_copy(update={"numbers": shard.numbers[:1], "shape": (4, 16, 14)}) for shard in record.shards]
    origin = record.origin.model_dump() | {"patch_size": [4, 16, 14]}
    change_record(bank, origin=origin, requested=2, shards=[shard.model_dump() for shard in volumes])
    with pytest.raises(UserError, match="samples of 3 axes, not 2"):
        datasets_of_training(data)


@pytest.mark.parametrize(
    "name", ["../fold_0/known", "/tmp/x", ".hidden", "", "two\nlines", "b" * 300, "x\0y", "*", "x?", "[x]"]
)
def test_a_bank_is_named_plainly_wherever_it_is_named(data, name):
    with pytest.raises(UserError, match="bank"):
        make_settings(banks=[name], ratio=0.5, schedule="linear")
    with pytest.raises(UserError, match="bank"):
        read_settings({"synth": {"bank": name}}, "configuration 2d in plans nnUNetPlans")
    with pytest.raises(UserError, match="-o "):
        write_plans(data, make_settings(ratio=0.5, schedule="linear"), name)


# --- leaks: each of these in the trainer itself


def copied_to_fold_1(bank):
    return Path(shutil.copytree(bank, bank.parent.parent / "fold_1" / "known"))


def move_case(data, old, new, copy=False):
    for path in data.folder.glob(f"{old}[._]*"):
        (shutil.copy if copy else shutil.move)(path, path.with_name(path.name.replace(old, new, 1)))


def write_splits(data, splits):
    (data.base / "splits_final.json").write_text(json.dumps(splits))


def test_a_bank_copied_to_another_fold_is_refused(data, bank):
    copied_to_fold_1(bank)
    with pytest.raises(LeakError, match="saw 2 of the 2 validation cases of fold 1, case_0 among them"):
        datasets_of_training(data, fold=1)


def test_other_splits_after_filling_are_refused(data, bank):
    write_splits(data, SPLITS[::-1])
    with pytest.raises(LeakError, match="saw 2 of the 2 validation cases of fold 0"):
        datasets_of_training(data)


def test_validation_cases_that_were_renamed_after_filling_are_known_by_their_images(data, bank):
    """The generator saw case_0; under its new name it is held out."""
    move_case(data, "case_0", "other")
    write_splits(data, [{"train": ["case_1", "case_2", "case_3", "case_5"], "val": ["case_4", "other"]}])
    with pytest.raises(LeakError, match=r"saw 1 of the 2 validation cases of fold 0, other .*same image as case_0"):
        datasets_of_training(data)


def test_a_duplicate_of_a_validation_case_among_the_training_cases_is_known_by_its_image(data, bank):
    move_case(data, "case_4", "twin", copy=True)
    write_splits(data, [{"train": [*SPLITS[0]["train"], "twin"], "val": SPLITS[0]["val"]}])
    make_bank(open_preprocessed(950, "2d"), *some_samples(1), name="saw_the_twin")
    with pytest.raises(LeakError, match=r"case_4 \(which has the same image as twin\) among them"):
        datasets_of_training(data, bank="saw_the_twin")


def test_a_bank_of_fold_all_is_refused_where_something_is_held_out(data, bank):
    source = json.loads((bank / RECORD_FILE).read_text())["source"]
    fold = data.fold("all")
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in fold.training]
    change_record(bank, source=source | {"fold": "all", "training_cases": fold.training, "training_sha256": hashes})
    with pytest.raises(LeakError, match="saw 2 of the 2 validation cases"):
        datasets_of_training(data)


def test_fold_all_says_how_many_cases_the_generator_saw(data, bank, capsys):
    shutil.copytree(bank, bank.parent.parent / "fold_all" / "known")
    datasets_of_training(data, fold="all")
    assert "saw 4 of the 6 cases" in capsys.readouterr().out


def test_a_split_whose_training_and_validation_overlap_is_refused(data, bank):
    write_splits(data, [{"train": [*SPLITS[0]["train"], "case_4"], "val": SPLITS[0]["val"]}])
    with pytest.raises(LeakError, match=r"1 of the 2 validation cases of fold 0 .*case_4.*splits_final\.json"):
        datasets_of_training(data)


@pytest.mark.parametrize("change", [{"dataset_name": "Dataset951_Other"}, {"preprocessing": "0" * 64}])
def test_a_bank_of_other_data_is_refused(data, bank, change):
    change_record(bank, source=json.loads((bank / RECORD_FILE).read_text())["source"] | change)
    with pytest.raises(LeakError, match=r"Dataset951_Other|other preprocessing"):
        datasets_of_training(data)


def test_a_real_case_in_place_of_a_shard_is_refused(data, bank):
    """Though its checksums were renewed: it is not a stack of samples."""
    for ending in SHARD_ENDINGS:
        shutil.copy(data.folder / f"case_4{ending}", bank / f"synth_00000{ending}")
    renew_checksums(bank)
    with pytest.raises(UserError, match="synth_00000"):
        datasets_of_training(data)


def test_a_changed_backend_is_said_and_recorded_before_a_bank_is_continued(bank, capsys):
    record = BankRecord.load(bank / RECORD_FILE)
    cpu = record.origin.model_copy(update={"backends": ("cpu",)})
    wanted = record.model_copy(update={"requested": 20, "origin": cpu})
    assert resume_bank(bank, wanted, set()).origin.backends == ("native", "cpu")
    assert re.search(r"'native'.*'cpu'", capsys.readouterr().err)
    for unchanged in ({"requested": 20}, {"origin": cpu}):  # the same backend, or nothing to draw
        assert resume_bank(bank, record.model_copy(update=unchanged), set()).origin.backends == ("native",)
    assert not capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="cp -s is GNU's")
def test_a_folder_of_links_is_as_good_as_the_one_that_can_only_be_read(data, tmp_path, monkeypatch):
    """What the message of a read-only folder says."""
    base = data.base
    (tmp_path / "linked").mkdir()
    subprocess.run(["cp", "-rs", "--no-preserve=mode", str(base), str(tmp_path / "linked")], check=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "linked"))
    linked = open_preprocessed(950, "2d")
    make_bank(linked, *some_samples(1), name="second")
    datasets_of_training(linked, bank="second")
    assert (linked.folder / "case_0.b2nd").is_symlink()
    assert [path.name for path in (base / "nnUNetPlans_2d_synth" / "fold_0").iterdir()] == ["known"]


def test_images_are_hashed_once_and_again_where_a_file_changed(data, bank, monkeypatch):
    datasets_of_training(data)
    kept = json.loads((data.base / "case_hashes_nnUNetPlans_2d.json").read_text())["cases"]
    assert sorted(kept) == [f"case_{number}" for number in range(6)]
    for name, (size, changed, digest) in kept.items():
        image = data.load(name).image[:]
        assert digest == hashlib.sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).hexdigest()
        status = os.stat(data.folder / f"{name}.b2nd")
        assert (size, changed) == (status.st_size, status.st_mtime_ns)
