"""Patches are cut from real cases, each a function of seed and number alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from stylegan2_cond.data import patch_sampler
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case
from stylegan2_cond.data.patch_sampler import PatchSampler


@pytest.fixture
def stream(preprocessed, plan):
    return PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=3)


def test_a_patch_depends_on_seed_and_number_alone(preprocessed, plan, stream):
    images, labels = stream.batch(10, 4)
    fresh = PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=3)
    image, label = fresh.draw(12)
    assert np.array_equal(image, images[2])
    assert np.array_equal(label, labels[2])
    other = PatchSampler(preprocessed, plan.source.training_cases, plan.patch_size, foreground_share=0.5, seed=4)
    assert not np.array_equal(other.draw(12)[0], image)


def test_every_patch_is_a_piece_of_a_training_case(preprocessed, plan):
    size = (24, 20)
    stream = PatchSampler(preprocessed, plan.source.training_cases, size, foreground_share=0.5, seed=0)
    cases = [preprocessed.load(name) for name in plan.source.training_cases]
    for number in range(20):
        image, label = stream.draw(number)
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
    image, label = PatchSampler(
        preprocessed, plan.source.training_cases, patch_size, foreground_share=1.0, seed=0
    ).draw(0)
    assert (label[:5] == OUTSIDE).all()
    assert (label[-5:] == OUTSIDE).all()
    assert (image[:, label == OUTSIDE] == 0).all()
    assert (label[20:-20, 20:-20] != OUTSIDE).all()


def test_foreground_share_one_always_shows_foreground(preprocessed, plan):
    _, labels = PatchSampler(preprocessed, plan.source.training_cases, (24, 24), foreground_share=1.0, seed=0).batch(
        0, 50
    )
    assert ((labels > 0).reshape(50, -1).any(axis=1)).all()


def test_cases_are_drawn_evenly(preprocessed, plan):
    names = plan.source.training_cases
    stream = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=0, seed=0)
    counts = dict.fromkeys(names, 0)
    stream._case = lambda name: counts.__setitem__(name, counts[name] + 1) or preprocessed.load(names[0])
    stream.batch(0, 400)
    expected = 400 / len(names)
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in counts.values())


def numbered_slices(slices, *, readable=True):
    """Cases of so many slices, whose voxels hold the number of their slice; class 1 lies in the last slice alone."""
    cases = {}
    for name, count in slices.items():
        image = np.zeros((1, count, 12, 10), np.float32) + np.arange(count)[:, None, None]
        places = np.array([[0, count - 1, 5, 5]])
        image = image if readable else SimpleNamespace(shape=image.shape)
        cases[name] = Case(name, image, np.zeros((1, count, 12, 10), np.int16), {1: places})
    return SimpleNamespace(load=cases.__getitem__)


@pytest.mark.parametrize("foreground_share", [0.0, 0.5, 1.0])
def test_a_position_is_the_middle_of_the_slice_that_is_cut(foreground_share):
    slices = {"a": 7, "b": 20, "c": 1}
    stream = PatchSampler(numbered_slices(slices), list(slices), (6, 6), foreground_share=foreground_share, seed=1)
    before = stream.positions(5, 60)
    assert before.dtype == np.float32
    cut = [stream.draw(index)[0].mean() for index in range(5, 65)]
    counts = [slices[stream.case_name(index)] for index in range(5, 65)]
    np.testing.assert_allclose(before, (np.array(cut) + 0.5) / counts, rtol=1e-6)
    assert set(before[np.array(counts) == 1]) == {0.5}
    np.testing.assert_array_equal(stream.positions(5, 60), before)  # the cases are in memory now
    assert stream.position(7) == pytest.approx(before[2])
    assert len(np.unique(before)) > (10 if foreground_share < 1 else 2)


def test_a_case_that_two_threads_read_at_once_takes_its_room_once(monkeypatch):
    cases, opened, both = numbered_slices({"a": 4, "b": 4}), [], threading.Barrier(2)
    size = 4 * 12 * 10 * (4 + 2)  # of one channel in float32, and of the mask in int16
    kept = sum(part.nbytes for part in (cases.load("a").image, cases.load("a").label))
    monkeypatch.setattr(patch_sampler, "CACHE_BYTES", kept + size)

    def load(name):
        opened.append(name)
        if opened.count("a") <= 2 and name == "a":
            both.wait(timeout=10)
        return cases.load(name)

    stream = PatchSampler(SimpleNamespace(load=load), ["a", "b"], (6, 6), foreground_share=0, seed=0)
    of = {name: next(n for n in range(99) if stream.case_name(n) == name) for name in ("a", "b")}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(stream.draw, [of["a"]] * 2))
    stream.draw(of["b"])
    stream.draw(of["b"])
    assert opened == ["a", "a", "b"]


def test_volumes_lie_in_the_middle():
    stream = PatchSampler(numbered_slices({"a": 9}), ["a"], (3, 6, 6), foreground_share=0.5, seed=1)
    assert stream.positions(0, 5).tolist() == [0.5] * 5


def test_positions_are_told_without_reading_a_voxel():
    stream = PatchSampler(numbered_slices({"a": 9}, readable=False), ["a"], (6, 6), foreground_share=0.5, seed=1)
    np.testing.assert_allclose((stream.positions(0, 20) * 9) % 1, 0.5, atol=1e-5)
    with pytest.raises(TypeError):
        stream.draw(0)


def test_a_position_is_that_of_the_slice_in_its_case(preprocessed, plan, stream):
    for number in range(6):
        image = stream.draw(number)[0]
        case = preprocessed.load(stream.case_name(number))
        slices = case.image.shape[1]
        z = int(stream.position(number) * slices)
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(case.image[0, z]), plan.patch_size)
        assert (windows == image[0]).all(axis=(-1, -2)).any()
        assert stream.position(number) == pytest.approx((z + 0.5) / slices)
