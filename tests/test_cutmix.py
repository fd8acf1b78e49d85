"""CutMix in the loader: boxes of the other kind, label and all, and nothing where it is off."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_synth.training.cutmix import CutMix, random_box


class Source:
    """A dataset whose draws are real or of a bank by a list."""

    def __init__(self, ratios=(0.5,)):
        self.source = 0
        self.control = SimpleNamespace(ratios=np.array(ratios))


def patch(kind, number, shape, channels=2):
    """Every voxel tells where the patch comes from; the label tells the same."""
    value = 1000 * kind + number
    return torch.full((channels, *shape), float(value)), torch.full((1, *shape), value, dtype=torch.int16)


def untransformed(image, segmentation):
    return {"image": image, "segmentation": segmentation}


def mix(probability, kinds, shape=(12, 10), ratios=(0.5,)):
    dataset = Source(ratios)
    cutmix = CutMix(untransformed, probability)
    cutmix.watch(dataset, 0.5)
    found = []
    for number, kind in enumerate(kinds):
        dataset.source = kind
        found.append(cutmix(*patch(kind, number, shape)))
    return found


@pytest.mark.parametrize("shape", [(12, 10), (6, 12, 10), (1, 12)])
def test_each_patch_is_itself_but_for_one_box_of_the_last_patch_of_the_other_kind(shape):
    np.random.seed(0)
    kinds = np.random.randint(0, 2, 200).tolist()
    last = {}
    for number, (kind, found) in enumerate(zip(kinds, mix(1.0, kinds, shape), strict=True)):
        own, label = 1000 * kind + number, found["segmentation"][0]
        assert all(torch.equal(channel, label.float()) for channel in found["image"])  # image and label alike
        other = label != own
        if other.any():
            assert set(label[other].tolist()) == {last[1 - kind]}
            corners = torch.nonzero(other)
            box = tuple(
                slice(int(low), int(high) + 1) for low, high in zip(corners.amin(0), corners.amax(0), strict=True)
            )
            assert other[box].all()  # a whole box
        last[kind] = own


def test_the_other_patch_is_one_without_a_box():
    """Else boxes of boxes would mix ever more patches."""
    np.random.seed(1)
    kinds = [number % 2 for number in range(100)]
    for number, found in enumerate(mix(1.0, kinds)):
        assert set(found["segmentation"].unique().tolist()) <= {
            1000 * (number % 2) + number,
            1000 * (1 - number % 2) + number - 1,
        }


@pytest.mark.parametrize(
    ("probability", "ratios", "share"), [(0.5, (0.5,), 0.5), (0.5, (0.25,), 0.25), (1, (0.1, 0.1), 0.4)]
)
def test_its_share_falls_with_the_ratios(probability, ratios, share):
    np.random.seed(2)
    found = mix(probability, [number % 2 for number in range(4000)], (64, 64), ratios)
    mixed = np.mean([len(one["segmentation"].unique()) > 1 for one in found])
    assert share - 0.08 < mixed < share + 0.04  # a few boxes are empty or the whole patch


@pytest.mark.parametrize(("probability", "ratios"), [(0.0, (0.5,)), (1.0, (0.0,))])
def test_nothing_is_mixed_where_it_is_off_or_banks_are_out(probability, ratios):
    for kind, one in zip([0, 1] * 10, mix(probability, [0, 1] * 10, ratios=ratios), strict=True):
        assert len(one["segmentation"].unique()) == 1
        assert one["segmentation"].flatten()[0] // 1000 == kind


def test_boxes_have_the_share_of_the_paper():
    """Uniform in [0, 1] before they are cut off at the border; half of them reach beyond at each corner."""
    np.random.seed(3)
    inner = []
    for _ in range(4000):
        box = random_box((1000, 1000))
        assert all(0 <= part.start <= part.stop <= 1000 for part in box)
        if all(part.start > 0 and part.stop < 1000 for part in box):
            inner.append(np.prod([part.stop - part.start for part in box]) / 1e6)
    assert len(inner) > 500
    assert max(inner) < 1


def test_a_patch_of_one_kind_alone_is_left_as_it_is():
    for one in mix(1.0, [0] * 10):
        assert len(one["segmentation"].unique()) == 1


def test_without_banks_each_patch_is_itself_but_for_a_box_of_the_one_before():
    np.random.seed(4)
    cutmix = CutMix(untransformed, 1.0)
    found = [cutmix(*patch(0, number, (12, 10)))["segmentation"].unique().tolist() for number in range(100)]
    assert found[0] == [0]
    assert all({*values} <= {number - 1, number} for number, values in enumerate(found))
    assert np.mean([len(values) == 2 for values in found]) > 0.8
