"""Features of torch-fidelity: the same vectors as the library's own, of the right pixels, and nothing is downloaded."""

import pickle
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import features_torch_fidelity
from stylegan2_cond.metrics.features_torch_fidelity import TorchFidelity

INCEPTION = "inception-v3-compat"
LOW, HIGH = (-1.0, -2.5, 10.0), (3.0, 0.0, 500.0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whatever turns to the network fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"turned to the network: {args} {kwargs}")

    for owner, names in ((socket, ("socket", "create_connection", "getaddrinfo")), (urllib.request, ("urlopen",))):
        for name in names:
            monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of Inception, at a scale that lets the images through; a plain dict as the published file is."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda network, state: None)
        network = inception.FeatureExtractorInceptionV3(INCEPTION, ["2048"])
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    return path


@pytest.fixture(scope="module")
def grey(weights) -> TorchFidelity:
    return TorchFidelity(low=LOW[:1], high=HIGH[:1], weights=weights)


def by_the_library(pixels: np.ndarray, weights: Path) -> torch.Tensor:
    """Vectors of `[N, 3, H, W]` uint8 images, as torch-fidelity computes them for its metrics."""

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(pixels)

        def __getitem__(self, index):
            return torch.from_numpy(pixels[index])

    settings = {"cuda": False, "verbose": False, "feature_extractor_weights_path": str(weights)}
    network = create_feature_extractor(INCEPTION, ["2048"], **settings)
    return extract_featuresdict_from_input_id(1, network, input1=Images(), save_cpu_ram=True, **settings)["2048"]


