"""`stylegan2-cond evaluate`: a table, a file and a figure; known results are not computed again."""

import contextlib
import io
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from stylegan2_cond.cli import main
from stylegan2_cond.data.patch_sampler import cover
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics import METRICS, default_metrics
from stylegan2_cond.metrics.evaluate import evaluate
from stylegan2_cond.metrics.kid import KernelDistance
from stylegan2_cond.metrics.ncc import RIM, largest_correlation
from stylegan2_cond.metrics.report import Evaluation, Measurement, table, with_error
from stylegan2_cond.snapshot import find_snapshots, load_generator, open_same_cases

SAMPLES = 120


@pytest.fixture(scope="module")
def snapshot(generator_run, tmp_path_factory):
    return shutil.copytree(find_snapshots(generator_run)[-1], tmp_path_factory.mktemp("evaluated") / "snapshot")


@pytest.fixture(scope="module")
def printed(snapshot, model):
    line = ["stylegan2-cond", "evaluate", str(snapshot), "-n", str(SAMPLES), "--nnunet", str(model[0])]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return printed.getvalue()


def test_the_command_shows_every_default_metric_next_to_that_of_real_patches(printed, snapshot):
    for name in default_metrics():
        assert METRICS[name].title in printed
    found = Evaluation.load(snapshot / "evaluation.json")
    assert set(found.generated) == set(found.real) == set(default_metrics())
    assert found.nnunet.startswith("nnUNetTrainerSynth_1epoch")
    assert found.generated["kid"].value > found.real["kid"].value + 3 * found.generated["kid"].standard_error
    assert abs(found.real["kid"].value) < 6 * found.real["kid"].standard_error
    assert found.seconds > 0
    assert found.peak_bytes > 2**27


def test_dice_on_validation_cases_stands_next_to_that_on_samples(printed, snapshot):
    found = Evaluation.load(snapshot / "evaluation.json")
    assert set(found.held_out) == {"agreement"}
    assert 0 <= found.held_out["agreement"].value <= 1
    assert "on validation cases" in printed


def test_the_samples_most_like_copies_are_listed_and_can_be_generated_again(printed, snapshot, preprocessed):
    found = Evaluation.load(snapshot / "evaluation.json")
    assert {one.case for one in found.copy_candidates} <= set(preprocessed.fold(0).training)
    assert sum(one.alarm for one in found.copy_candidates) == round(found.generated["copies"].value / 100 * SAMPLES)
    generator, worst = load_generator(snapshot), found.copy_candidates[0]
    image = generator.sample(1, seed=found.seed, first=worst.sample).image
    case = preprocessed.load(worst.case)
    there = np.stack([patch.image for patch in cover(case, generator.plan.patch_size, reach=RIM, margin=RIM)])
    nearest = largest_correlation(torch.from_numpy(image), torch.from_numpy(there)[None]).max()
    assert float(nearest) == pytest.approx(worst.correlation, abs=1e-3)


def test_the_picture_is_written(printed, snapshot):
    picture = imread(snapshot / "evaluation.png")
    assert min(picture.shape[:2]) > 500
    assert np.std(picture) > 0.1


def test_what_was_found_is_not_computed_again(printed, snapshot, model, monkeypatch):
    def no(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(KernelDistance, "__call__", no)
    before = (snapshot / "evaluation.json").read_bytes()
    again = evaluate(snapshot, samples=SAMPLES, nnunet=model[0])
    assert table(again) in printed
    assert (snapshot / "evaluation.json").read_bytes() == before
    with pytest.raises(AssertionError, match="computed again"):
        evaluate(snapshot, samples=SAMPLES, nnunet=model[0], seed=1)


def test_held_out_cases_are_compared_on_request_with_a_warning(printed, snapshot, run_here):
    code, found, _ = run_here("stylegan2-cond", "evaluate", str(snapshot), "-n", "60", "--features", "random",
                              "--held-out", "--metric", "kid", "--metric", "swd")  # fmt: skip
    assert code == 0
    assert "held-out" in found.splitlines()[0]
    assert "validation scores" in found
    rows = [line.split("  ")[0] for line in found.splitlines()]
    assert METRICS["swd"].title in rows
    assert METRICS["masks"].title not in rows
    assert "evaluation.png" not in found  # it shows another search
    later = evaluate(snapshot, samples=60, features="random", metrics=["kid"])
    assert "kid" not in later.held_out


def test_other_programs_get_what_is_in_the_file(printed, snapshot, run_here):
    (path := snapshot / "evaluation.json").unlink()  # what is complete is not written again
    code, found, _ = run_here("stylegan2-cond", "evaluate", str(snapshot), "-n", "60", "--features", "random",
                              "--metric", "kid", "--json")  # fmt: skip
    assert (code, json.loads(found)) == (0, {"path": str(path), **json.loads(path.read_text())})


def test_the_same_snapshot_gets_the_same_figures(snapshot, tmp_path):
    copies = [shutil.copytree(snapshot, tmp_path / name) for name in "ab"]
    for copy in copies:
        (copy / "evaluation.json").unlink(missing_ok=True)
    first, second = (evaluate(copy, samples=60, features="random", metrics=["kid", "swd", "masks"]) for copy in copies)
    assert {name: figure.value for name, figure in first.generated.items()} == pytest.approx(
        {name: figure.value for name, figure in second.generated.items()}, rel=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metric", "kidd"], "Did you mean kid?"),
        (["--features", "nnunet"], "No nnU-Net was trained on the real cases"),
        (["--nnunet", "nowhere"], "has no trained nnU-Net of fold 0"),
        (["-n", "30", "--metric", "frechet"], "frechet needs 100 "),
    ],
)
def test_bad_input_ends_with_one_paragraph(snapshot, arguments, said, run_here):
    code, _, errors = run_here("stylegan2-cond", "evaluate", str(snapshot), *arguments)
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors


def test_cases_that_are_not_those_of_the_training_are_refused(snapshot):
    plan = load_generator(snapshot).plan
    other = plan.source.model_copy(update={"preprocessing": "0" * 64})
    with pytest.raises(UserError, match="preprocessed differently"):
        open_same_cases(plan.model_copy(update={"source": other}))
    more = plan.source.model_copy(
        update={
            "training_cases": (*plan.source.training_cases, "gone"),
            "training_sha256": (*plan.source.training_sha256, "0" * 64),
        }
    )
    with pytest.raises(UserError, match="the first is gone"):
        open_same_cases(plan.model_copy(update={"source": more}))


def test_a_damaged_file_of_results_is_named(printed, snapshot, tmp_path, model):
    copy = shutil.copytree(snapshot, tmp_path / "copy")
    content = json.loads((copy / "evaluation.json").read_text())
    content["drwan"] = content.pop("generated")
    (copy / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"evaluation.json: .*drwan"):
        evaluate(copy, samples=SAMPLES, nnunet=model[0])


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.12345, 0.00678, "0.1235 ± 0.0068"), (812.3, 16.0, "812 ± 16"), (0.5, None, "0.5"), (None, None, "–")],
)
def test_errors_have_two_digits_and_values_as_many(value, error, text):
    assert with_error(Measurement(value=value, standard_error=error, details={}, warning=None, seconds=0)) == text
