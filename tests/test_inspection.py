"""`nnunet-synth inspect`: damage is named, and the page tells what lies in the bank and in the training cases."""

import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from html_page import pixels_of, read_page
from matplotlib.image import imread
from typer.testing import CliRunner

from nnunet_synth.bank.format import BankRecord, FilterRecord, write_shard
from nnunet_synth.bank.inspection import PAGE_FILE, inspect_bank, two_sides
from nnunet_synth.bank.inspection.figures import plot_distributions
from nnunet_synth.bank.inspection.findings import find_out, name_classes
from nnunet_synth.bank.inspection.gallery import gallery, most_alike
from nnunet_synth.bank.inspection.page import build_page
from nnunet_synth.bank.inspection.statistics import VOXELS, Measure, count_class_sets, measure
from nnunet_synth.bank.inspection.two_sides import read_samples, spread
from nnunet_synth.bank.resume import fill_command
from nnunet_synth.cli import app
from nnunet_synth.pages.page import render
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.patch_sampler import cover
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.ncc import RIM, largest_correlation
from stylegan2_cond.visualization import colour_mask


def inspect(folder):
    return read_page(inspect_bank(folder)[0].read_text(encoding="utf-8"))


def change(folder, **changes):
    """Another record for the same shards."""
    record = BankRecord.load(folder / RECORD_FILE).model_copy(update=changes)
    record.save(folder / RECORD_FILE)
    return record


def without_real_cases(record):
    """The record of a bank that came from elsewhere."""
    return record.source.model_copy(update={"dataset_name": "Dataset999_Elsewhere"})


@pytest.fixture
def copied(bank, tmp_path):
    return shutil.copytree(bank, tmp_path / "bank")


@pytest.fixture
def foreign(copied):
    """A bank whose training cases are not here; its page takes a second."""
    change(copied, source=without_real_cases(BankRecord.load(copied / RECORD_FILE)))
    return copied


@pytest.fixture(scope="module")
def found(bank):
    return find_out(bank, BankRecord.load(bank / RECORD_FILE), 12345)


@pytest.fixture(scope="module")
def page(found):
    return read_page(render(build_page(found)))


# The command


def test_the_command_tells_the_facts_and_where_the_page_is(foreign):
    done = CliRunner().invoke(app, ["inspect", str(foreign)])
    assert done.exit_code == 0, done.output
    assert "100 synthetic pairs" in done.output
    assert f"Page: {foreign / PAGE_FILE}" in done.output
    assert (foreign / PAGE_FILE).read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(CliRunner().invoke(app, ["inspect", str(foreign), "--json"]).stdout)
    assert found["path"] == str(foreign / PAGE_FILE)
    assert found["summary"] in done.output
    assert all(f"{note['title']}: {note['text']}" in done.output for note in found["notes"])


def test_damaged_files_are_all_named_and_end_with_code_1(copied):
    (copied / "synth_00000.b2nd").write_bytes(b"other")
    (copied / "synth_00001_seg.b2nd").unlink()
    done = CliRunner().invoke(app, ["inspect", str(copied)])
    assert done.exit_code == 1
    assert f"{copied / 'synth_00000.b2nd'} was changed or truncated" in done.output
    assert f"{copied / 'synth_00001_seg.b2nd'} is missing" in done.output
    assert "nnunet-synth bank" in done.output
    assert not (copied / PAGE_FILE).exists()
    as_json = CliRunner().invoke(app, ["inspect", str(copied), "--json"])
    assert as_json.exit_code == 1
    assert f"Error: {json.loads(as_json.stdout)['error']}" == done.output.strip()


def test_one_byte_is_enough(copied):
    path = copied / "synth_00001.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert CliRunner().invoke(app, ["inspect", str(copied)]).exit_code == 1


def test_of_many_damaged_files_some_are_named_and_the_others_counted(copied):
    for path in copied.glob("synth_*"):
        path.unlink()
    with pytest.raises(UserError, match=r"(\S+ is missing; ){5}1 more\."):
        inspect_bank(copied)


