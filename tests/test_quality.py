"""What a training says of its best snapshot."""

from __future__ import annotations

import json

import pytest

from stylegan2_cond.training.model_selection import assess_quality, describe_scores, snapshot_scores

REAL = {"kid real": 0.01, "precision real": 0.92, "coverage real": 0.96}


@pytest.mark.parametrize(
    ("coverage", "words"),
    [(0.0, "Far from real"), (0.239, "Far from real"), (0.3, "Not yet close"), (0.49, "Close to real")],
)
def test_a_sentence_says_how_far_samples_are_from_real(coverage, words):
    text = assess_quality({"coverage": coverage} | REAL)
    assert text.startswith(words)
    assert f"{coverage:.0%}" in text
    assert "96%" in text
    assert ("--kimg" in text) == (words != "Close to real")


@pytest.mark.parametrize("figures", [{}, {"coverage": 0.5}, {"coverage": 0.5, "coverage real": 0.0}, {"kid": 3.0}])
def test_without_coverage_there_is_no_verdict(figures):
    assert assess_quality(figures) is None


def test_figures_stand_beside_those_of_real_data():
    text = describe_scores({"kid": 75.2, "precision": 0.0, "coverage": 0.125, "copies": 1.0} | REAL)
    assert text == "KID of images 75 (real 0.01), precision 0 (real 0.92), coverage 0.12 (real 0.96), copies, % 1"


def test_the_figures_of_a_snapshot_are_those_of_its_run(tmp_path):
    lines = [{"images": 2000, "r1": 1.0}, {"images": 2000, "kid": 3.0}, {"images": 4000, "kid": 2.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for images, kid in ((2000, 3.0), (4000, 2.0)):
        (tmp_path / "snapshots" / f"{images:09d}").mkdir(parents=True)
        assert snapshot_scores(tmp_path / "snapshots" / f"{images:09d}")["kid"] == kid
    (tmp_path / "best").symlink_to(tmp_path / "snapshots" / "000002000")
    assert snapshot_scores(tmp_path / "best")["kid"] == 3.0
    (tmp_path / "elsewhere").mkdir()
    assert snapshot_scores(tmp_path / "elsewhere") == {}
