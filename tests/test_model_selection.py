"""What the scores of snapshots mean: which one is best, who copies, and how good the best one is."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylegan2_cond.data.nnunet_folders import best_snapshot_images
from stylegan2_cond.metrics import Result
from stylegan2_cond.training.model_selection import (
    assess_quality,
    choose_best,
    describe_scores,
    flatten_results,
    link_best,
    memorization_warning,
    snapshot_scores,
)

REAL = {"kid real": 0.01, "precision real": 0.92, "coverage real": 0.96}

# --- which one is best


def line(kid=1.0, pair=1.0, masks=1.0, error=0.0, **more):
    return {"kid": kid, "kid-pair": pair, "masks": masks, "kid error": error, **more}


figures = st.builds(line, *[st.floats(1e-3, 1e3)] * 3, error=st.floats(1e-3, 10))


@given(st.lists(figures, min_size=1, max_size=8), st.sampled_from(["kid", "kid-pair", "masks"]), st.integers(-9, 9))
def test_the_unit_of_a_score_does_not_decide(history, name, power):
    # A power of two, since then logarithms differ by rounding alone where they do not tie.
    scaled = [{key: 2.0**power * v if key.startswith(name) else v for key, v in one.items()} for one in history]
    if name == "kid":  # kid-pair begins alike
        scaled = [one | {"kid-pair": old["kid-pair"]} for one, old in zip(scaled, history, strict=True)]
    products = [max(one["kid"], one["kid error"]) * one["kid-pair"] * one["masks"] for one in history]
    for found in (history, scaled):
        assert products[choose_best(found)] <= min(products) * (1 + 1e-9)


def test_half_the_mask_distance_outweighs_less_than_twice_the_kid():
    assert choose_best([line(kid=1.0, masks=1.0), line(kid=1.9, masks=0.5)]) == 1
    assert choose_best([line(kid=1.0, masks=1.0), line(kid=2.1, masks=0.5)]) == 0


@pytest.mark.parametrize("lucky", [1e-9, 0.0, -0.02])
def test_a_kid_below_its_standard_error_is_as_good_as_that_error(lucky):
    assert choose_best([line(kid=lucky, masks=1.0, error=0.05), line(kid=0.05, masks=0.9)]) == 1
    assert choose_best([line(kid=lucky, masks=1.0, error=0.05), line(kid=0.06, masks=0.9)]) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_equals_the_later_one_is_best(count):
    assert choose_best([line()] * count) == count - 1
    assert choose_best([{}] * count) == count - 1


@pytest.mark.parametrize("missing", [{}, {"kid": math.nan}, {"kid": None}, {"kid": math.inf}, {"kid": "0.1"}])
def test_a_snapshot_that_lacks_a_score_is_never_preferred(missing):
    lacking = {"kid-pair": 1e-3, "masks": 1e-3} | missing
    assert choose_best([line(), lacking, {"images": 9, "loss_generator": 1.0}]) == 0
    assert choose_best([lacking, line()]) == 1
    assert choose_best([lacking, {"kid-pair": 2e-3, "masks": 1e-3}, {}]) == 0  # they can still be told apart


def test_there_must_be_a_snapshot_to_choose():
    with pytest.raises(ValueError, match="no snapshot"):
        choose_best([])


def test_the_link_to_the_best_is_relative_and_replaced_at_once(tmp_path, monkeypatch):
    run = tmp_path / "run"
    for images in (2000, 4000):
        (run / "snapshots" / f"{images:09d}").mkdir(parents=True)
    assert best_snapshot_images(run) is None
    link_best(run, run / "snapshots" / "000002000")
    assert best_snapshot_images(run) == 2000

    def full(self, target):
        raise OSError("disk trouble")

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "replace", full)
        with pytest.raises(OSError, match="disk trouble"):
            link_best(run, run / "snapshots" / "000004000")
    assert best_snapshot_images(run) == 2000
    link_best(run, run / "snapshots" / "000004000")
    moved = run.rename(tmp_path / "moved")
    assert (moved / "best").resolve() == moved / "snapshots" / "000004000"
    assert sorted(path.name for path in moved.iterdir()) == ["best", "snapshots"]


# --- who copies


def copied(images, share, error=1.0, **more):
    return {"images": images, "copies": share, "copies error": error, **more}


@given(st.floats(0, 100), st.floats(0, 20))
def test_a_warning_comes_when_the_share_of_copies_is_two_errors_above_one_percent(share, error):
    history = [copied(1000, 0.0), copied(2000, share, error)]
    assert (memorization_warning(history) is not None) == (share - 2 * error > 1)


def test_the_warning_names_the_best_snapshot_that_does_not_copy():
    history = [
        copied(2000, 0.0, kid=3.0),
        copied(4000, 1.0, kid=1.0),
        copied(6000, 30.0, kid=0.1),
        {"images": 6500, "loss_generator": 1.0},
        copied(8000, 40.0, kid=0.1),
        {"images": 8000, "loss_generator": 1.0},
    ]
    warning = memorization_warning(history)
    assert "After 8,000 images, 40 % of the samples" in warning
    assert "snapshots/000004000" in warning
    assert memorization_warning(history[:2]) is None
    assert memorization_warning([*history, copied(9000, 0.5)]) is None  # it went back
    assert memorization_warning([]) is None


def test_where_every_snapshot_copies_none_is_recommended():
    warning = memorization_warning([copied(2000, 30.0), copied(4000, 40.0)])
    assert "every snapshot" in warning
    assert "snapshots/" not in warning


def test_scores_have_an_error_each_and_nothing_that_is_not_finite():
    results = {"kid": Result(0.5, 0.1, {"more": 1.0}), "swd": Result(3.0, math.nan), "masks": Result(math.inf, 1.0)}
    assert flatten_results(results) == {"kid": 0.5, "kid error": 0.1, "swd": 3.0, "masks error": 1.0}


# --- how good one is


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
def test_without_coverage_quality_is_not_assessed(figures):
    assert assess_quality(figures) is None


def test_scores_stand_next_to_those_of_real_data():
    text = describe_scores({"kid": 75.2, "precision": 0.0, "coverage": 0.125, "copies": 1.0} | REAL)
    assert text == "KID of images 75 (real 0.01), precision 0 (real 0.92), coverage 0.12 (real 0.96), copies, % 1"


def test_the_scores_of_a_snapshot_are_those_of_its_run(tmp_path):
    lines = [{"images": 2000, "r1": 1.0}, {"images": 2000, "kid": 3.0}, {"images": 4000, "kid": 2.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for images, kid in ((2000, 3.0), (4000, 2.0)):
        (tmp_path / "snapshots" / f"{images:09d}").mkdir(parents=True)
        assert snapshot_scores(tmp_path / "snapshots" / f"{images:09d}")["kid"] == kid
    (tmp_path / "best").symlink_to(tmp_path / "snapshots" / "000002000")
    assert snapshot_scores(tmp_path / "best")["kid"] == 3.0
    (tmp_path / "elsewhere").mkdir()
    assert snapshot_scores(tmp_path / "elsewhere") == {}