def test_an_older_page_is_replaced_and_nothing_else(foreign, tmp_path):
    other = tmp_path / "mine.html"
    other.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(UserError, match=r"mine\.html exists.* -o"):
        inspect_bank(foreign, other)
    with pytest.raises(UserError, match=r"bank\.json exists"):
        inspect_bank(foreign, foreign / RECORD_FILE)
    if (unreadable := Path("/proc/self/mem")).exists():
        with pytest.raises(UserError, match="/proc/self/mem exists"):
            inspect_bank(foreign, unreadable)
    with pytest.raises(UserError, match="is a folder"):
        inspect_bank(foreign, tmp_path)
    path = inspect_bank(foreign)[0]
    inspect_bank(foreign)
    assert other.read_text() == "<!doctype html><title>mine</title>"
    assert path == foreign / PAGE_FILE


def test_what_is_no_bank_is_refused_with_a_hint(bank, tmp_path):
    with pytest.raises(UserError, match=r"bank\.json.*nnunet-synth bank"):
        inspect_bank(tmp_path)
    with pytest.raises(UserError, match=f"for example {bank.parent}"):
        inspect_bank(bank.parent)


# The page


def test_the_page_is_whole_and_shows_samples_with_their_neighbours_and_distributions(page, found):
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum(alt.startswith("Sample ") and "nearest" in alt for alt in alts) == 32 + 8
    assert len(alts) == 32 + 8 + len({measure.group for measure in found.measures})
    assert all(min(picture.shape[:2]) > 100 for picture in page.images.values())


def test_the_page_tells_what_the_record_tells(page, bank):
    record = BankRecord.load(bank / RECORD_FILE)
    assert f"{record.samples} synthetic pairs of" in page.text
    assert f"{3 * len(record.shards)} files" in page.text
    assert f"{record.generated:,} samples were generated, {record.samples:,} entered" in page.text
    for name, filter_ in record.filters.items():
        assert name in page.text
        assert not filter_.off or f"{name} ({filter_.off})" in page.text
    for checksum in (value for shard in record.shards for value in shard.files.values()):
        assert checksum in page.text
    assert record.origin.snapshots[0].weights_sha256 in page.text
    assert all(case in page.text for case in record.source.training_cases)


def test_pictures_of_what_filters_refused_are_in_the_page(copied, foreign):
    shutil.copy(foreign / "previews.png", foreign / "refused_finite.png")
    (shown,) = (image for alt, image in inspect(foreign).images.items() if "Refused" in alt)
    assert np.array_equal(shown, (255 * imread(foreign / "previews.png")).round())


def test_an_incomplete_bank_has_a_page_that_says_so(foreign):
    record = change(foreign, requested=200)
    told = inspect(foreign).text
    assert "100 of 200" in told
    assert f"-n 200 --snapshot {record.origin.snapshots[0].path}" in told


def test_a_bank_without_any_sample_has_a_page(foreign):
    change(foreign, shards=())
    told = inspect(foreign).text
    assert "0 synthetic pairs" in told
    assert "no sample to compare" in told


def test_a_bank_whose_training_cases_are_elsewhere_has_a_page_that_says_so(foreign):
    told = inspect(foreign)
    assert "no real neighbours" in told.text
    assert "Dataset999_Elsewhere" in told.text
    assert "Nearest" not in told.text
    assert sum(alt.startswith("Sample ") for alt in told.images) == 32


def test_cases_that_were_preprocessed_anew_are_no_real_cases(copied):
    record = BankRecord.load(copied / RECORD_FILE)
    change(copied, source=record.source.model_copy(update={"preprocessing": "other"}))
    assert "preprocessed differently" in inspect(copied).text


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("path", "/gone", "/gone/card.json does not exist"), ("weights_sha256", "0" * 64, "changed since")],
)
def test_without_the_snapshot_there_is_a_page_that_says_so(copied, key, value, told):
    origin = BankRecord.load(copied / RECORD_FILE).origin
    reference = origin.snapshots[0].model_copy(update={key: value})
    change(copied, origin=origin.model_copy(update={"snapshots": (reference,)}))
    found = inspect(copied).text
    assert "no real neighbours" in found
    assert told in found


def test_names_of_others_are_text_and_no_markup(foreign):
    filters = {"<b>x</b>": FilterRecord(off="<script>alert(1)</script>"), "../previews": FilterRecord(refused=1)}
    change(foreign, name="<img src=x onerror=alert(1)>", filters=filters)
    shutil.copy(foreign / "previews.png", foreign / "refused_x.png")
    told = inspect(foreign)
    assert "<script>alert(1)</script>" in told.text
    assert "<b>x</b>" in told.text
    assert not any("Refused" in alt for alt in told.images)


