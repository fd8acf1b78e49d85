"""A benchmark of real trainings finds what is known: real cases help, shuffled masks harm, copies do not matter."""

import json

import pytest
from conftest import DATASET, TINY_PLANS, make_preprocessed, run

from nnunet_synth.benchmark.protocol import Effect

NOTHING = {Effect.NO_EVIDENCE.value, Effect.EQUIVALENT.value}
TRUTHS = {
    "real-cases": {Effect.HELPS.value},
    "shuffled": {Effect.HARMS.value},
    "copies": NOTHING,
    "again": NOTHING,
}
ARMS = """
[nnunet]
baseline = true
[real-cases]
unlabelled = "true-labels"
ratio = 0.75
[shuffled]
unlabelled = "shuffled-labels"
ratio = 0.75
schedule = "constant"
[copies]
unlabelled = "copies"
ratio = 0.75
[again]
"""


@pytest.mark.truths
def test_real_trainings_get_the_verdicts_that_are_known(tmp_path, monkeypatch):
    """Virtual subjects: 12 disjoint training sets of one, 4 to test on."""
    make_preprocessed(tmp_path, training=24)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir(exist_ok=True)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "arms.toml").write_text(ARMS)
    line = ("nnunet-synth", "benchmark", DATASET, "2d", "-p", TINY_PLANS, "--quick", "-o", str(tmp_path / "truths"))
    options = ("--sizes", "1", "--test-cases", "4", "--arms", str(tmp_path / "arms.toml"), "--steps", "600")
    found = json.loads(run(*line, *options, "--device", "cpu", "--json").stdout)
    print((tmp_path / "truths" / "report.md").read_text())
    effects = {arm["arm"]: arm["effect"] for arm in found["arms"] if arm["arm"] in TRUTHS}
    assert {arm for arm, effect in effects.items() if effect in TRUTHS[arm]} == {*TRUTHS}
