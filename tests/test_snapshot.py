"""A snapshot generates the same samples everywhere, and damage is detected."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tolerance import NETWORK, assert_rounded

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import checksum
from stylegan2_cond.snapshot import SampleRequest, find_snapshots, load_generator, sha256


@pytest.fixture
def snapshot(generator_run, tmp_path):
    return shutil.copytree(find_snapshots(generator_run)[-1], tmp_path / "snapshot")


def renew(snapshot, **changes):
    """Edit a card and renew its checksum."""
    path = snapshot / "card.json"
    card = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(card | {"checksum": checksum(card)}))


def test_sample_i_depends_on_seed_and_i_alone(snapshot):
    generator = load_generator(snapshot)
    together = generator.sample(11, seed=5)
    alone = generator.sample(1, seed=5, first=7)
    assert_rounded(together.image[7], alone.image[0], terms=NETWORK)
    assert (together.label[7] == alone.label[0]).mean() > 0.999
    assert not np.allclose(generator.sample(1, seed=6, first=7).image, alone.image, atol=1e-2)


def test_whoever_may_read_the_card_may_read_the_weights(generator_run):
    folder = find_snapshots(generator_run)[-1]
    assert (folder / "generator.safetensors").stat().st_mode == (folder / "card.json").stat().st_mode


def test_samples_are_in_nnunets_units(snapshot, preprocessed):
    pairs = load_generator(snapshot).sample(6)
    case = preprocessed.load(preprocessed.fold(0).training[0])
    assert pairs.image.dtype == np.float32
    assert pairs.label.dtype == np.int16
    assert pairs.image.shape[:2] == (6, case.image.shape[0])
    assert set(np.unique(pairs.label)) <= {-1, 0, 1, 2}
    spread = np.ptp(case.image[:])
    assert case.image[:].min() - spread < pairs.image.mean() < case.image[:].max() + spread


def test_loading_leaves_torchs_random_state_alone(snapshot):
    before = torch.get_rng_state()
    load_generator(snapshot).sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_samples_is_an_empty_array(snapshot):
    assert load_generator(snapshot).sample(0).label.shape[0] == 0


def test_a_cut_off_file_of_weights_is_named(snapshot):
    weights = snapshot / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"generator.safetensors is damaged"):
        load_generator(snapshot)


def test_a_cut_off_card_is_named(snapshot):
    card = snapshot / "card.json"
    card.write_text(card.read_text()[:-50])
    with pytest.raises(UserError, match=r"card.json is not valid JSON, perhaps cut off"):
        load_generator(snapshot)


def test_a_card_that_was_changed_is_refused(snapshot):
    card = snapshot / "card.json"
    card.write_text(card.read_text().replace("virtual_00", "virtual_90", 1))
    with pytest.raises(UserError, match=r"card.json .*checksum"):
        load_generator(snapshot)


def test_a_card_of_another_network_does_not_pass(snapshot):
    card = json.loads((snapshot / "card.json").read_text())
    renew(snapshot, plan=card["plan"] | {"style_dim": 32})
    with pytest.raises(UserError, match="does not fit its card") as caught:
        load_generator(snapshot)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda weight: weight * float("nan")])
def test_weights_of_another_format_or_not_finite_are_refused(snapshot, change):
    path = snapshot / "generator.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: change(weights[name])}, path)
    renew(snapshot, weights_sha256=sha256(path))
    with pytest.raises(UserError, match=rf"generator\.safetensors.*{name}"):
        load_generator(snapshot)


def test_a_folder_in_place_of_the_weights_is_named(snapshot):
    (snapshot / "generator.safetensors").unlink()
    (snapshot / "generator.safetensors").mkdir()
    with pytest.raises(UserError, match=r"generator\.safetensors is missing"):
        load_generator(snapshot)


def test_the_card_lists_the_cases_that_the_generator_saw(snapshot, preprocessed):
    assert load_generator(snapshot).card.plan.source.training_cases == preprocessed.fold(0).training


def test_classes_that_the_generator_does_not_know_are_refused(snapshot):
    generator = load_generator(snapshot)
    assert generator.sample(3, request=SampleRequest([1, 2])).label.shape[0] == 3
    with pytest.raises(ValueError, match=r"class 7 is not one that this generator knows: \[1, 2\]"):
        generator.sample(1, request=SampleRequest([7]))


def test_a_sample_comes_with_its_condition(snapshot):
    generator = load_generator(snapshot)
    conditions = generator.plan.conditions
    ask = {"classes": [1], "position": 0.75, "areas": {1: 0.05}}
    drawn = generator.sample(3, seed=2, first=4, request=SampleRequest([1], 0.75, {1: 0.05}))
    expected = [conditions.sample(np.random.default_rng([2, index]), **ask) for index in range(4, 7)]
    assert np.array_equal(drawn.condition, torch.stack(expected).numpy())
    shown, areas, position = conditions.decode(torch.from_numpy(drawn.condition))
    assert shown.tolist() == [[True, False]] * 3
    np.testing.assert_allclose(areas[:, 0].exp(), 0.05, rtol=1e-5)
    np.testing.assert_allclose(position, 0.75, rtol=1e-6)


def test_a_request_changes_the_sample_and_not_its_latent(snapshot):
    generator, entering = load_generator(snapshot), []
    generator.network.mapping.register_forward_pre_hook(lambda _, taken: entering.append(taken))
    one, other = (generator.sample(1, request=SampleRequest(classes)) for classes in ([1], [1, 2]))
    (first, asked), (second, asked_otherwise) = entering
    assert torch.equal(first, second)
    assert not torch.equal(asked, asked_otherwise)
    assert not np.array_equal(one.image, other.image)


def test_an_unavailable_device_is_named(snapshot):
    with pytest.raises(UserError, match="Device 'cuda:99'"):
        load_generator(snapshot, "cuda:99")
