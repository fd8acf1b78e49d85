"""A checkpoint that is not as it was written is refused to the last bit, and what to do then is said."""

import random
import shlex
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import step, tiny_plan, tiny_state

from stylegan2_cond.errors import UserError
from stylegan2_cond.training.checkpoint import CHECKPOINT_FILE, GOOD_CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from stylegan2_cond.training.log_file import take_means

PLAN = tiny_plan(augment_target=0.6, r1_interval=2)


@pytest.fixture(scope="module")
def trained():
    """A state after one step."""
    state = tiny_state(PLAN)
    step(state)
    return state


@pytest.fixture
def content(trained):
    """What a checkpoint of it holds."""
    return trained.state_dict()


def refusal(folder):
    with pytest.raises(UserError, match=CHECKPOINT_FILE) as caught:
        load_checkpoint(folder, tiny_state(PLAN))
    return str(caught.value)


def save_content(folder, content, name=CHECKPOINT_FILE):
    save_checkpoint(folder, SimpleNamespace(state_dict=lambda: content), name)


def test_any_flipped_bit_is_refused(trained, tmp_path):
    save_checkpoint(tmp_path, trained)
    path, rng = tmp_path / CHECKPOINT_FILE, random.Random(0)
    written = path.read_bytes()
    anywhere = [rng.randrange(len(written)) for _ in range(100)]
    in_the_list_of_files_and_the_seal = [len(written) - 1 - rng.randrange(10_000) for _ in range(100)]
    state = tiny_state(PLAN)
    for place in (0, len(written) - 1, *anywhere, *in_the_list_of_files_and_the_seal):
        changed = bytearray(written)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(UserError, match="checksum"):
            load_checkpoint(tmp_path, state)


@pytest.mark.parametrize("left", [0, 1, 70, 71, 72, 1000, -1])
def test_a_checkpoint_that_is_empty_or_was_cut_off_is_refused(trained, tmp_path, left):
    save_checkpoint(tmp_path, trained)
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:left])
    assert "damaged" in refusal(tmp_path)


def test_a_folder_in_place_of_a_checkpoint_is_refused(tmp_path):
    (tmp_path / CHECKPOINT_FILE).mkdir()
    assert "damaged" in refusal(tmp_path)


def test_the_command_in_the_message_brings_the_last_good_checkpoint_back(trained, tmp_path):
    folder = tmp_path / "a folder's name"
    save_checkpoint(folder, trained, GOOD_CHECKPOINT_FILE)
    (folder / CHECKPOINT_FILE).write_bytes(b"")
    command = refusal(folder).partition("type: ")[2].partition(" and then")[0]
    subprocess.run(shlex.split(command), check=True)
    state = tiny_state(PLAN)
    assert load_checkpoint(folder, state)
    assert state.images_seen == trained.images_seen > 0


def test_a_good_checkpoint_that_is_damaged_too_is_not_offered(trained, tmp_path):
    save_checkpoint(tmp_path, trained, GOOD_CHECKPOINT_FILE)
    (tmp_path / GOOD_CHECKPOINT_FILE).write_bytes((tmp_path / GOOD_CHECKPOINT_FILE).read_bytes()[1:])
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"")
    assert GOOD_CHECKPOINT_FILE not in refusal(tmp_path)
    with pytest.raises(UserError, match=rf"{GOOD_CHECKPOINT_FILE} is damaged.*Delete it"):
        load_checkpoint(tmp_path, tiny_state(PLAN), GOOD_CHECKPOINT_FILE)


NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spread",), float("nan")),
        (("spread",), float("inf")),
        (("spread",), "1"),
        (("images_seen",), -8),
        (("images_seen",), 8.0),
        (("images_seen",), None),
        (("rollbacks",), "2"),
        (("adaptive",), None),
        (("adaptive", "p"), "0.5"),
        (("scalars",), {"loss": ["1"]}),
        (("scalars",), []),
        (("generator",), []),
        (("discriminator_optimizer",), None),
        (("generator_optimizer", "param_groups", 0, "lr"), "fast"),
        (("generator_optimizer", "state", 0, "exp_avg"), torch.zeros(3, 3, 3)),
        (("generator_optimizer", "state", 0), {"exp_avg": NAN}),
    ],
)
def test_a_wrong_type_or_a_number_that_is_not_finite_is_refused(content, tmp_path, place, value):
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    save_content(tmp_path, content)
    assert "does not fit" in refusal(tmp_path)


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda weight: weight * NAN])
@pytest.mark.parametrize("network", ["generator", "discriminator", "average"])
def test_weights_of_another_format_or_not_finite_are_refused(content, tmp_path, network, change):
    name, weight = next(iter(content[network].items()))
    content[network] = content[network] | {name: change(weight)}
    save_content(tmp_path, content)
    assert f"{network}.{name}" in refusal(tmp_path)


def test_no_part_may_be_missing(content, tmp_path):
    for name in content:
        save_content(tmp_path, {key: part for key, part in content.items() if key != name})
        assert "does not fit" in refusal(tmp_path)


def test_the_means_of_the_log_continue_over_a_stop(tmp_path):
    """Lazy penalties are seldom, so that a mean over the steps since the stop alone may lack them."""
    state, figures = tiny_state(PLAN), [step(tiny_state(PLAN)) for _ in range(3)]
    figures[0]["r1"] = 2.0
    state.scalars = {name: [one[name] for one in figures[:2] if name in one] for name in figures[0]}
    save_checkpoint(tmp_path, state)
    resumed = tiny_state(PLAN)
    assert load_checkpoint(tmp_path, resumed)
    for name, value in figures[2].items():
        resumed.scalars[name].append(value)
    means = take_means(resumed.scalars)
    assert list(means) == list(figures[0])
    assert means["loss_generator"] == np.mean([reported["loss_generator"] for reported in figures])
    assert means["r1"] == np.mean([reported["r1"] for reported in figures if "r1" in reported])
    assert resumed.scalars == {}
