"""A bank's stream: who draws a sample, for which mask, and what it is asked to be, is decided by its number."""

import shutil
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import STRICT, TINY_PLANS
from tiny import IGNORE, tiny_plan
from tolerance import NETWORK, assert_rounded

from nnunet_synth.bank.ensemble import Member
from nnunet_synth.bank.fill import CHUNK, fill_bank
from nnunet_synth.bank.filters import FILTERS, Anatomy, Filter, Filters
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.previews import refused_picture
from nnunet_synth.bank.request import FillRequest, parse_snapshot
from nnunet_synth.bank.sample_stream import SampleStream
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.nnunet_dataset import Case, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.networks import build_generator
from stylegan2_cond.planning import condition_patches, planner
from stylegan2_cond.snapshot import PairGenerator, SampleRequest, load_generator, open_masks, save_snapshot
from stylegan2_cond.snapshot.mask_sources import RealMasks


@pytest.fixture(scope="module")
def make_snapshot(tmp_path_factory, plan):
    def make(variant="pair", seed=0, **changes):
        folder = tmp_path_factory.mktemp("snapshots") / f"{variant}_{seed}"
        codec = (
            plan.codec if variant != "mask" else plan.codec.model_copy(update={"low": (), "high": (), "outside": None})
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            own = plan.model_copy(update={"variant": variant, "codec": codec, **changes})
            save_snapshot(folder, build_generator(own), own, 0)
        return folder

    return make


@pytest.fixture(scope="module")
def pair(make_snapshot):
    return make_snapshot()


@pytest.fixture(scope="module")
def other(make_snapshot):
    return make_snapshot(seed=1)


@pytest.fixture(scope="module")
def image(make_snapshot):
    return make_snapshot("image")


@pytest.fixture(scope="module")
def mask(make_snapshot):
    return make_snapshot("mask")


def test_members_draw_in_proportion_to_their_weights(pair, other):
    one, two = load_generator(pair), load_generator(other)
    stream = SampleStream([Member(one, 3.0), Member(two, 1.0)], seed=5)
    drawn = Counter(stream.choose_member(number) for number in range(4000))
    assert abs(drawn[0] / 4000 - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5
    numbers = range(20, 32)
    samples = stream.sample(numbers)
    for place, number in enumerate(numbers):
        alone = [one, two][stream.choose_member(number)].sample(1, seed=5, first=number)
        assert_rounded(samples.image[place], alone.image[0], terms=NETWORK)
        assert (samples.label[place] == alone.label[0]).mean() > 0.99


def test_a_sample_depends_on_its_number_not_on_those_drawn_with_it(pair, other):
    stream = SampleStream(
        [Member(load_generator(pair), 1.0), Member(load_generator(other), 1.0)], seed=0, balanced=True
    )
    whole, part = stream.sample(range(24)), stream.sample([17, 3])
    assert_rounded(part.image, whole.image[[17, 3]], terms=NETWORK)


def test_every_class_is_asked_for_equally_often_when_balanced(pair, plan):
    stream = SampleStream([Member(load_generator(pair), 1.0)], seed=0, balanced=True)
    asked = [stream.choose_classes(number, 0) for number in range(2000)]
    assert all(asked)  # an empty patch is asked for by no class
    seen = [label for label in plan.conditions.classes if any(label in classes for classes in asked)]
    assert set(seen) == set(plan.conditions.classes)
    for label in seen:  # at least its own turn
        assert np.mean([label in classes for classes in asked]) > 1 / len(seen) - 0.04
    assert SampleStream(stream.members, seed=0).choose_classes(0, 0) is None


def rare_masks(classes=13, cases=24):
    """Real masks of a plan for slices that show few of many organs, most combinations of them once or never."""
    rng = np.random.default_rng(3)
    labels = np.zeros((cases, 20, 8, 6), np.int16)
    for organ in range(1, classes + 1):  # the rarest lies in a single slice of all
        for case in range(1 if organ == classes else max(1, cases // organ)):
            first, length = rng.integers(20), 1 if organ == classes else 1 + rng.integers(4)
            labels[case, first : first + length, rng.integers(8), rng.integers(6)] = organ
    names = [f"case_{number}" for number in range(cases)]
    plan = tiny_plan("image")
    plan = plan.model_copy(update={"source": plan.source.model_copy(update={"training_cases": tuple(names)})})

    def load(name):
        label = labels[names.index(name)]
        places = {value: np.argwhere(label[None] == value) for value in range(1, classes + 1)}
        return Case(name, np.zeros((2, *label.shape), np.float32), label[None], places)

    preprocessed = SimpleNamespace(load=load)
    stream = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=plan.foreground_share, seed=plan.seed)
    patches = stream.batch(0, condition_patches(plan.patch_size))
    conditions = Conditions.from_patches(range(1, classes + 1), patches.label, patches.position)
    return RealMasks.of_cases(preprocessed, plan.model_copy(update={"conditions": conditions}), "real")


@pytest.fixture
def few_patches(monkeypatch):
    monkeypatch.setattr(planner, "CONDITION_PATCHES", 500)


def test_a_balanced_bank_of_images_gets_a_mask_of_every_combination_that_it_asks_for(few_patches):
    source = rare_masks()
    stream = SampleStream([Member(SimpleNamespace(plan=source.plan), 1.0, source)], seed=0, balanced=True)
    asked = {number: stream.choose_classes(number, 0) for number in range(150)}
    combinations = Counter(asked.values())
    assert min(combinations.values()) == 1  # rare ones are among them
    assert any(13 in classes for classes in combinations)
    drawn = {number: source.sample(0, [number], SampleRequest(classes)) for number, classes in asked.items()}
    for number, classes in asked.items():
        assert set(np.unique(drawn[number][0])) - {0} == set(classes)
    again = rare_masks()
    for number in (149, 7, 120):  # in another order, by another object
        label, place = again.sample(0, [number], SampleRequest(asked[number]))
        np.testing.assert_array_equal(label, drawn[number][0])
        np.testing.assert_array_equal(place, drawn[number][1])
    some = [number for number in range(150) if asked[number] == asked[0]][:5]
    label, place = again.sample(0, some, SampleRequest(asked[0]))
    np.testing.assert_array_equal(label, np.concatenate([drawn[number][0] for number in some]))
    np.testing.assert_array_equal(place, np.concatenate([drawn[number][1] for number in some]))


def test_a_combination_that_no_patch_shows_any_more_gets_the_mask_that_shows_most_of_it(few_patches):
    source = rare_masks()
    conditions = source.plan.conditions
    most = conditions.table.shown.sum(axis=1).max()
    everything = (1.0, *[-3.0] * 13, 0.5)  # as if the cases were others when the plan was made
    conditions = Conditions(**conditions.model_dump() | {"rows": (*conditions.rows, everything)})
    source.plan = source.plan.model_copy(update={"conditions": conditions})
    label, _ = source.sample(0, range(5), SampleRequest(conditions.classes))
    assert [len(set(np.unique(mask)) - {0}) for mask in label] == [most] * 5


def test_refused_samples_leave_gaps_and_a_bank_goes_on_behind_them(pair):
    stream = SampleStream([Member(load_generator(pair), 1.0)], seed=0)
    screened = stream.screened(10, Filters((), {}), chunk=8)
    assert [next(screened).number for _ in range(20)] == list(range(10, 30))


class Recorder:
    """In the place of a generator, it notes which samples are generated together."""

    def __init__(self, plan):
        self.plan, self.calls = plan, []

    def sample_numbers(self, numbers, *, seed, request, masks):
        self.calls.append(list(numbers))
        label = masks.sample(seed, numbers, request)[0] if masks else np.zeros((len(numbers), 2, 2), np.int16)
        return SampleSet(np.zeros((len(numbers), 1, *label.shape[1:]), np.float32), label)


@pytest.mark.parametrize("first", [8, 10, 15])
def test_what_is_drawn_together_does_not_depend_on_where_filling_was_stopped(first):
    generator, filters = Recorder(tiny_plan()), Filters((), {})
    stream = SampleStream([Member(generator, 1.0)], seed=0)
    assert [sample.number for sample in islice(stream.screened(first, filters, chunk=8), 12)] == [
        *range(first, first + 12)
    ]
    assert generator.calls[:2] == [list(range(8, 16)), list(range(16, 24))]


# --- given masks are screened before they get images


class Numbered:
    """Masks that show their number; with voxels to be ignored."""

    def sample(self, seed, numbers, request=SampleRequest()):
        label = np.zeros((len(numbers), 8, 6), np.int16)
        label[:, 0, 0] = np.array(numbers) % 3
        label[:, 4:] = IGNORE
        return label, np.full(len(numbers), 0.5, np.float32)


class Ones(Filter):
    """Refuses masks that show class 1."""

    name, problem, of_masks = "ones", "shows class 1", True

    def __init__(self):
        super().__init__(None)
        self.seen = []

    def allows(self, samples):
        self.seen.append(samples)
        return ~(samples.label == 1).reshape(len(samples), -1).any(axis=1)


def test_no_image_is_generated_for_a_given_mask_that_a_filter_of_masks_refuses():
    generator, filter_ = Recorder(tiny_plan("image", ignore=IGNORE)), Ones()
    stream = SampleStream([Member(generator, 1.0, Numbered())], seed=0)
    screened = list(islice(stream.screened(2, Filters((filter_,), {}), chunk=6), 10))
    assert generator.calls == [[0, 2, 3, 5], [6, 8, 9, 11]]
    assert [sample.number for sample in screened] == list(range(2, 12))
    assert [sample.refused_by for sample in screened] == ["ones" if n % 3 == 1 else None for n in range(2, 12)]
    assert [len(sample.image) for sample in screened] == [0 if n % 3 == 1 else 1 for n in range(2, 12)]
    for label in [sample.label for sample in screened if sample.refused_by] + [filter_.seen[0].label]:
        assert not (label == IGNORE).any()  # as in the samples of a generator


def test_a_chunk_of_masks_that_are_all_refused_generates_nothing():
    generator = Recorder(tiny_plan("image"))
    always = SimpleNamespace(sample=lambda seed, numbers, request: (np.ones((len(numbers), 8, 6), np.int16), [0.5] * 4))
    stream = SampleStream([Member(generator, 1.0, always)], seed=0)
    screened = islice(stream.screened(0, Filters((Ones(),), {}), chunk=4), 8)
    assert [sample.refused_by for sample in screened] == ["ones"] * 8
    assert not generator.calls


class Small(Filter):
    """Refuses masks that show less foreground than most."""

    name, problem, of_masks = "small", "shows little", True

    def __init__(self, plan):
        super().__init__(None)
        self.least = np.prod(plan.patch_size) / 4

    def allows(self, samples):
        return (samples.label > 0).reshape(len(samples), -1).sum(axis=1) >= self.least


def test_the_same_samples_enter_whether_masks_are_screened_before_or_after(image, pair):
    generator = load_generator(image)
    members = [Member(generator, 2.0, open_masks("deformed", generator.plan)), Member(load_generator(pair), 1.0)]
    before, after = Small(generator.plan), Small(generator.plan)
    after.of_masks = False
    stream, found = SampleStream(members, seed=3, balanced=True), []
    for filter_ in (before, after):
        found.append(list(islice(stream.screened(0, Filters((filter_,), {}), chunk=16), 48)))
    first, second = found
    assert [sample.refused_by for sample in first] == [sample.refused_by for sample in second]
    assert 0 < sum(sample.refused_by is not None for sample in first) < 48
    assert any(len(sample.image) == 0 for sample in first)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.label, other.label)
        if one.refused_by is None:
            assert_rounded(one.image, other.image, terms=NETWORK)


def contents(folder):
    dataset = BankDataset(str(folder))
    cases = [dataset.load_case(name) for name in sorted(dataset.identifiers)]
    return [np.concatenate([case[part][:] for case in cases], axis=1) for part in (0, 1)]


def test_an_ensemble_fills_a_bank_and_stands_in_its_record(preprocessed, pair, other):
    request = FillRequest(
        samples=70, snapshots=(parse_snapshot(f"{pair}=2"), parse_snapshot(str(other))), without=STRICT
    )
    folder = fill_bank(preprocessed, "0", request)
    record = BankRecord.load(folder / RECORD_FILE)
    assert folder.name == "ensemble_2_0k"
    assert [snapshot.weight for snapshot in record.origin.snapshots] == [2.0, 1.0]
    assert record.origin.snapshots[0].weights_sha256 != record.origin.snapshots[1].weights_sha256
    with pytest.raises(UserError, match="exists with other snapshots"):
        fill_bank(
            preprocessed, "0", FillRequest(samples=70, snapshots=((pair, 1.0),), name=folder.name, without=STRICT)
        )
    shutil.rmtree(folder)


@pytest.mark.parametrize("masks", [None, "blended", "real", "snapshot"])
def test_images_are_drawn_for_the_masks_that_are_wanted(preprocessed, image, mask, masks):
    text = str(mask) if masks == "snapshot" else masks
    folder = fill_bank(preprocessed, "0", FillRequest(samples=6, snapshots=((image, 1.0),), masks=text, without=STRICT))
    record = BankRecord.load(folder / RECORD_FILE)
    assert record.origin.masks == {None: "deformed", "snapshot": "generated"}.get(masks, masks)
    generator = load_generator(image)
    source = open_masks(text or "deformed", generator.plan)
    expected = generator.sample(6, masks=source)
    assert np.array_equal(contents(folder)[1][0], expected.label)
    assert (record.origin.mask_snapshot is None) == (masks != "snapshot")
    shutil.rmtree(folder)


def test_a_bank_counts_and_shows_masks_that_got_no_image(preprocessed, image, monkeypatch):
    computed, sample = [], PairGenerator.sample_numbers

    def counted(self, numbers, **how):
        computed.extend(numbers)
        return sample(self, numbers, **how)

    monkeypatch.setattr(PairGenerator, "sample_numbers", counted)
    monkeypatch.setattr(Anatomy, "allows", lambda self, samples: (samples.label == 1).sum(axis=(1, 2)) % 3 > 0)
    without = tuple({*FILTERS} - {"anatomy"})
    folder = fill_bank(preprocessed, "0", FillRequest(samples=64, snapshots=((image, 1.0),), without=without))
    record = BankRecord.load(folder / RECORD_FILE)
    refused = record.filters["anatomy"].refused
    assert refused == record.generated - 64 > 0
    assert len(computed) <= -(-record.generated // CHUNK[2]) * CHUNK[2] - refused
    assert refused_picture(folder, "anatomy").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("images", "name"), [(0, "0k"), (100, "0.1k"), (528, "0.528k"), (6000, "6k"), (24_990, "25k"), (1_200_400, "1200k")]
)
def test_the_name_of_a_bank_says_how_many_images_its_generator_saw(images, name):
    assert FillRequest(samples=1).default_name([SimpleNamespace(variant="pair", images_seen=images)]) == f"pair_{name}"


def test_the_command_that_trains_a_missing_generator_names_the_plans(preprocessed):
    tiny = open_preprocessed(preprocessed.dataset_name, preprocessed.configuration_name, TINY_PLANS)
    with pytest.raises(UserError, match=rf"stylegan2-cond train .* -p {TINY_PLANS} --variant image"):
        fill_bank(tiny, "0", FillRequest(samples=4, variant="image"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (lambda s: {"snapshots": (parse_snapshot(f"{s['pair']}=none"),)}, "--snapshot .*'none'"),
        (lambda s: {"snapshots": (parse_snapshot(f"{s['pair']}=-1"),)}, "--snapshot .*'-1'"),
        (lambda s: {"snapshots": ((s["pair"], 1.0),), "masks": "real"}, "--masks real"),
        (lambda s: {"snapshots": ((s["mask"], 1.0),)}, "masks only"),
        (lambda s: {"snapshots": ((s["image"], 1.0),), "masks": "generated"}, r"No snapshot in .*--variant mask"),
        (lambda s: {"variant": "image"}, r"No snapshot in .*--variant image"),
        (lambda s: {"snapshots": ((s["pair"], 1.0), (s["small"], 1.0))}, "patches of"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    preprocessed, make_snapshot, pair, mask, image, plan, options, problem
):
    patch_size = tuple(length - 2 for length in plan.patch_size)
    snapshots = {"pair": pair, "mask": mask, "image": image, "small": make_snapshot(seed=2, patch_size=patch_size)}
    with pytest.raises(UserError, match=problem):
        fill_bank(preprocessed, "0", FillRequest(samples=4, **options(snapshots), without=STRICT))
