"""Pictures of pairs: tiles of the right size, colour exactly where the mask shows a class, no half-written files."""

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from stylegan2_cond.visualization import COLUMNS, FRAME, GAP, MIN_TILE, colour_mask, overlay_grid, save_picture


def make_pairs(count, channels, patch_size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, channels, *patch_size)), rng.integers(-1, 4, (count, *patch_size))


def grid(image, label, columns=None, labels=(0, 1, 2, 3, -1), low=0.0, high=1.0):
    channels = image.shape[1]
    return overlay_grid(image, label, low=(low,) * channels, high=(high,) * channels, labels=labels, columns=columns)


def is_grey(picture):
    return (picture == picture[..., :1]).all(axis=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch_size", [(100, 120), (150, 97)])
@pytest.mark.parametrize(("count", "columns"), [(1, 4), (4, 4), (5, 4), (3, 1)])
def test_a_grid_has_a_tile_per_channel_and_one_with_the_mask_for_each_sample(channels, patch_size, count, columns):
    picture = grid(*make_pairs(count, channels, patch_size), columns=columns)
    height, width = patch_size[-2:]
    rows = -(-count // columns)
    assert picture.dtype == np.uint8
    assert picture.shape == (rows * (height + 2 * GAP), columns * ((channels + 1) * width + 2 * GAP), 3)


@pytest.mark.parametrize("patch_size", [(100, 120), (8, 24, 16)])
def test_a_row_is_no_longer_than_there_are_samples(patch_size):
    pairs = make_pairs(2, 1, patch_size)
    assert np.array_equal(grid(*pairs), grid(*pairs, columns=2))


@pytest.mark.parametrize("patch_size", [(10, 7), (95, 20)])
def test_small_patches_are_magnified_by_a_whole_number(patch_size):
    picture = grid(*make_pairs(1, 1, patch_size), columns=1)
    height, width = (length - 2 * GAP for length in picture.shape[:2])
    scale = height // patch_size[-2]
    assert (height, width) == (scale * patch_size[-2], scale * 2 * patch_size[-1])
    assert max(patch_size[-2:]) * scale >= MIN_TILE > max(patch_size[-2:]) * (scale - 1)
    inner = picture[GAP:-GAP, GAP:-GAP]
    assert np.array_equal(inner, inner[::scale, ::scale].repeat(scale, 0).repeat(scale, 1))


def tiles_of(picture, patch_size, channels):
    height, width = patch_size
    inner = picture[GAP : GAP + height, GAP:]
    return [inner[:, index * width : (index + 1) * width] for index in range(channels + 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_grey_between_low_and_high_and_the_mask_colours_the_foreground_alone(channels):
    patch_size = (100, 110)
    image, label = make_pairs(1, channels, patch_size)
    image = image * 3 - 1  # some beyond low and high
    *greys, overlay = tiles_of(grid(image, label, columns=1, low=-0.5, high=1.5), patch_size, channels)
    for tile, channel in zip(greys, image[0], strict=True):
        expected = np.interp(channel, [-0.5, 1.5], [0, 255])
        assert is_grey(tile).all()
        assert (np.abs(tile[..., 0] - expected) <= 1).all()
    assert np.array_equal(is_grey(overlay), label[0] <= 0)
    assert np.array_equal(overlay[label[0] <= 0], greys[0][label[0] <= 0])


@pytest.mark.parametrize("rgb", [(0, 1, 2), (2, 1, 0)])
def test_colour_images_are_shown_in_colour_with_the_mask_over_it(rgb):
    patch_size = (100, 110)
    image, label = make_pairs(1, 3, patch_size)
    low, high = (0.0, -1.0, 0.0), (1.0, 1.0, 2.0)
    picture = overlay_grid(image, label, low=low, high=high, labels=(0, 1, 2, 3), rgb=rgb, columns=1)
    assert picture.shape == (100 + 2 * GAP, 2 * 110 + 2 * GAP, 3)
    colour, overlay, _, _ = tiles_of(picture, patch_size, 3)
    for place, channel in enumerate(rgb):
        expected = np.interp(image[0, channel], [min(low), max(high)], [0, 255])  # one scale, or grey has a tint
        assert (np.abs(colour[..., place] - expected) <= 1).all()
    assert np.array_equal((overlay == colour).all(axis=-1), label[0] <= 0)


def cuts_of(picture, patch_size, rows):
    """The first sample's tiles, `[rows][3]`: where each cut must lie, in the middle of its row."""
    z, y, x = patch_size
    tall = max(z, y)
    found = []
    for row in range(rows):
        left, tiles = GAP, []
        for height, width in ((y, x), (z, x), (z, y)):
            top = GAP + row * tall + (tall - height) // 2
            tiles.append(picture[top : top + height, left : left + width])
            left += width + 1
        found.append(tiles)
    return found


def middle_cuts(volume):
    z, y, x = (length // 2 for length in volume.shape)
    return volume[z], volume[:, y], volume[:, :, x]


@pytest.mark.parametrize("patch_size", [(5, 100, 120), (110, 6, 97), (98, 40, 7)])
def test_a_volume_is_shown_by_its_three_middle_cuts_side_by_side(patch_size):
    image, label = make_pairs(2, 2, patch_size)
    picture = grid(image, label, columns=1)
    z, y, x = patch_size
    assert picture.shape == (2 * (3 * max(z, y) + 2 * GAP), x + x + y + 2 + 2 * GAP, 3)
    first, second, masked = cuts_of(picture, patch_size, rows=3)
    for tiles, channel in ((first, image[0, 0]), (second, image[0, 1])):
        for tile, cut in zip(tiles, middle_cuts(channel), strict=True):
            assert is_grey(tile).all()
            assert (np.abs(tile[..., 0] - 255 * cut) <= 1).all()
    for tile, grey, mask in zip(masked, first, middle_cuts(label[0]), strict=True):
        assert np.array_equal(is_grey(tile), mask <= 0)
        assert np.array_equal(tile[mask <= 0], grey[mask <= 0])


def test_what_is_no_part_of_a_volume_is_framed_in_grey():
    image, label = np.zeros((1, 1, 4, 100, 96)), np.zeros((1, 4, 100, 96), int)
    picture = grid(image, label, columns=1)
    black = (picture == 0).all(axis=-1).sum()
    assert black == 2 * (100 * 96 + 4 * 96 + 4 * 100)
    assert (picture[picture > 0] == int(255 * FRAME)).all()


@pytest.mark.parametrize("patch_size", [(20, 30), (6, 20, 30)])
def test_slices_stand_eight_in_a_row_and_volumes_four(patch_size):
    assert COLUMNS == {2: 8, 3: 4}
    image, label = make_pairs(9, 1, patch_size)
    assert np.array_equal(grid(image, label), grid(image, label, columns={2: 8, 3: 4}[len(patch_size)]))


@pytest.mark.parametrize("patch_size", [(100, 110), (5, 100, 110)])
def test_masks_without_an_image_are_drawn_in_full_colour_on_black(patch_size):
    _, label = make_pairs(3, 1, patch_size)
    picture = grid(np.empty((3, 0, *patch_size)), label, columns=2)
    tile = picture[GAP : GAP + 100, GAP : GAP + 110]
    mask = label[0] if len(patch_size) == 2 else label[0, 2]
    colours = [np.array(colour) for colour in matplotlib.colormaps["tab10"].colors]
    assert (tile[mask <= 0] == 0).all()
    for value in (1, 2, 3):
        assert (np.abs(tile[mask == value] - 255 * colours[value - 1]) <= 1).all()
    edge = picture[0]
    assert (edge == int(255 * FRAME)).all()  # else nobody saw where a patch ends
    assert (picture[-1:, -1:] == int(255 * FRAME)).all()


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
