"""A bank is nnU-Net data: its own loader reads it; what is damaged, foreign or foul is refused."""

import errno
import os
import pickle
import shutil

import numpy as np
import pytest
from conftest import STRICT
from filelock import FileLock
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from tolerance import NETWORK, assert_rounded

from nnunet_synth.bank import fill
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import BankRecord, class_locations, find_banks, write_shard
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.bank.verify import verify_bank
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.data.untrusted_files import load_properties
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import TEXT_LOG
from stylegan2_cond.ops import name_backend
from stylegan2_cond.snapshot import find_snapshots, load_generator
from stylegan2_cond.training.log_file import read_log
from stylegan2_cond.training.model_selection import CLOSE


@pytest.fixture
def shards_only(bank, tmp_path):
    """nnU-Net infers the format from the endings in a folder; a bank's has a record, pictures and a log beside them."""
    return shutil.copytree(bank, tmp_path / "shards", ignore=shutil.ignore_patterns("*.json", "*.png", "*.txt"))


def test_nnunets_own_loader_reads_a_bank_unchanged(bank, shards_only, preprocessed):
    assert infer_dataset_class(str(shards_only)) is nnUNetDatasetBlosc2
    dataset = nnUNetDatasetBlosc2(str(bank))
    assert sorted(dataset.identifiers) == [shard.name for shard in BankRecord.load(bank / RECORD_FILE).shards]
    loader = nnUNetDataLoader(
        dataset, 6, preprocessed.patch_size, preprocessed.patch_size, preprocessed.label_manager,
        oversample_foreground_percent=1.0,
    )  # fmt: skip
    batch = next(loader)
    assert tuple(batch["data"].shape) == (6, 2, *preprocessed.patch_size)
    assert tuple(batch["target"].shape) == (6, 1, *preprocessed.patch_size)
    assert set(np.unique(batch["target"])) <= {-1, 0, 1, 2}


def test_shards_hold_the_generators_samples(bank, generator_run):
    pairs = load_generator(find_snapshots(generator_run)[-1]).sample(100)
    image, label = [], []
    dataset = BankDataset(str(bank))
    for name in sorted(dataset.identifiers):
        data, seg, _, _ = dataset.load_case(name)
        image.append(data[:].swapaxes(0, 1))
        label.append(seg[0])
    assert_rounded(np.concatenate(image), pairs.image, terms=NETWORK)
    assert (np.concatenate(label) == pairs.label).mean() > 0.999


def test_what_the_commands_printed_lies_next_to_what_they_made(bank, generator_run):
    assert "100 of 100 samples entered" in (bank / TEXT_LOG).read_text()
    text = (generator_run / TEXT_LOG).read_text()
    for part in ("progress.png", "Snapshot after 480 images: ", "Next: nnunet-synth bank Dataset901_Virtual 2d 0 -n"):
        assert part in text
    assert "Training:" not in text  # the progress bar


def test_a_full_bank_is_left_as_it_is_and_the_commands_say_what_is_next(bank, generator_run, run_here):
    without = [word for name in STRICT for word in ("--without", name)]
    code, out, _ = run_here("nnunet-synth", "bank", "901", "2d", "0", "-n", "100", "--name", bank.name, *without)
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"Next: nnunet-synth inspect {bank}",
        "Then: nnunet-synth train Dataset901_Virtual 2d 0",
    ]
    status = run_here("nnunet-synth", "status", "901")[1]
    assert "pair: finished, 480 of 480 images, best snapshot after 480 (kid" in status
    assert f"{bank.name}: complete, 100 of 100 pairs" in status


def test_class_locations_are_where_the_classes_are(bank):
    dataset = BankDataset(str(bank))
    for name in dataset.identifiers:
        _, label, _, properties = dataset.load_case(name)
        label = label[:]
        for value, voxels in properties["class_locations"].items():
            assert (len(voxels) > 0) == (label == value).any()
            assert all(label[tuple(voxel)] == value for voxel in voxels)


