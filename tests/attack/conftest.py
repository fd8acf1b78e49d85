"""The victims, made once for a session in a process of its own: this one computes nothing, so that it can be forked."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_synth
import stylegan2_cond
from attack.outcomes import outcome_of
from attack.victims import VARIABLES, Victims, make_victims


def import_everything() -> None:
    """All that a fork would import, each time again."""
    for package in (stylegan2_cond, nnunet_synth):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and ".ext_trainer" not in module.name:
                importlib.import_module(module.name)
    assert recursive_find_trainer_class_by_name("nnUNetTrainer") is nnUNetTrainer  # all trainers that there are
    for name in ("PIL.PngImagePlugin", "matplotlib.backends.backend_agg", "torch.utils.tensorboard"):
        importlib.import_module(name)
    importlib.import_module("dynamic_network_architectures.architectures.unet")


@pytest.fixture(scope="session")
def whole() -> Iterator[Victims]:
    """The victims as they are made; nobody changes them. Files name their path, so it is of one length in all runs."""
    import_everything()
    with tempfile.TemporaryDirectory(prefix="attack_") as folder:
        victims = Victims(Path(folder) / "whole")
        made = outcome_of(lambda: str(make_victims(victims.folder).folder), limit=300)
        assert made.kind == "taken", made.told
        yield victims


@pytest.fixture
def victims(whole, tmp_path, monkeypatch) -> Victims:
    """A copy to damage, which nnU-Net's variables point to."""
    own = whole.copy(tmp_path / "victims")
    for name in VARIABLES:
        monkeypatch.setenv(name, str(own.folder / name))
    return own
