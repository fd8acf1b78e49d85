"""Filters let real patches pass, refuse what each is there to refuse, and count it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import STRICT
from scipy import ndimage

from nnunet_synth.bank import MARGIN, filters
from nnunet_synth.bank.calibration import FilterCalibration
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.filters import FILTERS, Anatomy, Copy, FilterOff, Filters, Fit, Range
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.request import FillRequest
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import TEXT_LOG
from stylegan2_cond.metrics import memorization
from stylegan2_cond.metrics.reference_sets import ReferenceSet


class Oracle:
    """In the place of nnU-Net: it sees the class wherever the first channel is bright."""

    def segment(self, samples):
        return (samples.image[:, 0] > 0.5).astype(np.int16)

    def __call__(self, samples):
        import torch

        return torch.from_numpy(samples.image.reshape(len(samples), -1))


def disc(rng, radius, side=32):
    """A bright disc on noise, and its mask."""
    y, x = np.indices((side, side)) - rng.uniform(12, 20, 2).reshape(2, 1, 1)
    mask = y**2 + x**2 < radius**2
    texture = ndimage.gaussian_filter(rng.standard_normal((side, side)), 2)
    return (mask + 0.2 * texture / texture.std()).clip(-0.45, 1.45)[None].astype(np.float32), mask.astype(np.int16)


def discs(rng, count, radii=(4, 8), cases=20):
    image, label = zip(*(disc(rng, rng.uniform(*radii)) for _ in range(count)), strict=True)
    return SampleSet(np.stack(image), np.stack(label), np.array([f"case_{i % cases:02d}" for i in range(count)]))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def calibrated(real, cover=None, labels=(0, 1), nnunet=None, margin=0.0):
    """A calibration on these patches; copies are searched for among the same, or in `cover`."""
    reference = SimpleNamespace(real=real, cover=SimpleNamespace(patches=real if cover is None else cover))
    return FilterCalibration(reference, labels, nnunet, margin)


@pytest.fixture
def calibration(rng):
    real = discs(rng, 400)
    image = np.where(real.label[:, None] > 0, real.image.clip(0.55), real.image.clip(None, 0.45))
    real = SampleSet(image.astype(np.float32), real.label, real.case)
    return calibrated(real, nnunet=Oracle())


def test_real_patches_pass_every_filter_as_often_as_its_limits_say(calibration):
    real = calibration.reference.real
    verdicts = Filters.calibrate(calibration).screen(SampleSet(real.image, real.label))[1]
    # RARE at three limits, FIT_RARE at one. Copies are not asked for: these are all.
    refused = [verdict for verdict in verdicts if verdict not in (None, "copy")]
    assert len(refused) <= len(verdicts) * (4 * filters.RARE + filters.FIT_RARE)


def change(samples, **parts):
    return SampleSet(parts.get("image", samples.image.copy()), parts.get("label", samples.label.copy()))


def test_intensities_that_are_no_numbers_are_refused_first(calibration):
    real = calibration.reference.real
    drawn = change(real.take(slice(4)))
    drawn.image[2, 0, 3, 3] = np.nan
    assert Filters.calibrate(calibration, without=("copy",)).screen(drawn)[1] == [None, None, "finite", None]


@pytest.mark.parametrize(("margin", "allowed"), [(0.0, False), (0.2, True)])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_range_is_that_of_real_patches_and_a_margin(calibration, margin, allowed, side):
    real = calibration.reference.real
    filter_ = Range(calibrated(real, margin=margin))
    least, most = real.image.min(), real.image.max()
    drawn = change(real.take(slice(2)))
    drawn.image[0, 0, :8] = (most if side > 0 else least) + side * 0.1 * (most - least)
    assert filter_.allows(drawn).tolist() == [allowed, True]
    drawn.image[0] = np.nan
    assert filter_.allows(drawn).tolist() == [False, True]


def test_a_few_voxels_beyond_the_range_are_clipped_and_many_are_refused(calibration):
    real = calibration.reference.real
    filter_ = Range(calibration)
    least, most = real.image.min(), real.image.max()
    voxels = real.image[0].size
    drawn = change(real.take(slice(3)))
    few = int(filters.MOST_OUTSIDE * voxels)
    drawn.image[0].reshape(-1)[:few] = most + 7
    drawn.image[1].reshape(-1)[: few + 1] = least - 7
    assert filter_.allows(drawn).tolist() == [True, False, True]
    entering, refused_by, corrected_by = Filters((filter_,), {}).screen(drawn)
    assert (refused_by, corrected_by) == ([None, "range", None], [["range"], [], []])
    assert np.array_equal(entering.image, drawn.image.clip(least, most))
    assert entering.label is drawn.label


def test_a_refusal_by_range_names_the_channel_and_how_far_it_reaches(calibration):
    real = calibration.reference.real
    two = change(
        real,
        image=np.concatenate([real.image, 2 * real.image], axis=1),
    )
    filter_ = Range(calibrated(two))
    drawn = change(two.take(slice(2)))
    drawn.image[1, 1, :16] = 40.5
    text = filter_.explain(drawn.image)
    assert "channel 1" in text
    assert "50.0%" in text
    assert "40.5" in text
    assert f"{two.image[:, 1].max():.3g}" in text


def masks_of(*boxes):
    label = np.zeros((len(boxes), 32, 32), np.int16)
    for mask, parts in zip(label, boxes, strict=True):
        for value, *box in parts:
            mask[box[0] : box[1], box[2] : box[3]] = value
    return SampleSet(np.zeros((len(boxes), 1, 32, 32), np.float32), label)


def test_masks_unlike_any_real_one_are_refused(calibration):
    drawn = masks_of(
        [(1, 10, 20, 10, 20)],  # like a disc
        [(1, 2, 30, 2, 30)],  # too large
        [(1, 10, 11, 10, 11)],  # too small
        [(1, 4, 10, 4, 10), (1, 20, 26, 20, 26)],  # in two pieces
        [(1, 10, 20, 10, 20), (0, 14, 15, 14, 15)],  # with a hole
        [],  # empty, as no real patch is
    )
    assert Anatomy(calibration).allows(drawn).tolist() == [True, False, False, False, False, False]


def test_masks_of_further_cases_are_refused_rarely_however_few_the_calibration_knows(rng):
    def masks(cases):
        """Ten equal patches of each case, as 3-D patches that hold all of a structure are."""
        heights = np.repeat(rng.normal(16, 2, cases).round().astype(int), 10)
        drawn = masks_of(*[[(1, 2, 2 + height, 4, 8)] for height in heights])
        return SampleSet(drawn.image, drawn.label, np.repeat([f"case_{number}" for number in range(cases)], 10))

    refused = [1 - Anatomy(calibrated(masks(4))).allows(masks(20)).mean() for _ in range(20)]
    assert np.mean(refused) < 0.06  # Student's t, 3 degrees of freedom: 0.02; 4 standard errors more; unwidened 0.4
    one, many = (Anatomy(calibrated(masks(known))).limits["class 1 area maximum"] for known in (1, 200))
    assert one > 1
    assert many == pytest.approx((16 + 2.58 * 2) * 4 / 32**2, rel=0.1)


def test_classes_that_real_patches_never_show_together_are_refused():
    real = masks_of([(1, 4, 9, 4, 9)], [(2, 4, 9, 4, 9)], [])
    filter_ = Anatomy(calibrated(real, labels=(0, 1, 2)))
    drawn = masks_of([(1, 4, 9, 4, 9)], [], [(1, 4, 9, 4, 9), (2, 14, 19, 14, 19)])
    assert filter_.allows(drawn).tolist() == [True, True, False]


def torsos(rng, classes, cases, slices, side=32):
    """Slices of volumes in which so many organs follow one another, each over a part of the length; some overlap."""
    grid = int(np.ceil(classes**0.5))
    cell = side // grid
    centre, half = np.linspace(0.03, 0.97, classes), np.random.default_rng(1).uniform(0.05, 0.25, classes)
    label = np.zeros((cases * slices, side, side), np.int16)
    for case in range(cases):
        shift, there = rng.normal(0, 0.02) + rng.normal(0, 0.01, classes), rng.random(classes) < 0.8
        for mask, place in zip(label[case * slices :], rng.random(slices), strict=False):
            off = ((place - centre - shift) / half) ** 2
            for organ in np.flatnonzero(there & (off < 1)):
                y, x = np.array(divmod(organ, grid)) * cell
                length = max(1, round(cell * (1 - off[organ]) ** 0.5))
                mask[y : y + length, x : x + length] = organ + 1
    return SampleSet(np.zeros((len(label), 1, side, side), np.float32), label)


@pytest.mark.parametrize("classes", [13, 50])
def test_of_many_classes_masks_of_other_cases_pass_and_impossible_pairs_do_not(rng, classes):
    real, other = torsos(rng, classes, cases=20, slices=25), torsos(rng, classes, cases=8, slices=25)
    filter_ = Anatomy(calibrated(real, labels=tuple(range(classes + 1)), margin=MARGIN))
    shown = [frozenset(np.unique(mask)) for mask in (*real.label, *other.label)]
    assert len(set(shown[len(real) :]) - set(shown[: len(real)])) > 2  # combinations that are new
    assert filter_.allows(other).mean() > 0.9
    assert not any({1, classes} <= seen for seen in shown)
    lowest = next(mask for mask in other.label if classes in mask)
    upper = other.take([1 in seen for seen in shown[len(real) :]])
    mixed = np.where(lowest == classes, classes, upper.label)  # the lowest organ in slices of the uppermost
    assert len(upper) > 3
    assert not filter_.allows(SampleSet(upper.image, mixed)).any()


def test_of_many_classes_an_empty_mask_or_a_class_that_no_real_one_shows_is_refused():
    real = masks_of(*[[(1 + number % 11, 4, 9, 4, 9)] for number in range(22)])
    filter_ = Anatomy(calibrated(real, labels=tuple(range(13))))
    drawn = masks_of([(3, 4, 9, 4, 9)], [], [(12, 4, 9, 4, 9)], [(3, 4, 9, 4, 9), (4, 14, 19, 4, 9)])
    assert filter_.allows(drawn).tolist() == [True, False, False, False]


def test_a_mask_that_nnunet_does_not_see_is_refused(calibration):
    real = calibration.reference.real
    moved = change(real.take(slice(3)))
    moved.label[1] = np.roll(moved.label[1], 14, axis=0)
    assert Fit(calibration).allows(moved).tolist() == [True, False, True]


def test_without_an_nnunet_the_filter_is_off_and_says_so(calibration):
    real = calibration.reference.real
    made = Filters.calibrate(calibrated(real, margin=0.0), without=("copy",))
    records = made.records()
    assert list(records) == list(FILTERS)
    assert records["fit"].off == "no nnU-Net was trained on the real cases of the fold"
    assert records["copy"].off == "not wanted"
    assert records["range"].off is None
    with pytest.raises(FilterOff, match=r"found 2\b"):
        Copy(calibrated(real, discs(np.random.default_rng(1), 8, cases=2), nnunet=Oracle()))


def test_copies_are_refused_and_others_are_not(calibration, rng):
    real = calibration.reference.real
    shifted = np.roll(real.image[:20], 1, axis=3) + rng.normal(0, 0.02, (20, 1, 32, 32)).astype(np.float32)
    fresh = discs(rng, 40)
    filter_ = Copy(calibration)
    assert not filter_.allows(SampleSet(shifted, real.label[:20])).any()
    assert filter_.allows(SampleSet(fresh.image, fresh.label)).mean() > 0.9


def test_what_is_usual_of_real_patches_is_looked_up_once(calibration, tmp_path, monkeypatch):
    real = calibration.reference.real
    calibration = replace(calibration, nnunet=None)
    plain, searched, search = Copy(calibration), [], memorization.nearest_cases

    def counted(queries, *rest, **more):
        searched.append(len(queries))
        return search(queries, *rest, **more)

    monkeypatch.setattr(memorization, "nearest_cases", counted)
    kept = replace(calibration, cache=tmp_path / "kept")
    first, second = Copy(kept), Copy(kept)
    assert first.limits == second.limits == plain.limits
    assert searched == [len(real)]
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert Copy(kept).limits == plain.limits  # what is damaged is found again
    (tmp_path / "file").touch()
    assert Copy(replace(calibration, cache=tmp_path / "file")).limits == plain.limits  # nothing can be kept there


def test_the_first_filter_that_refuses_is_told(calibration):
    drawn = masks_of([(1, 2, 30, 2, 30)])
    drawn.image[0] += 9
    assert Filters.calibrate(calibration).screen(drawn)[1] == ["range"]
    assert Filters.calibrate(calibration, without=("range",)).screen(drawn)[1] == ["anatomy"]


def test_real_patches_of_a_preprocessed_fold_pass(preprocessed, plan):
    """Cut anew, they are refused about as rarely as the limits promise."""
    reference = ReferenceSet(preprocessed, plan, 300)
    calibration = FilterCalibration(reference, plan.codec.labels, None, 0.0)
    verdicts = Filters.calibrate(calibration, without=("copy",)).screen(reference.again)[1]
    assert sum(verdict is not None for verdict in verdicts) <= 0.06 * len(verdicts)


class Refusing(filters.Filter):
    """About every third sample, decided by the sample itself."""

    name, problem = "range", "is refused for a test"

    def allows(self, samples):
        return np.abs(samples.image.reshape(len(samples), -1)).sum(axis=1).round(2) * 100 % 3 > 1


class RefusingAll(Refusing):
    def allows(self, samples):
        return np.zeros(len(samples), bool)


def test_a_bank_counts_and_shows_what_its_filters_refused(preprocessed, generator_run, monkeypatch):
    monkeypatch.setitem(filters.FILTERS, "range", Refusing)
    folder = fill_bank(preprocessed, "0", FillRequest(samples=100, name="counted", without=("anatomy", "fit", "copy")))
    record = BankRecord.load(folder / RECORD_FILE)
    refused = record.filters["range"].refused
    assert refused > 10
    assert record.samples == 100
    assert record.generated == 100 + refused
    numbers = [number for shard in record.shards for number in shard.numbers]
    assert numbers == sorted(set(numbers))
    assert (folder / "refused_range.png").exists()
    assert not (folder / "refused_finite.png").exists()


def test_filling_gives_up_when_the_filters_refuse_nearly_all(preprocessed, generator_run, monkeypatch):
    monkeypatch.setitem(filters.FILTERS, "range", RefusingAll)
    with pytest.raises(UserError, match=r"refused 64 of 64 samples, most of them the filter 'range'.*--without range"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, name="hopeless", without=("anatomy", "fit", "copy")))
    folder = banks_folder(preprocessed.base, "nnUNetPlans_2d", 0) / "hopeless"
    assert sorted(path.name for path in folder.iterdir()) == [RECORD_FILE, TEXT_LOG, "refused_range.png"]
    fill_bank(
        preprocessed, "0", FillRequest(samples=10, name="hopeless", without=STRICT)
    )  # an empty bank does not keep its name
    assert BankRecord.load(folder / RECORD_FILE).samples == 10
    assert not (folder / "refused_range.png").exists()


def test_a_bank_goes_on_with_the_filters_that_it_was_begun_with(preprocessed, generator_run, monkeypatch):
    without = ("anatomy", "fit", "copy")
    monkeypatch.setattr(filters.Range, "allows", lambda self, samples: np.ones(len(samples), bool))
    folder = fill_bank(preprocessed, "0", FillRequest(samples=10, name="begun", without=without))
    learn = filters.Range.__init__

    def other(self, calibration):
        learn(self, calibration)
        self.limits["channel 0 maximum"] += 1

    monkeypatch.setattr(filters.Range, "__init__", other)
    with pytest.raises(UserError, match=r"Filter 'range' of bank .*begun .*--name"):
        fill_bank(preprocessed, "0", FillRequest(samples=20, name="begun", without=without))
    assert BankRecord.load(folder / RECORD_FILE).samples == 10


def test_a_filter_that_is_not_there_is_named_with_those_that_are(preprocessed):
    with pytest.raises(UserError, match=r"--without fitness: .*fit, copy, all"):
        fill_bank(preprocessed, "0", FillRequest(samples=10, without=("fitness",)))


def test_strict_filters_are_filters():
    assert set(STRICT) < set(FILTERS)