def test_of_a_large_class_a_part_of_the_places_is_kept(preprocessed):
    """nnU-Net keeps up to 10,000 of a case, but a shard is unpickled at every draw."""
    label = np.ones((1, 64, 40, 40), dtype=np.int16)
    label[:, :32] = 2
    label[0, 0, 0, 0] = 1
    locations = class_locations(label, preprocessed)
    for value in (1, 2):
        assert len(np.unique(locations[value], axis=0)) == 2000
        assert (label[tuple(locations[value].T)] == value).all()
        low, high = (0, 32) if value == 2 else (32, 64)
        counts = np.bincount(locations[value][:, 1], minlength=64)[low:high]
        assert counts.min() > 0  # every sample can be drawn for its foreground


def test_a_shard_that_was_filled_anew_is_read_anew(bank, preprocessed, tmp_path):
    """Though a process keeps shards open."""
    image, label = np.zeros((2, 4, 32, 24), np.float32), np.zeros((1, 4, 32, 24), np.int16)
    for value in (1.0, 2.0):
        write_shard(tmp_path, "synth_00000", image + value, label, range(4), 4, preprocessed)
        data, _, _, _ = BankDataset(str(tmp_path)).load_case("synth_00000")
        assert (data[:] == value).all()


def test_our_reader_of_properties_agrees_with_nnunets(bank):
    name = BankDataset(str(bank)).identifiers[0]
    ours, theirs = (dataset(str(bank)).load_case(name)[3] for dataset in (BankDataset, nnUNetDatasetBlosc2))
    assert ours.keys() == theirs.keys()
    for value, voxels in ours["class_locations"].items():
        assert np.array_equal(voxels, theirs["class_locations"][value])


def test_stopped_and_started_again_equals_uninterrupted(preprocessed, generator_run, bank, monkeypatch):
    write, calls = fill.write_shard, []

    def stop_at_the_second(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments, **keywords)

    monkeypatch.setattr(fill, "write_shard", stop_at_the_second)
    with pytest.raises(Stopped, match="The same command continues"):
        fill_bank(preprocessed, "0", FillRequest(samples=100, name="stopped", without=STRICT))
    folder = bank.parent / "stopped"
    assert folder not in find_banks(folder.parent)
    with pytest.raises(UserError, match=r"has 64 of 100 samples"):
        verify_bank(folder)
    monkeypatch.undo()
    fill_bank(preprocessed, "0", FillRequest(samples=100, name="stopped", without=STRICT))
    stopped, whole = verify_bank(folder), verify_bank(bank)
    assert [shard.samples for shard in stopped.shards] == [shard.samples for shard in whole.shards]
    for name in ("synth_00000", "synth_00001"):
        one, other = (BankDataset(str(path)).load_case(name) for path in (folder, bank))
        assert_rounded(one[0][:], other[0][:], terms=NETWORK)
    shutil.rmtree(folder)


def test_a_bank_that_is_full_stays_as_it_is(preprocessed, bank):
    before = (bank / RECORD_FILE).read_text()
    fill_bank(preprocessed, "0", FillRequest(samples=100, name="tests", without=STRICT))
    assert (bank / RECORD_FILE).read_text() == before


def test_a_class_that_no_training_patch_shows_is_named(preprocessed, bank, monkeypatch, capsys):
    monkeypatch.setattr(Conditions, "combinations", lambda self: {(1,): 0.5, (): 0.5})
    fill_bank(preprocessed, "0", FillRequest(samples=4, balanced=True, name="balanced", without=("all",)))
    assert "--balanced: no training patch shows class 2," in capsys.readouterr().out


def test_a_weak_generator_is_called_one(preprocessed, bank, generator_run, capsys):
    fill_bank(preprocessed, "0", FillRequest(samples=100, name="tests", without=STRICT))
    figures = read_log(generator_run)[-1]
    assert figures["coverage"] < CLOSE * figures["coverage real"]
    line = capsys.readouterr().out
    assert f"{figures['coverage']:.0%}" in line
    assert f"{figures['coverage real']:.0%}" in line
    assert str(find_snapshots(generator_run)[-1]) in line


