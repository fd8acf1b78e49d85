"""Pictures of pairs: tiles of the right size, colour exactly where the mask shows a class, no half-written files."""

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from stylegan2_cond.pictures import GAP, SMALLEST_TILE, colour_mask, overlay_grid, save_picture


def make_pairs(count, channels, canvas, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, channels, *canvas)), rng.integers(-1, 4, (count, *canvas))


def grid(image, label, columns=8, labels=(0, 1, 2, 3, -1), low=0.0, high=1.0):
    channels = image.shape[1]
    return overlay_grid(image, label, low=(low,) * channels, high=(high,) * channels, labels=labels, columns=columns)


def is_grey(picture):
    return (picture == picture[..., :1]).all(axis=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("canvas", [(100, 120), (150, 97), (5, 100, 120)])
@pytest.mark.parametrize(("count", "columns"), [(1, 4), (4, 4), (5, 4), (3, 1)])
def test_a_grid_has_a_tile_per_channel_and_one_with_the_mask_for_each_sample(channels, canvas, count, columns):
    picture = grid(*make_pairs(count, channels, canvas), columns=columns)
    height, width = canvas[-2:]
    rows = -(-count // columns)
    assert picture.dtype == np.uint8
    assert picture.shape == (rows * (height + 2 * GAP), columns * ((channels + 1) * width + 2 * GAP), 3)


@pytest.mark.parametrize("canvas", [(10, 7), (95, 20), (4, 30, 40)])
def test_small_canvases_are_magnified_by_a_whole_number(canvas):
    picture = grid(*make_pairs(1, 1, canvas), columns=1)
    height, width = (length - 2 * GAP for length in picture.shape[:2])
    scale = height // canvas[-2]
    assert (height, width) == (scale * canvas[-2], scale * 2 * canvas[-1])
    assert max(canvas[-2:]) * scale >= SMALLEST_TILE > max(canvas[-2:]) * (scale - 1)
    inner = picture[GAP:-GAP, GAP:-GAP]
    assert np.array_equal(inner, inner[::scale, ::scale].repeat(scale, 0).repeat(scale, 1))


def tiles_of(picture, canvas, channels):
    height, width = canvas
    inner = picture[GAP : GAP + height, GAP:]
    return [inner[:, index * width : (index + 1) * width] for index in range(channels + 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_grey_between_low_and_high_and_the_mask_colours_the_foreground_alone(channels):
    canvas = (100, 110)
    image, label = make_pairs(1, channels, canvas)
    image = image * 3 - 1  # some beyond low and high
    *greys, overlay = tiles_of(grid(image, label, columns=1, low=-0.5, high=1.5), canvas, channels)
    for tile, channel in zip(greys, image[0], strict=True):
        expected = np.interp(channel, [-0.5, 1.5], [0, 255])
        assert is_grey(tile).all()
        assert (np.abs(tile[..., 0] - expected) <= 1).all()
    assert np.array_equal(is_grey(overlay), label[0] <= 0)
    assert np.array_equal(overlay[label[0] <= 0], greys[0][label[0] <= 0])


def test_a_volume_is_shown_by_its_middle_slice():
    image, label = make_pairs(2, 2, (5, 100, 110))
    assert np.array_equal(grid(image, label), grid(image[:, :, 2], label[:, 2]))


def test_a_class_has_the_same_colour_whatever_else_a_sample_shows():
    image = np.full((2, 1, 96, 96), 0.5)
    label = np.zeros((2, 96, 96), int)
    label[0, :48], label[0, 48:], label[1] = 1, 3, 3
    picture = grid(image, label, columns=1)
    first, second = picture[: len(picture) // 2], picture[len(picture) // 2 :]
    assert np.array_equal(first[-GAP - 1, -GAP - 1], second[-GAP - 1, -GAP - 1])
    assert not np.array_equal(first[GAP, -GAP - 1], first[-GAP - 1, -GAP - 1])


def test_a_class_is_blended_from_grey_and_its_colour():
    colour = np.array(matplotlib.colormaps["tab10"].colors[0])
    picture = colour_mask(np.full((2, 2), 0.2), np.array([[0, 4], [-1, 0]]), (0, 4, -1), opacity=0.25)
    np.testing.assert_allclose(picture[0, 1], 0.75 * 0.2 + 0.25 * colour)
    np.testing.assert_allclose(picture[[0, 1, 1], [0, 0, 1]], 0.2)


def test_each_of_ten_classes_is_coloured():
    labels = tuple(range(10))
    mask = np.arange(10).repeat(10).reshape(10, 10)
    picture = colour_mask(np.full((10, 10), 0.3), mask, labels)
    grey = np.ptp(picture, axis=-1) < 0.01
    assert sorted(set(mask[grey].tolist())) == [0]


@pytest.mark.parametrize("name", ["picture.png", "new/folder/picture.png"])
def test_a_picture_is_saved_as_it_is_without_a_temporary_file(tmp_path, name):
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    path = tmp_path / name
    save_picture(path, picture)
    read = np.round(imread(path)[..., :3] * 255).astype(np.uint8)
    assert np.array_equal(read, picture)
    assert list(path.parent.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"(?i)dimension|shape"):
        save_picture(path, np.zeros((4, 4, 7), np.uint8))  # no picture has seven channels
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