def test_the_command_on_the_page_fills_the_same_bank(found):
    origin = {"balanced": True, "masks": "deformed", "margin": 0.125, "seed": 7}
    record = found.record.model_copy(update={"origin": found.record.origin.model_copy(update=origin)})
    words = shlex.split(fill_command(record))
    assert words[:2] == ["nnunet-synth", "bank"]
    asked = typer.main.get_command(app).commands["bank"].make_context("bank", words[2:]).params
    assert (asked["dataset"], asked["configuration"], asked["fold"]) == ("Dataset901_Virtual", "2d", "0")
    assert asked["snapshot"] == [record.origin.snapshots[0].path]
    assert (asked["samples"], asked["name"], asked["seed"]) == (100, "tests", 7)
    assert (asked["balanced"], asked["masks"], asked["margin"]) == (True, "deformed", 0.125)
    assert set(asked["without"]) == {name for name, filter_ in record.filters.items() if filter_.off == "not wanted"}


# Samples


def test_samples_are_spread_over_the_bank_and_are_those_of_their_numbers(bank, monkeypatch):
    monkeypatch.setattr(two_sides, "MOST_SAMPLES", {2: 12, 3: 12})
    record = BankRecord.load(bank / RECORD_FILE)
    drawn = read_samples(bank, record)
    everything = BankDataset(str(bank))
    assert len(drawn) == 12
    numbers = [number for shard in record.shards for number in shard.numbers]
    assert drawn.numbers.tolist() == [numbers[place] for place in np.linspace(0, 99, 12).round().astype(int)]
    for index in range(12):
        image, label, _, _ = everything.load_case(drawn.shards[index])
        place = drawn.slices[index]
        shard = next(shard for shard in record.shards if shard.name == drawn.shards[index])
        assert shard.numbers[place] == drawn.numbers[index]
        assert np.array_equal(drawn.samples.image[index], image[:, place])
        assert np.array_equal(drawn.samples.label[index], label[0, place])


def test_large_samples_are_fewer(bank, monkeypatch):
    record = BankRecord.load(bank / RECORD_FILE)
    monkeypatch.setattr(two_sides, "MOST_BYTES", 5 * 4 * 2 * math.prod(record.origin.patch_size))  # two channels
    assert len(read_samples(bank, record)) == 5


@pytest.mark.parametrize(("total", "count"), [(1, 5), (5, 5), (6, 5), (1000, 32), (7, 1)])
def test_spread_is_even_and_reaches_from_end_to_end(total, count):
    chosen = spread(total, count)
    assert len(chosen) == min(total, count)
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == total - 1
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 2 else True


def test_values_that_are_no_numbers_are_left_out_and_told(found, bank, tmp_path, preprocessed):
    image, label = (part.copy() for part in (found.bank.samples.image[:8], found.bank.samples.label[:8]))
    image[3, 0, 0, 0] = np.nan
    image[5, 1, 2, 2] = np.inf
    shard = write_shard(tmp_path, "synth_00000", image.swapaxes(0, 1), label[None], range(8), 8, preprocessed)
    whole = read_samples(tmp_path, found.record.model_copy(update={"shards": (shard,)}))
    assert (len(whole), whole.broken) == (6, 2)
    assert whole.numbers.tolist() == [0, 1, 2, 4, 6, 7]
    notes = {
        note.title: note
        for note in build_page(dataclasses.replace(found, bank=whole, reference=None, neighbours=None)).notes
    }
    assert notes["Values"].state == "bad"
    assert notes["Values"].text.startswith("2 ")


def test_a_shard_of_another_size_than_the_record_tells_is_refused(foreign):
    record = BankRecord.load(foreign / RECORD_FILE)
    numbers, shape = record.shards[0].numbers[:-1], (63, *record.shards[0].shape[1:])
    shard = record.shards[0].model_copy(update={"numbers": numbers, "shape": shape})
    change(foreign, shards=(shard, *record.shards[1:]), requested=99)
    with pytest.raises(UserError, match=r"\(2, 64, .*\(any, 63,"):
        inspect_bank(foreign)


# Neighbours