def test_a_bank_names_the_backend_that_computed_it(bank):
    assert BankRecord.load(bank / RECORD_FILE).origin.backends == (name_backend("cpu"),)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_cases_that_can_only_be_read_are_answered_by_the_way_to_a_folder_of_links(
    preprocessed, generator_run, monkeypatch, number
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(UserError, match=rf"cp -rs .*{preprocessed.base} .*export nnUNet_preprocessed="):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="readonly", without=STRICT))


def test_a_name_that_is_taken_is_not_overwritten(preprocessed, bank):
    with pytest.raises(UserError, match=r"exists with seed 0\. .*--name"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="tests", seed=1, without=STRICT))
    with pytest.raises(UserError, match=r"exists with other filters\. .*--name"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="tests", without=STRICT[1:]))
    (bank.parent / "mine").mkdir()
    (bank.parent / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a bank"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="mine"))
    shutil.rmtree(bank.parent / "mine")


@pytest.mark.parametrize("name", ["../elsewhere", ".hidden", "a/b"])
def test_a_name_is_a_plain_folder_name(preprocessed, bank, name):
    with pytest.raises(UserError, match=r"--name .* plain folder name"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name=name))


def test_a_snapshot_of_another_fold_is_refused(preprocessed, generator_run):
    with pytest.raises(UserError, match=r"another fold \(0 instead of 1\)"):
        fill_bank(preprocessed, "1", FillRequest(samples=10, snapshots=((find_snapshots(generator_run)[-1], 1.0),)))


def test_no_generator_names_the_command_that_trains_one(preprocessed):
    with pytest.raises(UserError, match="stylegan2-cond train Dataset901_Virtual 2d 3"):
        fill_bank(preprocessed, "3", FillRequest(samples=10))


@pytest.fixture
def copied_bank(bank, tmp_path):
    return shutil.copytree(bank, tmp_path / "bank")


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_shard_that_was_cut_off_is_named(copied_bank, ending):
    path = copied_bank / f"synth_00000{ending}"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"synth_00000{ending} was changed or truncated"):
        verify_bank(copied_bank)
    path.unlink()
    with pytest.raises(UserError, match=rf"synth_00000{ending} is missing"):
        verify_bank(copied_bank)


class Foul:
    def __reduce__(self):
        return os.system, ("touch /tmp/foul",)


@pytest.mark.parametrize("content", [Foul(), {"class_locations": {1: Foul()}}, np.array([Foul()], dtype=object)])
def test_properties_that_would_run_code_are_refused(content):
    with pytest.raises(UserError, match="has no place in a bank"):
        load_properties(pickle.dumps(content))


@pytest.mark.parametrize("protocol", range(3, 6))
def test_plain_properties_pass_whatever_the_protocol(protocol):
    content = {"class_locations": {1: np.arange(8).reshape(2, 4), (1, 2): []}, "spacing": [1.0, np.float64(2)]}
    loaded = load_properties(pickle.dumps(content, protocol=protocol))
    assert np.array_equal(loaded["class_locations"][1], content["class_locations"][1])
    assert loaded["spacing"] == [1.0, 2.0]


def test_a_full_disk_leaves_no_half_shard(preprocessed, generator_run, bank, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nnUNetDatasetBlosc2, "save_case", staticmethod(full))
    with pytest.raises(UserError, match="No space left"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="full", without=STRICT))
    folder = bank.parent / "full"
    assert sorted(path.name for path in folder.iterdir()) == [RECORD_FILE, TEXT_LOG]
    assert "No space left" in (folder / TEXT_LOG).read_text()
    shutil.rmtree(folder)


def test_a_shard_that_was_stored_wrongly_is_noticed(preprocessed, generator_run, bank, monkeypatch):
    save = nnUNetDatasetBlosc2.save_case

    def forgetful(data, *arguments, **keywords):
        save(data * 0, *arguments, **keywords)

    monkeypatch.setattr(nnUNetDatasetBlosc2, "save_case", staticmethod(forgetful))
    with pytest.raises(UserError, match="could not be read back"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="forgetful", without=STRICT))
    shutil.rmtree(bank.parent / "forgetful")
