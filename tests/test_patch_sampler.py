"""Patches are cut from real cases, each a function of seed and number alone."""

import math
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from stylegan2_cond.data import patch_sampler
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case, open_preprocessed
from stylegan2_cond.data.patch_sampler import OPEN_BYTES, WHOLE_SHARE, PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.training.prefetch import Prefetcher


@pytest.fixture
def stream(preprocessed, plan):
    return PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=3)


def test_a_patch_depends_on_seed_and_number_alone(preprocessed, plan, stream):
    batch = stream.batch(10, 4)
    fresh = PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=3)
    patch = fresh.sample(12)
    assert np.array_equal(patch.image, batch.image[2])
    assert np.array_equal(patch.label, batch.label[2])
    assert (patch.case, patch.position) == (batch.case[2], pytest.approx(batch.position[2]))
    other = PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=4)
    assert not np.array_equal(other.sample(12).image, patch.image)


def test_every_patch_is_a_piece_of_a_training_case(preprocessed, plan):
    size = (24, 20)
    stream = PatchSampler(preprocessed, plan.source.training_cases, size, foreground_share=0.5, seed=0)
    cases = [preprocessed.load(name) for name in plan.source.training_cases]
    for number in range(20):
        patch = stream.sample(number)
        image, label = patch.image, patch.label
        found = False
        for case in cases:
            windows = np.lib.stride_tricks.sliding_window_view(case.image[0], size, axis=(1, 2))
            matches = np.argwhere(windows[..., 0, 0] == image[0, 0, 0])
            for z, y, x in matches:
                rows, columns = slice(y, y + size[0]), slice(x, x + size[1])
                if np.array_equal(case.image[:, z, rows, columns], image):
                    found |= np.array_equal(case.label[0, z, rows, columns], label)
        assert found


def test_small_images_lie_in_the_middle_of_what_is_marked_outside(preprocessed, plan):
    patch_size = tuple(length + 20 for length in plan.patch_size)
    names = plan.source.training_cases
    patch = PatchSampler(preprocessed, names, patch_size, foreground_share=1.0, seed=0).sample(0)
    image, label = patch.image, patch.label
    assert (label[:5] == OUTSIDE).all()
    assert (label[-5:] == OUTSIDE).all()
    assert (image[:, label == OUTSIDE] == 0).all()
    assert (label[20:-20, 20:-20] != OUTSIDE).all()


def test_foreground_share_one_always_shows_foreground(preprocessed, plan):
    stream = PatchSampler(preprocessed, plan.source.training_cases, (24, 24), foreground_share=1.0, seed=0)
    assert ((stream.batch(0, 50).label > 0).reshape(50, -1).any(axis=1)).all()


def test_cases_are_drawn_evenly(preprocessed, plan):
    names = plan.source.training_cases
    stream = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=0, seed=0)
    counts = Counter(stream.batch(0, 400).case.tolist())
    expected = 400 / len(names)
    assert all(abs(counts[name] - expected) < 4 * np.sqrt(expected) for name in names)


def numbered_slices(slices):
    """Cases of so many slices, whose voxels hold the number of their slice; class 1 lies in the last slice alone."""
    cases = {}
    for name, count in slices.items():
        image = np.zeros((1, count, 12, 10), np.float32) + np.arange(count)[:, None, None]
        cases[name] = Case(name, image, np.zeros((1, count, 12, 10), np.int16), {1: np.array([[0, count - 1, 5, 5]])})
    return SimpleNamespace(load=cases.__getitem__)


@pytest.mark.parametrize("foreground_share", [0.0, 0.5, 1.0])
def test_a_position_is_the_middle_of_the_slice_that_is_cut(foreground_share):
    slices = {"a": 7, "b": 20, "c": 1}
    stream = PatchSampler(numbered_slices(slices), list(slices), (6, 6), foreground_share=foreground_share, seed=1)
    batch = stream.batch(5, 60)
    assert batch.position.dtype == np.float32
    counts = np.array([slices[name] for name in batch.case])
    np.testing.assert_allclose(batch.position, (batch.image.mean(axis=(1, 2, 3)) + 0.5) / counts, rtol=1e-6)
    assert set(batch.position[counts == 1]) == {0.5}
    assert stream.sample(7).position == pytest.approx(batch.position[2])  # the cases are in memory now
    assert len(np.unique(batch.position)) > (10 if foreground_share < 1 else 2)


def test_a_patch_without_its_image_is_the_same_place():
    stream = PatchSampler(numbered_slices({"a": 9, "b": 20}), ["a", "b"], (6, 6), foreground_share=0.5, seed=1)
    for number in range(10):
        whole, bare = stream.sample(number), stream.sample(number, with_image=False)
        assert bare.image.shape == (0, 6, 6)
        assert (bare.case, bare.position) == (whole.case, whole.position)
        np.testing.assert_array_equal(bare.label, whole.label)


