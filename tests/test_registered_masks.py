"""Registered masks: a labelled case takes the shape of a scan, and a bank says which scans its masks came from."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from conftest import STRICT
from raw_files import write_record
from scipy import ndimage

from nnunet_synth.bank import registered_masks
from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import (
    BankRecord,
    TrueLabels,
    shard_name,
    write_shard,
)
from nnunet_synth.bank.inspection.page import inspect_bank
from nnunet_synth.bank.registered_masks import FOLDER, open_registered_masks
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.bank.resume import fill_command
from nnunet_synth.training.leak_guard import LeakError, refuse_leaks
from stylegan2_cond.data.case_hashes import case_hashes, hash_image
from stylegan2_cond.data.mask_deformation import Deformation, deform
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.registration import register
from stylegan2_cond.data.scans import BankDataset, LabelledScan
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.networks import build_generator
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import save_snapshot

BENT = Deformation(rotation=6, scale=0.15, shear=0.05, translation=0.15, elastic=0.04)


def draw_anatomy(shape, seed=None):
    """Image and label of two nested ellipsoids with a bump; of a seed, in another shape and place."""
    places = np.indices(shape)
    middle = np.reshape(np.array(shape) / 2, (-1, *[1] * len(shape)))
    away = np.square((places - middle) / (middle / 2)).sum(axis=0)
    label = np.digitize(-away, [-1, -0.3]).astype(np.int16)
    if seed is not None:
        label = deform(label, np.random.default_rng(seed), BENT)
    image = ndimage.gaussian_filter(np.array([0.0, 1.0, 2.5])[label], 0.7)
    return image + 0.05 * np.random.default_rng(seed).normal(size=shape), label


def dice(one, other):
    return np.mean([2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum()) for v in (1, 2)])


@pytest.mark.parametrize(("shape", "slices"), [((40, 36), 0), ((40, 36), 1), ((40, 36), 5), ((28, 32, 26), 0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_label_takes_the_shape_that_it_has_in_the_scan(shape, slices, seed):
    (image, label), (scan, truth) = (
        [np.repeat(array[None], slices, axis=0) if slices else array for array in draw_anatomy(shape, number)]
        for number in (None, seed)
    )
    found = register(scan, truth, image, label, [9.0, 1.0, 1.0][-scan.ndim :])
    assert dice(found.label, truth) > 0.9 > dice(label, truth)
    assert found.correlation > 0.9
    assert (found.label.shape, found.label.dtype) == (scan.shape, np.int16)


def test_images_may_have_other_shapes_and_the_rough_label_decides_only_where_to_look():
    image, label = draw_anatomy((28, 32, 26))
    scan, truth = draw_anatomy((34, 30, 33), seed=3)
    rough = np.where(ndimage.binary_dilation(truth > 0, iterations=2), 1, 0)
    rough[:, :3] = OUTSIDE
    found = register(scan, rough, image, label, (1, 1, 1))
    assert dice(found.label, truth) > 0.8
    assert ((found.label == OUTSIDE) == (rough == OUTSIDE)).all()


def test_what_cannot_be_registered_is_none_and_another_anatomy_does_not_correlate():
    image, label = draw_anatomy((24, 24))
    nothing = np.zeros_like(label)
    assert register(image, nothing, image, label, (1, 1)) is None
    assert register(image, label, image, nothing, (1, 1)) is None
    noise = np.random.default_rng(0).normal(size=image.shape)
    found = register(noise, label, image, label, (1, 1))
    assert found is None or found.correlation < 0.5


def test_a_registration_can_be_repeated():
    image, label = draw_anatomy((24, 28, 22))
    scan, truth = draw_anatomy((24, 28, 22), seed=5)
    once, again = (register(scan, truth, image, label, (1, 1, 1)) for _ in range(2))
    assert np.array_equal(once.label, again.label)
    assert once.correlation == again.correlation


def test_a_structure_of_a_few_voxels_does_not_vanish():
    image, label = draw_anatomy((24, 28, 22))
    label[12:14, 14:16, 11:13] = 3
    found = register(image, label, image, label, (1, 1, 1))
    assert set(np.unique(found.label)) == {0, 1, 2, 3}


def test_an_image_without_contrast_does_not_correlate():
    _, label = draw_anatomy((24, 24))
    found = register(np.zeros((24, 24)), label, np.ones((24, 24)), label, (1, 1))
    assert found is None or found.correlation == 0


# --- a bank's masks


@pytest.fixture(scope="module")
def image(preprocessed, plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots") / "image"
    own = plan.model_copy(update={"variant": "image"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_snapshot(folder, build_generator(own), own, 0)
    return folder


@pytest.fixture
def scans(preprocessed):
    """A bank of two scans: a training case, moved and noisy, and a validation case that the bank lets in."""
    fold, shards, entered = preprocessed.fold(0), [], []
    folder = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, 0) / "scans"
    folder.mkdir(parents=True)
    for place, (name, validation) in enumerate([(fold.training[0], None), (fold.validation[0], "validation case x")]):
        case = preprocessed.load(name)
        image, label = (np.roll(np.asarray(array[:]), 2, axis=2) for array in (case.image, case.label))
        image = image + np.random.default_rng(place).normal(0, 0.02, image.shape).astype(np.float32)
        arrays = image, label.astype(np.int16)
        shards.append(write_shard(folder, shard_name(place), *arrays, [place], place + 1, preprocessed))
        sha256 = hash_image(image)
        entered.append(LabelledScan(name=f"scan_{place}", image_sha256=sha256, evaluation_case=validation))
    BankRecord(
        name="scans", source=Source.of(preprocessed, fold), origin=TrueLabels(scans=entered), requested=2,
        shards=shards, created="2030", release="0",
    ).save(folder / RECORD_FILE)  # fmt: skip
    yield folder
    shutil.rmtree(folder)


def request(image, **options):
    return FillRequest(**{"samples": 6, "masks": "registered", "without": STRICT, **options}, snapshots=((image, 1.0),))


def test_masks_of_a_bank_are_patches_of_deformed_cases_and_its_record_names_their_scans(
    preprocessed, image, plan, scans
):
    folder = fill_bank(preprocessed, "0", request(image))
    record = BankRecord.load(folder / RECORD_FILE)
    assert folder.name.startswith("image_registered")
    assert (record.origin.masks, record.origin.mask_scans.bank) == ("registered", "scans")
    assert [scan.name for scan in record.origin.mask_scans.scans] == ["scan_0"]  # not the validation case
    assert record.origin.mask_scans.pairs == len(preprocessed.fold(0).training)
    masks, _ = open_registered_masks(preprocessed, plan, "scans")
    assert np.array_equal(BankDataset(str(folder)).load_case(shard_name(0))[1][0], masks.sample(0, range(6))[0])
    of_itself = masks.patches.cases.labels[f"{preprocessed.fold(0).training[0]}/scan_0"]
    truth = BankDataset(str(scans)).load_case(shard_name(0))[1][0]
    foreground = (of_itself > 0), (truth > 0)
    assert 2 * (foreground[0] & foreground[1]).sum() / sum(map(np.sum, foreground)) > 0.95
    assert "--masks registered:scans" in fill_command(record)
    path, _ = inspect_bank(folder)
    assert "towards scans (1 scan of the bank scans)" in path.read_text()
    shutil.rmtree(folder)


def test_a_training_refuses_masks_that_came_from_its_validation_case(preprocessed, image, scans):
    folder = fill_bank(preprocessed, "0", request(image))
    record, here = BankRecord.load(folder / RECORD_FILE), Source.of(preprocessed, preprocessed.fold(0))
    (scan,) = record.origin.mask_scans.scans
    refuse_leaks(folder, record, here, case_hashes(preprocessed, preprocessed.fold(0).validation))
    for validation in ({scan.name: "0" * 64}, {"renamed": scan.image_sha256}):
        with pytest.raises(LeakError, match="masks"):
            refuse_leaks(folder, record, here, validation)
    shutil.rmtree(folder)


def test_each_pair_is_registered_once_also_after_a_stop_or_a_damaged_file(preprocessed, plan, scans, monkeypatch):
    done, register_pair = [], registered_masks.register

    def counted(*arguments):
        if len(done) == 2:
            done.append(None)
            raise KeyboardInterrupt
        done.append(register_pair(*arguments))
        return done[-1]

    monkeypatch.setattr(registered_masks, "register", counted)
    with pytest.raises(Stopped, match="same command continues"):
        open_registered_masks(preprocessed, plan, None)
    masks, _ = open_registered_masks(preprocessed, plan, None)
    pairs = len(preprocessed.fold(0).training)
    assert len(done) == pairs + 1
    again, _ = open_registered_masks(preprocessed, plan, None)
    assert len(done) == pairs + 1
    assert np.array_equal(masks.sample(3, [5])[0], again.sample(3, [5])[0])
    file = sorted((scans / FOLDER).glob("*.npz"))[0]
    file.write_bytes(file.read_bytes()[:-40])
    again, _ = open_registered_masks(preprocessed, plan, None)
    assert len(done) == pairs + 2
    assert np.array_equal(masks.sample(3, [5])[0], again.sample(3, [5])[0])


def test_a_bank_is_not_continued_with_masks_of_other_scans(preprocessed, image, scans):
    folder = fill_bank(preprocessed, "0", request(image, name="mine"))
    record = BankRecord.load(scans / RECORD_FILE)
    other = record.origin.scans[1].model_copy(update={"evaluation_case": None})
    origin = record.origin.model_copy(update={"scans": (record.origin.scans[0], other)})
    record.model_copy(update={"origin": origin}).save(scans / RECORD_FILE)
    with pytest.raises(UserError, match=r"other scans.*--name"):
        fill_bank(preprocessed, "0", request(image, samples=8, name="mine"))
    shutil.rmtree(folder)


def test_without_usable_scans_the_error_says_what_to_type(preprocessed, plan, scans, monkeypatch):
    with pytest.raises(UserError, match=r"no bank 'nothing'.*nnunet-synth pseudo-label .* 2d 0 -i FOLDER"):
        open_registered_masks(preprocessed, plan, "nothing")
    poor = registered_masks.register
    monkeypatch.setattr(registered_masks, "register", lambda *a: dataclasses.replace(poor(*a), correlation=0.31))
    with pytest.raises(UserError, match=r"none of 8 .*0\.31.*0\.7.*--masks blended"):
        open_registered_masks(preprocessed, plan, None)
    content = BankRecord.load(scans / RECORD_FILE).model_dump(mode="json")
    content["source"]["training_cases"][0] = "another"
    write_record(scans, content)
    with pytest.raises(UserError, match="other training cases"):
        open_registered_masks(preprocessed, plan, None)
    shutil.rmtree(scans)
    with pytest.raises(UserError, match=r"no complete bank of real scans.*pseudo-label"):
        open_registered_masks(preprocessed, plan, None)
    scans.mkdir()