def draw_pixels(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """`[N, C, 24, 20]` uint8 noise, a different share of it black and white in each image."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(50, 200, (count, channels, 1, 1))
    return (128 + spread * rng.standard_normal((count, channels, 24, 20))).clip(0, 255).astype(np.uint8)


def in_nnunets_units(pixels: np.ndarray, low, high, seed: int = 1) -> SampleSet:
    """Intensities that should become these pixels: up to 0.4 grey levels off, and beyond black and white."""
    rng = np.random.default_rng(seed)
    levels = pixels + rng.uniform(-0.4, 0.4, pixels.shape)
    levels -= np.where(pixels == 0, 90, 0)
    levels += np.where(pixels == 255, 90, 0)
    low, high = (np.reshape(bound, (1, -1, 1, 1)) for bound in (low, high))
    return SampleSet((low + levels / 255 * (high - low)).astype(np.float32))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.std(dim=0).mean() > 1e-3 * expected.abs().mean()  # the images do differ
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# --- the vectors


def test_three_channels_are_red_green_and_blue_and_the_vectors_are_the_librarys(weights):
    pixels = draw_pixels(2, 3)
    extractor = TorchFidelity(low=LOW, high=HIGH, weights=weights)
    vectors = extractor(in_nnunets_units(pixels, LOW, HIGH))
    assert vectors.dtype == torch.float32
    assert vectors.shape == (2, 2048)
    assert_same(vectors, by_the_library(pixels, weights))
    assert not extractor.standardised


def test_two_channels_are_two_grey_images_whose_features_stand_side_by_side(weights):
    pixels = draw_pixels(2, 2)
    vectors = TorchFidelity(low=LOW[:2], high=HIGH[:2], weights=weights)(in_nnunets_units(pixels, LOW[:2], HIGH[:2]))
    first_then_second = by_the_library(np.concatenate([pixels[:, [channel] * 3] for channel in range(2)]), weights)
    assert_same(vectors, torch.cat(first_then_second.chunk(2), dim=1))


def test_one_channel_is_a_grey_image_and_batches_change_nothing(grey, weights, monkeypatch):
    pixels = draw_pixels(3, 1)
    monkeypatch.setattr(features_torch_fidelity, "BATCH", 2)
    vectors = grey(in_nnunets_units(pixels, LOW[:1], HIGH[:1]))
    assert_same(vectors, by_the_library(pixels.repeat(3, axis=1), weights))


def test_the_network_does_not_learn_and_torchs_random_state_is_left_alone(weights):
    before = torch.get_rng_state()
    extractor = TorchFidelity(low=LOW, high=HIGH, weights=weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in extractor.network.modules())
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


def test_the_identity_depends_on_weights_and_ranges_only(weights, tmp_path):
    def identity(path, low=LOW):
        return TorchFidelity(low=low, high=HIGH, weights=path).identity()

    content = torch.load(weights)
    name = next(iter(content))
    torch.save(content | {name: content[name] + 1}, tmp_path / "other.pth")
    copy = Path(shutil.copy(weights, tmp_path / "copy.pth"))
    assert identity(weights) == identity(copy)
    assert len({identity(weights), identity(tmp_path / "other.pth"), identity(weights, low=(-1.0, -2.5, 9.0))}) == 3


# --- the weights


def test_missing_weights_are_named_with_address_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="not downloaded") as error:
        TorchFidelity(low=LOW, high=HIGH)
    assert str(tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth") in str(error.value)
    assert "https://github.com/toshas/torch-fidelity/releases" in str(error.value)
    assert not any(tmp_path.iterdir())


def test_the_named_place_is_where_the_library_loads_from(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        TorchFidelity(low=LOW, high=HIGH)
    asked = []

    def note(url, file, *args, **kwargs):
        asked.append((url, file))
        raise ConnectionError

    monkeypatch.setattr(torch.hub, "download_url_to_file", note)
    monkeypatch.setattr(inception, "BasicConv2d", lambda *args, **kwargs: nn.Identity())  # saves a second
    with pytest.raises(ConnectionError):
        create_feature_extractor(INCEPTION, ["2048"], cuda=False, verbose=False)
    assert asked
    for url, file in asked:
        assert f'curl -L --create-dirs -o "{file}" {url}' in str(error.value)


def test_weights_in_torch_hubs_folder_are_found(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "weights-inception-2015-12-05-6726825d.pth").symlink_to(weights)
    named = TorchFidelity(low=LOW, high=HIGH, weights=weights)
    assert TorchFidelity(low=LOW, high=HIGH).identity() == named.identity()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"There is no file {tmp_path}/none.pth .* https://github.com/toshas"):
        TorchFidelity(low=LOW, high=HIGH, weights=tmp_path / "none.pth")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "cut off", "another network"])
def test_a_file_that_holds_no_such_weights_is_named(content, weights, tmp_path):
    path = tmp_path / "broken.pth"
    if content == "another network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    else:
        path.write_bytes(weights.read_bytes()[:-5000] if content == "cut off" else content)
    with pytest.raises(UserError, match=rf"broken.pth can't be read as the weights of {INCEPTION} \(.+\)"):
        TorchFidelity(low=LOW, high=HIGH, weights=path)


class Touch:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_reading_a_file_of_weights_runs_no_code(write, tmp_path):
    write(Touch(tmp_path / "ran"), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="can't be read"):
        TorchFidelity(low=LOW, high=HIGH, weights=tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


# --- what is refused


def test_without_the_library_the_command_to_install_it_is_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'pip install "nnunet-synth\[fidelity\]"'):
        TorchFidelity(low=LOW, high=HIGH, weights=weights)


def test_volumes_are_refused_with_the_features_that_take_them(grey):
    with pytest.raises(UserError, match=r"2-D images.* 4×6×8.*--features nnunet.*--features random"):
        grey(SampleSet(np.zeros((2, 1, 4, 6, 8), np.float32)))


def test_patches_with_other_channels_than_the_ranges_are_refused(grey):
    with pytest.raises(UserError, match="have 3 channels, low and high"):
        grey(SampleSet(np.zeros((2, 3, 6, 8), np.float32)))


@pytest.mark.parametrize(("low", "high"), [((0.0,), (0.0,)), ((0.0, 0.0), (1.0,)), ((float("nan"),), (1.0,))])
def test_intensities_that_are_no_range_are_refused(low, high, weights):
    with pytest.raises(UserError, match="are not ranges"):
        TorchFidelity(low=low, high=high, weights=weights)
