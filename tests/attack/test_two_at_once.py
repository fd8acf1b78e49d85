"""Two of the same command at once: one works, the other says so; together they leave what one alone leaves."""

from __future__ import annotations

import time

import pytest

from attack.outcomes import outcome_of
from attack.test_disk import complaint
from attack.test_kills import cases, filled, filling, own, trained, training

assert cases  # a fixture


@pytest.mark.parametrize("apart", [pytest.param(0.0, marks=pytest.mark.attack), 0.3])
def test_of_two_trainings_of_a_run_one_is_refused(cases, tmp_path, apart):
    straight, both = own(cases, tmp_path / "straight"), own(cases, tmp_path / "both")
    first, second = training(both, 320), training(both, 320)
    second.log = both.folder / "second.log"
    first.start()
    time.sleep(apart)
    second.start()
    codes = [first.wait(), second.wait()]
    assert sorted(codes) == [0, 2], first.told[-2000:] + second.told[-2000:]
    assert complaint((first, second)[codes.index(2)])
    assert training(straight, 320).run() == 0
    assert outcome_of(lambda: repr(trained(both.run))) == outcome_of(lambda: repr(trained(straight.run)))


def test_of_two_fillings_of_a_bank_one_is_refused(victims):
    folder = victims.bank.parent / "killed"
    first, second = filling(victims, 300), filling(victims, 300)
    second.log = victims.folder / "second.log"
    first.start()
    second.start()
    codes = [first.wait(), second.wait()]
    assert 0 in codes
    assert set(codes) <= {0, 2}, first.told[-2000:] + second.told[-2000:]  # the later one may find it full
    found = filled(folder)
    assert not set(codes) - {0} or complaint((first, second)[codes.index(2)])
    assert filling(victims, 300).run() == 0
    assert filled(folder) == found