def test_a_case_that_two_threads_read_at_once_takes_its_room_once():
    cases, opened, both = numbered_slices({"a": 4, "b": 4}), [], threading.Barrier(2)
    size = 4 * 12 * 10 * (4 + 2)  # of one channel in float32, and of the mask in int16
    size += 4 * 8  # of the voxel
    room = 2 * math.ceil(size / WHOLE_SHARE)

    def load(name):
        opened.append(name)
        if opened.count("a") <= 2 and name == "a":
            both.wait(timeout=10)
        return cases.load(name)

    loader = SimpleNamespace(load=load)
    stream = PatchSampler(loader, ["a", "b"], (6, 6), foreground_share=0, seed=0, cache=room)
    every = PatchSampler(cases, ["a", "b"], (6, 6), foreground_share=0, seed=0)
    found = every.batch(0, 99).case
    of = {name: next(n for n in range(99) if found[n] == name) for name in ("a", "b")}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(stream.sample, [of["a"]] * 2))
    stream.sample(of["b"])
    stream.sample(of["b"])
    assert opened == ["a", "a", "b"]


def counted(preprocessed):
    """The same cases, and the names of those that were loaded."""
    names = []

    def load(name):
        names.append(name)
        return preprocessed.load(name)

    return SimpleNamespace(load=load, unreadable=preprocessed.unreadable), names


@pytest.mark.parametrize(
    ("cache", "files", "loads"),
    [
        (2**30, 1000, "once"),  # whole
        (OPEN_BYTES * 100, 1000, "once"),  # open
        (OPEN_BYTES * 100, 8, "often"),  # but the one for which there are files
        (0, 1000, "often"),
    ],
)
def test_whatever_is_kept_in_memory_patches_are_the_same(preprocessed, plan, monkeypatch, cache, files, loads):
    monkeypatch.setattr(patch_sampler, "open_files_limit", lambda: files)
    if cache == OPEN_BYTES * 100:
        monkeypatch.setattr(patch_sampler, "WHOLE_SHARE", 0)
    names = plan.source.training_cases
    cases, loaded = counted(preprocessed)
    stream = PatchSampler(cases, names, plan.patch_size, foreground_share=0.5, seed=3, cache=cache)
    expected = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=0.5, seed=3, cache=0)
    for first in (0, 20, 0):
        found, patches = stream.batch(first, 20), expected.batch(first, 20)
        for part in ("image", "label", "case", "position", "labelled"):
            np.testing.assert_array_equal(getattr(found, part), getattr(patches, part), strict=True)
    counts = Counter(loaded).values()
    assert (max(counts) == 1) == (loads == "once")
    assert min(counts) == (1 if files == 8 or loads == "once" else min(counts))


def test_a_case_that_is_damaged_inside_is_named(preprocessed, plan, tmp_path, monkeypatch):
    name = plan.source.training_cases[0]
    shutil.copytree(preprocessed.base, tmp_path / preprocessed.base.name)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    copied = open_preprocessed(preprocessed.dataset_name, preprocessed.configuration_name)
    assert copied.folder.is_relative_to(tmp_path)
    path = copied.folder / f"{name}.b2nd"
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = np.random.default_rng(0).bytes(third)
    path.write_bytes(content)
    for cache in (0, 2**30):
        stream = PatchSampler(copied, [name], plan.patch_size, foreground_share=0.5, seed=0, cache=cache)
        with pytest.raises(UserError, match=f"Case {name} .* cannot be read .*nnUNetv2_plan_and_preprocess"):
            stream.batch(0, 100)


def test_volumes_lie_in_the_middle():
    stream = PatchSampler(numbered_slices({"a": 9}), ["a"], (3, 6, 6), foreground_share=0.5, seed=1)
    assert stream.batch(0, 5).position.tolist() == [0.5] * 5


def test_a_position_is_that_of_the_slice_in_its_case(preprocessed, stream):
    for number in range(6):
        patch = stream.sample(number)
        case = preprocessed.load(patch.case)
        z = int(patch.position * case.image.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(case.image[0, z]), patch.label.shape)
        assert (windows == patch.image[0]).all(axis=(-1, -2)).any()
        assert patch.position == pytest.approx((z + 0.5) / case.image.shape[1])


# --- read ahead


def test_batches_that_are_read_ahead_are_those_of_the_stream(stream, plan):
    with Prefetcher(stream, 8, slice(2, 5), plan.codec) as reader:
        for first in (0, 8, 16, 8):
            image, label, position, labelled = reader.batch(first)
            wanted = stream.batch(first + 2, 3)
            assert np.array_equal(image, wanted.image)
            assert np.array_equal(label, wanted.label)
            assert np.array_equal(position, wanted.position)
            assert np.array_equal(labelled, wanted.labelled)


def test_a_label_without_a_channel_is_refused_where_patches_are_read(stream, plan):
    codec = plan.codec.model_copy(update={"labels": plan.codec.labels[:1]})
    with Prefetcher(stream, 8, slice(0, 8), codec) as reader, pytest.raises(ValueError, match="label"):
        reader.batch(0)
