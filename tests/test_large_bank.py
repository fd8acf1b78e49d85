"""10,000 samples open without one of them being read, and cost a worker no more than a small bank's."""

import gc
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from nnunet_synth.bank.format import BankRecord, write_shard
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.training.mirror_padding import Margins
from nnunet_synth.training.mixed_dataset import MixedBank, MixedDataset, MixingControl
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import SHARD_ENDINGS, BankDataset

SAMPLES, EACH = 10_000, 64
NO_MARGINS = Margins((0,) * 3, (0,) * 3)
SLACK = 2**16  # bytes that reading the counter itself, and Python, may take


@pytest.fixture(scope="module")
def large(bank, preprocessed, tmp_path_factory):
    """157 shards that are links to one, and the record of a bank of 10,000 samples."""
    folder, patch_size = tmp_path_factory.mktemp("large"), (32, 24)
    rng = np.random.default_rng(0)
    image, label = (
        rng.normal(size=(2, EACH, *patch_size)).astype(np.float32),
        rng.integers(0, 2, (1, EACH, *patch_size)),
    )
    first = write_shard(folder, "synth_00000", image, label.astype(np.int16), range(EACH), EACH, preprocessed)
    checksums, shards = list(first.files.values()), []
    for number in range(-(-SAMPLES // EACH)):
        name, start = f"synth_{number:05d}", number * EACH
        names = [name + ending for ending in SHARD_ENDINGS]
        for ending, link in zip(SHARD_ENDINGS, names, strict=True):
            if number:
                os.link(folder / f"synth_00000{ending}", folder / link)
        files = dict(zip(names, checksums, strict=True))
        numbers = tuple(range(start, start + EACH))
        shards.append(
            first.model_copy(update={"name": name, "numbers": numbers, "next_sample": start + EACH, "files": files})
        )
    record = BankRecord.load(bank / RECORD_FILE)
    origin = record.origin.model_copy(update={"patch_size": patch_size})
    record = record.model_copy(update={"shards": tuple(shards), "requested": SAMPLES, "origin": origin})
    record.save(folder / RECORD_FILE)
    return folder, record


def open_bank(folder, preprocessed, read=lambda folder: BankRecord.load(folder / RECORD_FILE)):
    """As training does, but for the checksums, unless `read` checks them."""
    record = read(folder)
    real = preprocessed.dataset_class(str(preprocessed.folder), list(preprocessed.fold(0).training))
    bank = BankDataset(str(folder), [shard.name for shard in record.shards])
    return MixedDataset(real, [MixedBank(bank, record, NO_MARGINS)], MixingControl())


def bytes_read():
    """By this process, from files and the system's memory of them (proc(5), rchar)."""
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["rchar"])


def test_the_large_bank_is_whole(large):
    folder, record = large
    assert verify_bank(folder) == record
    assert record.samples >= SAMPLES


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system does not count what is read")
def test_verifying_reads_each_file_twice_for_its_checksum_and_for_its_contents(large, preprocessed):
    folder, _ = large
    open_bank(folder, preprocessed, verify_bank)  # whatever is read the first time only
    before = bytes_read()
    open_bank(folder, preprocessed, verify_bank)
    files = sum(path.stat().st_size for path in folder.iterdir())
    assert files < bytes_read() - before < 2.5 * files  # headers are read once more


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system does not count what is read")
def test_opening_reads_the_record_and_no_sample(large, preprocessed):
    folder, _ = large
    open_bank(folder, preprocessed)  # whatever is read the first time only
    before = bytes_read()
    open_bank(folder, preprocessed)
    assert bytes_read() - before < (folder / RECORD_FILE).stat().st_size + SLACK


def test_opening_needs_no_shard_to_be_readable(large, preprocessed, tmp_path):
    folder, record = large
    for name in (name for shard in record.shards for name in shard.files):
        (tmp_path / name).touch()
    (tmp_path / RECORD_FILE).write_bytes((folder / RECORD_FILE).read_bytes())
    assert len(open_bank(tmp_path, preprocessed).banks[0].dataset.identifiers) == len(record.shards)


def test_what_a_worker_is_sent_does_not_grow_with_the_samples(large, preprocessed):
    folder, record = large
    single = [shard.model_copy(update={"numbers": shard.numbers[:1]}) for shard in record.shards]
    sizes = []
    for shards in (record.shards, single):
        mixed = open_bank(folder, preprocessed)
        of_these = record.model_copy(update={"shards": tuple(shards)})
        sent = MixedDataset(mixed.real, [MixedBank(mixed.banks[0].dataset, of_these, NO_MARGINS)], None)
        sizes.append(len(pickle.dumps(sent)))
    assert sizes[0] == sizes[1]
    assert sizes[0] < 100 * len(record.shards)  # bytes: names, and where each begins


def test_a_worker_keeps_nothing_of_what_it_has_drawn(large, preprocessed):
    folder, record = large
    mixed = open_bank(folder, preprocessed)
    mixed.control.ratios = [1]

    def kept_after(draws):
        for _ in range(draws):
            mixed.load_case(mixed.identifiers[0])[0][:, :1]
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    kept_after(20)  # whatever is kept once
    tracemalloc.start()
    grown = -kept_after(20) + kept_after(2 * len(record.shards))
    tracemalloc.stop()
    assert grown < 2**20  # 3 kB a draw, where a shard has 400 kB and its properties 20; measured: some tens of bytes


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not list open files")
def test_a_worker_keeps_few_shards_open(large, preprocessed):
    """Those that it needs again open at once; 157 would be 314 files."""
    _, record = large
    mixed = open_bank(large[0], preprocessed)
    mixed.control.ratios = [1]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4 * len(record.shards)):
        mixed.load_case(mixed.identifiers[0])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 128
