"""Damaged and foreign files are refused with one line, or taken; nothing ends in a traceback, a hang or a crash."""

from __future__ import annotations

import os
import re
import shutil
import time

import numpy as np
import pytest

from attack.entries import ROWS
from attack.outcomes import Outcome, Tally, outcome_of
from attack.victims import Victims

SHORT, LONG = 120, 10_000
LONG_MUTATIONS = int(os.environ.get("ATTACK_MUTATIONS", LONG))
SEED = int(os.environ.get("ATTACK_SEED", 0))
ONLY = os.environ.get("ATTACK_ROWS", "")  # a regular expression; all, where it is empty


def fuzz(whole: Victims, scratch, row: str, number: int) -> tuple[str, Outcome]:
    """Damage number `number` of a row, which depends on the row's name and the number alone."""
    rng = np.random.default_rng([SEED, number, *row.encode()])
    victims = whole.copy(scratch / "victims")
    try:
        what = ROWS[row].damage(victims, rng)
        victims_call = ROWS[row].entry

        def call() -> object:
            victims.enter()
            return victims_call(victims)

        return f"#{number} {what}", outcome_of(call)
    finally:
        shutil.rmtree(victims.folder, ignore_errors=True)


def fuzz_all(whole: Victims, scratch, mutations: int) -> Tally:
    """As many mutations as are wanted, shared out among the rows."""
    rows = {name: row for name, row in ROWS.items() if re.search(ONLY, name)}
    tally, shares = Tally(), sum(row.share for row in rows.values())
    for name, row in rows.items():
        sound = outcome_of(lambda row=row: (whole.enter(), row.entry(whole))[1]) if row.faithful else None
        for number in range(max(2, round(mutations * row.share / shares))):
            before = time.monotonic()
            what, outcome = fuzz(whole, scratch, name, number)
            tally.seconds[name] = tally.seconds.get(name, 0) + time.monotonic() - before
            if sound and outcome.kind == "taken" and outcome.told not in (sound.told, "fresh"):
                outcome = Outcome("traceback", "taken, though it is not what was saved")
            tally.add(name, what, outcome)
    return tally


def test_no_damage_is_a_traceback_a_hang_or_a_crash(whole, tmp_path):
    tally = fuzz_all(whole, tmp_path, SHORT)
    assert not tally.bad, "\n".join(tally.lines())


@pytest.mark.attack
def test_no_damage_of_thousands_is_a_traceback_a_hang_or_a_crash(whole, tmp_path, capsys):
    tally = fuzz_all(whole, tmp_path, LONG_MUTATIONS)
    with capsys.disabled():
        print("\n" + "\n".join(tally.lines()))
    assert not tally.bad, "\n".join(f"{row} {what}: {outcome.told}" for row, what, outcome in tally.bad[:200])
