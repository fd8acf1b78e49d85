"""A bank that grows while nnU-Net trains: what is whole is drawn, what fails is told, and training goes on."""

import shutil
from pathlib import Path

import pytest
from test_mixing import trainer_of

from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.training import background_fill
from nnunet_synth.training.background_fill import LOG_FILE, Refresher
from nnunet_synth.training.trainer import nnUNetTrainerSynth


@pytest.fixture
def copied(bank):
    """Its record has the name of the bank that it is a copy of."""
    before = (bank / RECORD_FILE).read_bytes()
    folder = shutil.copytree(bank, bank.parent / "growing")
    yield folder
    assert (bank / RECORD_FILE).read_bytes() == before
    shutil.rmtree(folder)


def test_a_training_draws_from_shards_that_were_added_beside_it(copied, preprocessed, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = trainer_of(nnUNetTrainerSynth, preprocessed, ratio=1.0, bank="growing", refresh=170)
    trainer.on_train_start()
    process = trainer._refresher._process
    assert process.wait(timeout=300) == 0, (copied / LOG_FILE).read_text()
    trainer.on_train_epoch_start()
    assert trainer._control.new_shards == 2
    record = BankRecord.load(copied / RECORD_FILE)
    assert (record.samples, record.complete) == (170, True)
    drawn = {trainer.dataloader_train.data_loader._data._draw_shard() for _ in range(200)}
    assert drawn == {shard.name for shard in record.shards}
    trainer.on_train_end()
    log = Path(trainer.log_file).read_text()
    assert "The bank grows to 170 samples" in log
    assert "The bank has grown to its full size." in log


def test_a_failure_is_told_once_and_training_goes_on(copied, monkeypatch):
    told = []
    record = BankRecord.load(copied / RECORD_FILE)
    refresher = Refresher(copied, record, told.append)
    refresher.start(200, "no_such_device")
    refresher._process.wait(timeout=300)
    assert [refresher.new_shards() for _ in range(2)] == [0, 0]
    assert len(told) == 2
    assert "The bank stopped growing (code 1): Device 'no_such_device'" in told[1]


def test_a_damaged_shard_and_those_behind_it_do_not_count(copied):
    record, told = BankRecord.load(copied / RECORD_FILE), []
    known = record.model_copy(update={"shards": record.shards[:1]})
    refresher = Refresher(copied, known, told.append)
    path = copied / f"{record.shards[1].name}.b2nd"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert refresher.new_shards() == 0
    assert "was changed or cut off" in told[0]
    path.write_bytes(whole)
    assert refresher.new_shards() == 1
    assert refresher.new_shards() == 1


def test_the_process_ends_with_the_training(copied):
    refresher = Refresher(copied, BankRecord.load(copied / RECORD_FILE), print)
    refresher.start(100_000, "cpu")
    process = refresher._process
    refresher.stop()
    assert process.poll() is not None
    refresher.stop()
    assert background_fill.LOG_FILE in {path.name for path in copied.iterdir()}
