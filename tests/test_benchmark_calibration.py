"""Calibration finds the length of training at which the oracle stands out most from the luck of runs."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from made_benchmark import make_benchmark

from nnunet_synth.benchmark.analysis import analyse
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.report.calibration import write_calibration
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.run import calibration_options
from stylegan2_cond.errors import UserError


def change_length(folder, epochs):
    design = json.loads((folder / "design.json").read_text())
    design["budget"]["length"]["epochs"] = epochs
    (folder / "design.json").write_text(json.dumps(design))


def test_the_length_with_the_largest_gain_in_deviations_is_named(tmp_path):
    made = {}
    for epochs, gap, luck in ((4, 0.1, 0.02), (8, 0.09, 0.006), (16, 0.12, 0.04)):  # 5, 15, 3 deviations
        made[epochs] = make_benchmark(
            tmp_path / str(epochs), {"oracle": gap}, sizes=(4,), training_sets=12, cases=8, run_luck=luck
        )
        change_length(made[epochs], epochs)
    path = write_calibration(tmp_path, list(made.values()))
    table = pd.read_csv(tmp_path / "calibration.csv")
    assert table["steps"].tolist() == [1000, 2000, 4000]  # of 250
    analysis = analyse(read_benchmark(made[8]))
    expected = analysis.row("oracle", 4)["difference"] / analysis.noise[4].deviation
    assert table["sensitivity"][1] == pytest.approx(expected, rel=1e-5)
    assert "2,000 steps" in path.with_suffix(".md").read_text().splitlines()[2]
    written = json.loads(path.with_suffix(".json").read_text())
    assert written["steps"] == 2000
    assert [one["sensitivity"] for one in written["lengths"]] == pytest.approx(table["sensitivity"], rel=1e-5)
    assert (tmp_path / "figures" / "calibration.png").stat().st_size > 5000


def test_each_length_is_a_benchmark_of_its_own_that_differs_in_nothing_else(tmp_path):
    options = BenchmarkOptions("4", "2d", folder=tmp_path, quick=True, sizes="4")
    lengths = calibration_options(options)
    assert [one.steps for one in lengths] == [1000, 2000, 4000, 8000]
    assert len({one.folder for one in lengths}) == 4
    assert {replace(one, folder=tmp_path, steps=None) for one in lengths} == {
        replace(options, arms=("oracle",), training_sets=3)
    }
    with pytest.raises(UserError, match="--steps"):
        calibration_options(replace(options, steps=5))