@pytest.fixture(scope="module")
def planted(found, preprocessed, tmp_path_factory):
    """A bank of samples, and of two patches of training cases, from one corner and the other: what is found out."""
    folder = tmp_path_factory.mktemp("planted")
    record, patch_size = found.record, found.record.origin.patch_size
    image, label = (part.copy() for part in (found.bank.samples.image[:24], found.bank.samples.label[:24]))
    truths = {}
    for place, name, last in ((5, record.source.training_cases[2], 0), (17, record.source.training_cases[6], 1)):
        case = preprocessed.load(name)
        middle = case.image.shape[1] // 2
        room = [have - want for have, want in zip(case.image.shape[2:], patch_size, strict=True)]
        box = tuple(slice(last * more, last * more + want) for more, want in zip(room, patch_size, strict=True))
        image[place], label[place] = case.image[(slice(None), middle, *box)], case.label[(0, middle, *box)]
        truths[place] = f"{name}, slice {middle + 1} of {case.image.shape[1]}"
    shard = write_shard(folder, "synth_00000", image.swapaxes(0, 1), label[None], range(24), 24, preprocessed)
    record = record.model_copy(update={"shards": (shard,), "requested": 24})
    return find_out(folder, record, 0), truths


def test_a_planted_copy_is_found_with_its_case_and_slice_and_called_one(planted):
    found, truths = planted
    cards = {picture.name: picture for picture in gallery(found)}
    assert len(cards) == 24
    for place, truth in truths.items():
        card = cards[f"sample-{place}"]
        assert card.caption.startswith("Copy?")
        assert truth in card.caption
        assert float(card.caption.split()[-1]) > 0.999
        sample, neighbour = np.split(pixels_of(card.uri), 2)
        assert np.array_equal(sample, neighbour)  # shifted until it lies where the copy lies
    assert {picture.name for picture in most_alike(found)[:2]} == {f"sample-{place}" for place in truths}
    copies = next(note for note in build_page(found).notes if note.title == "Copies")
    assert re.match(rf"{int(found.neighbours.alarms.sum())} of 24 ", copies.text)


def test_the_neighbour_is_the_best_of_all_training_patches(found, preprocessed):
    patches, words = [], []
    for name in found.record.source.training_cases:
        case = preprocessed.load(name)
        there = [patch.image for patch in cover(case, found.record.origin.patch_size, reach=RIM, margin=RIM)]
        each = len(there) // case.image.shape[1]
        patches += there
        words += [f"{name}, slice {n // each + 1} of {case.image.shape[1]}" for n in range(len(there))]
    assert words == list(found.neighbours.places)
    chosen = [0, 41, 99]
    queries = torch.from_numpy(found.bank.samples.image[chosen])
    exact = largest_correlation(queries, torch.from_numpy(np.stack(patches))[None].expand(3, -1, -1, -1, -1))
    assert np.allclose(exact.max(dim=1).values, found.neighbours.generated.nearness[chosen], atol=1e-4)


# Distributions


def test_sets_of_classes_are_counted():
    label = np.zeros((8, 4, 4), np.int16)
    label[:4, 0, 0], label[2:6, 1, 1], label[7, 2, 2] = 1, 2, OUTSIDE
    ours, theirs = (SampleSet(np.zeros((8, 1, 4, 4), np.float32), one) for one in (label, 0 * label))
    assert count_class_sets([ours], [1, 2]) == {(1,): [0.25], (1, 2): [0.25], (2,): [0.25], (): [0.25]}
    both = count_class_sets([ours, theirs, ours], [1, 2])
    assert next(iter(both)) == ()  # what real patches show most often
    assert both[()] == [0.25, 1.0, 0.25]


def test_measures_are_those_of_patches_that_show_the_class_and_of_voxels_within_the_image():
    label = np.zeros((3, 4, 4), np.int16)
    label[0, :2, :2], label[1, 3, :], label[2] = 1, 1, OUTSIDE
    image = np.where(label == 1, 5.0, np.where(label == OUTSIDE, 100.0, 1.0)).astype(np.float32)[:, None]
    measures = measure([SampleSet(image, label)], None, {1: "a"}, ["MRI"], np.random.default_rng(0))
    told = {(one.group, one.of): one for one in measures}
    assert told["area", "a"].generated.tolist() == [25.0, 25.0]
    assert told["components", "a"].generated.tolist() == [1.0, 1.0]
    assert told["y", "a"].generated.tolist() == [0.25, 0.875]
    assert set(told["intensity", "MRI"].generated) == {1.0, 5.0}
    assert len(told["intensity", "MRI"].generated) == 2 * VOXELS
    assert set(told["class intensity", "a"].generated) == {5.0}
    assert all(np.isnan(one.distance) for one in measures)


