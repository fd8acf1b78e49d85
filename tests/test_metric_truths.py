"""On real slices: each degradation worsens the metrics that can see it, and no others."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from stylegan2_cond.metrics import SampleSet, compare
from stylegan2_cond.metrics.features import RandomPyramid

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDER = Path(os.environ.get("NNUNET_SYNTH_TEST_DATA", SHARED)) / "hippocampus/nnUNet_raw/Dataset004_Hippocampus"
PATCH_SIZE = (44, 33)
CASES, EACH = 40, 10

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (FOLDER / "imagesTr").is_dir(), reason=f"no Hippocampus data in {FOLDER}"),
]

DIVERSITIES = ("diversity-within", "diversity-nearest")
IMAGES = {"kid", "frechet", "precision", "coverage", "swd", "diversity-nearest"}


def centred(volume):
    """`[z, y, x]` → `[z, *PATCH]`, zeros where the volume ends."""
    for axis, length in enumerate(PATCH_SIZE, start=1):
        missing = length - volume.shape[axis]
        before = abs(missing) // 2
        if missing > 0:
            volume = np.pad(volume, [(before, missing - before) if a == axis else (0, 0) for a in range(3)])
        else:
            volume = np.take(volume, range(before, before + length), axis=axis)
    return volume


@pytest.fixture(scope="module")
def slices():
    """Ten slices of the middle of each of forty cases."""
    import SimpleITK

    image, label, case = [], [], []
    for path in sorted((FOLDER / "labelsTr").glob("*.nii.gz"))[:CASES]:
        name = path.name.removesuffix(".nii.gz")
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(FOLDER / "imagesTr" / f"{name}_0000.nii.gz"))
        found = (found - found.mean()) / found.std()
        rows = np.linspace(len(found) // 4, 3 * len(found) // 4, EACH).astype(int)
        image.append(centred(found)[rows, None])
        label.append(centred(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))[rows])
        case += [name] * EACH
    return SampleSet(np.concatenate(image).astype(np.float32), np.concatenate(label).astype(np.int16), np.array(case))


@pytest.fixture(scope="module")
def halves(slices):
    """The same slices dealt to two sides, so that both are one distribution."""
    order = np.random.default_rng(0).permutation(len(slices))
    return slices.take(order[: len(order) // 2]), slices.take(order[len(order) // 2 :])


def judge(real, generated, *metrics):
    return {name: result.value for name, result in compare(real, generated, metrics, RandomPyramid()).items()}


def series(real, changed, *metrics):
    """`{metric: its values}` as the change grows."""
    found = [judge(real, generated, *metrics) for generated in changed]
    return {name: [one[name] for one in found] for name in found[0]}


def rises(values):
    return all(np.diff(values) > 0)


def falls(values):
    return all(np.diff(values) < 0)


def assert_untouched(before, after, names):
    for name in names:
        assert after[name] == before[name], name


def changed(samples, image=None, label=None):
    return SampleSet(samples.image if image is None else image, samples.label if label is None else label, samples.case)


def test_two_halves_of_the_same_slices_are_one_distribution(halves):
    alone = [SampleSet(half.image, half.label) for half in halves]
    results = compare(*alone, ["kid", "kid-pair", "masks", *DIVERSITIES, "coverage"], RandomPyramid())
    for name in ("kid", "kid-pair"):
        assert abs(results[name].value) < 3 * results[name].standard_error, name
    for name in DIVERSITIES:
        assert results[name].value == pytest.approx(1, abs=0.1), name
        assert abs(results[name].value - 1) < 4 * results[name].standard_error, name
    assert results["coverage"].value > 0.9  # 1 − 2⁻⁵
    assert results["masks"].value < 0.15


def test_slices_of_other_cases_are_not_taken_for_another_kind(slices):
    first, second = slices.take(slice(0, CASES * EACH // 2)), slices.take(slice(CASES * EACH // 2, None))
    for name, result in compare(first, second, ["kid", "kid-pair"], RandomPyramid()).items():
        assert abs(result.value) < 3 * result.standard_error, name


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_blur_and_noise_are_seen_the_more_the_stronger(halves, kind):
    real, other = halves
    noise = np.random.default_rng(1).standard_normal(other.image.shape).astype(np.float32)
    worse = {
        "blur": [ndimage.gaussian_filter(other.image, (0, 0, sigma, sigma)) for sigma in (0, 0.8, 1.2, 1.6)],
        "noise": [other.image + amount * noise for amount in (0, 0.2, 0.3, 0.4)],
    }[kind]
    far, near = ("kid", "kid-pair", "frechet", "swd"), ("precision", "coverage")
    found = series(real, [changed(other, image) for image in worse], *far, *near, "masks")
    for name in far:
        assert rises(found[name]), (name, found[name])
    for name in near:
        assert falls(found[name]), (name, found[name])
    assert len(set(found["masks"])) == 1


def test_masks_that_lost_a_class_are_seen_by_what_looks_at_masks_alone(halves):
    real, other = halves
    order = np.random.default_rng(2).permutation(len(other))
    generated = []
    for share in (0, 0.25, 0.5, 1):
        label = other.label.copy()
        gone = order[: round(share * len(other))]
        label[gone] = np.where(label[gone] == 1, 0, label[gone])
        generated.append(changed(other, label=label))
    found = series(real, generated, "masks", "kid-pair", *IMAGES)
    assert rises(found["masks"]), found["masks"]
    assert rises(found["kid-pair"]), found["kid-pair"]
    for name in IMAGES:
        assert len(set(found[name])) == 1, name
    assert compare(real, generated[-1], ["masks"])["masks"].warning == "class 1 missing in generated masks"


def test_masks_of_other_images_are_seen_by_pairs_alone(halves):
    real, other = halves
    shuffled = changed(other, label=np.random.default_rng(3).permutation(other.label))
    names = IMAGES | {"masks", "kid-pair"}
    fitting, mixed = judge(real, other, *names), judge(real, shuffled, *names)
    assert_untouched(fitting, mixed, IMAGES)
    assert mixed["masks"] == pytest.approx(fitting["masks"], rel=1e-9)
    error = compare(real, shuffled, ["kid-pair"], RandomPyramid())["kid-pair"].standard_error
    assert mixed["kid-pair"] > fitting["kid-pair"] + 3 * error


def test_few_patches_again_and_again_lose_variety(halves):
    real, other = (SampleSet(half.image, half.label) for half in halves)
    generated = [other.take(np.arange(len(other)) % distinct) for distinct in (200, 80, 40, 10)]
    found = series(real, generated, "coverage", "precision")
    assert falls(found["coverage"]), found["coverage"]
    assert min(found["precision"]) > 0.8  # each of them still looks real


def test_twins_are_seen_by_the_nearest_distance(halves):
    real, other = (SampleSet(half.image, half.label) for half in halves)
    generated = [other.take(np.arange(len(other)) % distinct) for distinct in (200, 150, 120, 100)]
    found = series(real, generated, "diversity-nearest")["diversity-nearest"]
    first, *_, last = found
    expected = [first * share for share in (1, 0.5, 0.2, 0)]  # patches without a twin
    assert found == pytest.approx(expected, abs=0.08)
    assert last < 0.01


def test_what_is_real_is_no_copy_and_what_is_copied_is_one(slices):
    real, fresh = slices.take(slice(0, 300)), slices.take(slice(300, None))
    noise = np.random.default_rng(4).standard_normal(real.image.shape).astype(np.float32)
    spread = 0.05 * np.ptp(real.image, axis=(1, 2, 3), keepdims=True)
    moved = np.roll(real.image, (2, -1), axis=(2, 3))
    for copies in (moved, 2 * real.image - 1, real.image + spread * noise):
        assert judge(real, SampleSet(copies), "copies")["copies"] >= 99
    assert judge(real, SampleSet(fresh.image), "copies")["copies"] <= 2
