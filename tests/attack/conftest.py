"""The victims, made once for a session in a process of its own: this one computes nothing, so that it can be forked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attack.outcomes import outcome_of
from attack.victims import VARIABLES, Victims, make_victims


@pytest.fixture(scope="session")
def whole() -> Iterator[Victims]:
    """The victims as they are made; nobody changes them. Files name their path, so it is of one length in all runs."""
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