def test_distances_are_those_of_wasserstein_in_pooled_standard_deviations():
    one = Measure("area", "a", np.array([3.0, 5.0]), np.array([1.0, 3.0]), np.array([1.0, 3.0]))
    # Both have variance 1, their means are 2 apart: the mixture has variance 1 + 1, and all mass moves by 2.
    assert one.distance == pytest.approx(2 / math.sqrt(2))
    assert one.noise == 0


def test_a_bank_of_real_patches_is_hardly_further_from_real_than_real_ones(found):
    sides = [found.reference.again, found.reference.real, found.reference.again]
    for one in measure(sides, None, found.classes, found.channels, np.random.default_rng(1)):
        assert one.distance == pytest.approx(one.noise, abs=0.02)
        assert one.distance < 0.2


@pytest.mark.parametrize(
    "measure",
    [
        Measure("area", "a", np.zeros(0), np.zeros(0)),
        Measure("area", "a", np.zeros(0), np.ones(5)),
        Measure("area", "a", np.ones(5)),
        Measure("area", "a", np.geomspace(1e-3, 10, 50), np.geomspace(1e-3, 10, 50)),
        Measure("components", "a", np.array([1.0, 40.0]), np.array([1.0])),
        Measure("holes", "a", np.zeros(3)),
        Measure("y", "a", np.array([np.nan, 0.5]), np.array([np.nan])),
    ],
)
def test_plots_of_little_or_nothing_are_made(measure):
    pixels = pixels_of(plot_distributions([measure, measure])[0].uri)
    assert pixels.shape[1] > 600
    assert pixels.std() > 0


# Pictures and words


def test_the_page_of_a_bank_shows_numbers_of_its_samples_and_colours_of_its_classes(page, found):
    for number in found.bank.numbers[spread(100, 32)]:
        assert f"Sample {number} (" in page.text
    swatches = [attributes["style"] for tag, attributes in page.tags if tag == "span"]
    for label in found.classes:
        (pixel,) = (255 * colour_mask(np.zeros((1, 1)), np.full((1, 1), label), found.display["labels"], 1)).round()[0]
        assert "background: #" + "".join(f"{int(part):02x}" for part in pixel) in swatches


def test_a_bank_of_volumes_has_a_page(found, tmp_path, preprocessed):
    rng = np.random.default_rng(0)
    shards = []
    for number in range(3):
        image, label = rng.normal(size=(2, 8, 24, 16)).astype(np.float32), np.zeros((1, 8, 24, 16), np.int16)
        label[0, 2:6, 4:12, 4:12] = 1
        shards.append(write_shard(tmp_path, f"synth_{number:05d}", image, label, [number], number + 1, preprocessed))
    record = found.record.model_copy(
        update={
            "shards": tuple(shards),
            "requested": 3,
            "origin": found.record.origin.model_copy(update={"patch_size": (8, 24, 16)}),
            "source": without_real_cases(found.record),
        }
    )
    record.save(tmp_path / RECORD_FILE)
    told = inspect(tmp_path)
    assert "3 synthetic pairs of 8 × 24 × 16 voxels" in told.text
    assert sum(alt.startswith("Sample ") for alt in told.images) == 3


def test_classes_have_the_names_of_dataset_json():
    declared = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3, "liver": 4}}
    assert name_classes((0, 1, 2, 4, OUTSIDE), declared) == {1: "class 1", 2: "core", 4: "liver"}
    assert name_classes((2, 1), {}) == {1: "class 1", 2: "class 2"}


def test_limits_of_filters_have_the_names_of_classes_and_channels(foreign):
    record = BankRecord.load(foreign / RECORD_FILE)
    limits = {"class 1 area most": 0.5, "channel 0 least": -1.0, "score in pixels, least": -2.0}
    change(foreign, filters={**record.filters, "anatomy": FilterRecord(limits=limits)})
    told = inspect(foreign).text
    assert all(words in told for words in ("class 1: area most", "channel 0: least", "score in pixels, least"))
