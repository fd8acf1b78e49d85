"""Snapshots are scored beside a training on a GPU: the scores are the same, and none is lost."""

import subprocess
import sys
from concurrent.futures import Future

import pytest

from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import METRICS
from stylegan2_cond.planning import open_patches
from stylegan2_cond.snapshot import find_snapshots
from stylegan2_cond.training import run_logger
from stylegan2_cond.training.log_file import read_log
from stylegan2_cond.training.run_logger import RunLogger
from stylegan2_cond.training.scoring import ScoringProcess
from stylegan2_cond.training.state import TrainingState

SCORES = {name: 1.0 for name in ("kid", "kid-pair", "masks")}


def test_a_process_of_its_own_computes_the_same_scores_and_is_replaced_when_it_died(generator_run, tmp_path):
    (snapshot,), logged = find_snapshots(generator_run), read_log(generator_run)[-1]
    process = ScoringProcess()
    try:
        with pytest.raises(UserError, match="ended with exit code 1"):
            process.submit(tmp_path / "none").result()
        scores = process.submit(snapshot).result()
    finally:
        process.close()
    assert METRICS.keys() & scores.keys() == METRICS.keys() & logged.keys()
    for name, score in scores.items():  # rounding may move a sample across a threshold
        assert score == pytest.approx(logged[name], rel=0.01, abs=0.02), name


@pytest.mark.slow
def test_the_process_ends_when_the_training_is_killed():
    code = (
        "import os\nfrom pathlib import Path\nfrom stylegan2_cond.training import scoring\n"
        "process = scoring.ScoringProcess()\nprocess.submit(Path('none'))\n"
        "while process._process is None: pass\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=300)  # waits for all who write
    assert done.returncode == 9


@pytest.fixture
def futures(monkeypatch):
    """Futures of the scores that were asked for, by the snapshot's name."""
    asked = {}

    class Asked:
        def submit(self, snapshot):
            return asked.setdefault(snapshot.name, Future())

        def close(self):
            pass

    monkeypatch.setattr(run_logger, "ScoringProcess", Asked)
    monkeypatch.setattr(run_logger, "scores_beside", lambda device: True)
    return asked


def test_scores_come_when_they_are_ready_and_missing_ones_when_training_goes_on(
    preprocessed, plan, tmp_path, futures, capsys
):
    state = TrainingState.start(plan, "cpu")
    logger = RunLogger(tmp_path, state, preprocessed, open_patches(preprocessed, plan))
    for images in (2000, 4000):
        state.images_seen, state.scalars = images, {"r1": [1.0]}
        logger.save_snapshot()
    assert [line.keys() for line in read_log(tmp_path)] == [{"images", "r1"}] * 2
    assert not (tmp_path / "best").exists()
    futures.pop("000004000").set_exception(UserError("The process died."))
    futures.pop("000002000").set_result(SCORES)
    state.images_seen = 5000
    logger.write()
    assert [line.get("kid") for line in read_log(tmp_path)] == [1.0, None, None]
    assert (tmp_path / "best").resolve().name == "000002000"
    assert "The process died." in capsys.readouterr().out
    logger.close()

    logger = RunLogger(tmp_path, state, preprocessed, open_patches(preprocessed, plan))
    assert [*futures] == ["000004000"]
    futures["000004000"].set_result({name: 0.5 for name in SCORES})
    logger.log_scores(wait=True)
    assert [line.get("kid") for line in read_log(tmp_path)] == [1.0, 0.5, None]
    assert (tmp_path / "best").resolve().name == "000004000"
    logger.close()
