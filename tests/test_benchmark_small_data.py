"""A benchmark of few cases: what is designed, what is refused, and that what a user typed is never changed."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_cases import LABELS, cohort, own_folders, preprocess

from nnunet_synth.benchmark import progress
from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.budget import Budget, choose_budget
from nnunet_synth.benchmark.design import DESIGN_FILE, make_design, make_training_sets
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.run import CALIBRATION_STEPS
from nnunet_synth.cli import main
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.errors import UserError

ARMS = (Arm(name="nnunet", title="nnU-Net alone", baseline=True), Arm(name="pair", variant="pair"))
DEFAULTS = (4, 8)

CONFIGURATION = {
    "architecture": {"arch_kwargs": {"features_per_stage": [32, 64]}},
    "batch_size": 9,
    "patch_size": [8, 8],
}


def data_of(count: int, reader: str = "SimpleITKIO"):
    """A stand-in for a preprocessed dataset, of which a design reads names only."""
    labels = SimpleNamespace(has_regions=False, foreground_labels=[1, 2])
    return SimpleNamespace(
        dataset_name="Dataset950_Small",
        configuration_name="2d",
        plans_name="nnUNetPlans",
        case_names=lambda: [f"case_{number:03d}" for number in range(count)],
        label_manager=labels,
        plans_manager=SimpleNamespace(plans={"image_reader_writer": reader, "configurations": {"2d": CONFIGURATION}}),
        dataset_json={"labels": LABELS},
    )


def design_of(count: int, reader: str = "SimpleITKIO", arms: tuple[Arm, ...] = ARMS, **typed: object):
    return make_design(data_of(count, reader), arms, BenchmarkOptions("950", "2d", **typed))


@pytest.mark.parametrize("count", range(1, 61))
def test_the_default_design_fits_any_number_of_cases(count):
    if count < 3:
        with pytest.raises(UserError, match=rf"at least 3 cases.*Dataset950_Small has {count}\b"):
            design_of(count)
        return
    design, pool = design_of(count), count - max(1, min(40, count // 3))
    assert sorted([*design.test_cases, *design.pool]) == data_of(count).case_names()
    assert len(design.pool) == pool
    assert design.sizes == tuple(sorted({min(size, pool // 2) for size in DEFAULTS}))
    for size in design.sizes:
        sets = [one.cases for one in design.training_sets if one.size == size]
        assert all(len({*cases} & {*design.pool}) == size for cases in sets)
        assert len({*sets}) == len(sets)
        assert len(sets) == 12 or pool < 8
        assert design.overlaps(size) == (len(sets) * size > pool)
        uses = [sum(case in cases for cases in sets) for case in design.pool]
        assert max(uses) - min(uses) <= 1
    notes = " ".join(design.notes())
    assert ("overlap" in notes) == any(map(design.overlaps, design.sizes))
    assert ("No verdict" in notes) == any(design.sets_of(size) < 6 for size in design.sizes)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_training_sets_are_disjoint_while_the_pool_lasts_then_balanced_and_more_do_not_change_them(
    subjects, size, cases_each, seed
):
    pool = [f"{subject:02d}_{case}" for subject in range(subjects) for case in range(cases_each)]
    size, subject_of = min(size, len(pool)), {case: case[:2] for case in pool}
    sets = [one.cases for one in make_training_sets(pool, subject_of, (size,), 18, seed)]
    taken = [{subject_of[case] for case in cases} for cases in sets]
    assert len({*sets}) == len(sets)
    assert {*map(len, sets)} == {size}
    for count in range(1, len(sets) + 1):
        uses = [sum(subject in one for one in taken[:count]) for subject in {*subject_of.values()}]
        assert max(uses) - min(uses) <= 1
        if count * -(-size // cases_each) <= subjects:
            assert max(uses) == 1
    for fewer in (6, 12):
        assert [one.cases for one in make_training_sets(pool, subject_of, (size,), fewer, seed)] == sets[:fewer]


@given(
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(0, 70)),
    st.one_of(st.none(), st.lists(st.integers(-1, 70), min_size=1, max_size=4)),
)
@settings(max_examples=300, deadline=None)
def test_what_was_typed_is_done_or_refused_by_its_option(count, test_cases, sizes):
    typed = {
        "test_cases": None if test_cases is None else str(test_cases),
        "sizes": None if sizes is None else ",".join(map(str, sizes)),
    }
    try:
        design = design_of(count, **typed)
    except UserError as error:
        option = "--sizes" in str(error) and sizes is not None
        option |= "--test-cases" in str(error) and test_cases is not None
        assert option or (count < 3 and test_cases is None)
        return
    if test_cases is not None:
        assert len(design.test_cases) == test_cases
    if sizes is not None:
        assert set(design.sizes) == {*sizes}


@pytest.mark.parametrize("count", [3, 7, 12, 40])
def test_the_default_design_leaves_unlabelled_cases_to_an_arm_that_needs_them(count):
    arms = (*ARMS, Arm(name="pseudo", unlabelled="pseudo-labels"))
    design = design_of(count, arms=arms)
    pool = len(design.pool)
    assert all(len(design.unlabelled(fold)) == pool - one.size for fold, one in enumerate(design.training_sets))
    with pytest.raises(UserError, match=rf"All {pool} cases .* arm pseudo\b.*--sizes"):
        design_of(count, arms=arms, sizes=f"1,{pool}")


@pytest.mark.parametrize("size", ["0", "-1", "many", ""])
def test_a_size_that_cannot_be_is_refused_before_the_cases_are_counted(size):
    with pytest.raises(UserError, match="--sizes"):
        design_of(3, sizes=size)


@pytest.mark.parametrize("kimg", [math.inf, -math.inf, math.nan])
def test_an_endless_training_is_refused(kimg):
    with pytest.raises(UserError, match="--kimg"):
        choose_budget(BenchmarkOptions("950", "2d", kimg=kimg))


def test_cases_of_one_subject_leave_none_to_train_on():
    with pytest.raises(UserError, match=r"--test-cases.*--subjects"):
        design_of(30, subjects="^case")


def test_distances_of_images_without_spacing_are_in_pixels():
    for reader, unit in (("NaturalImage2DIO", "pixels"), ("NibabelIO", "mm")):
        assert design_of(20, reader).unit == unit


# --- the command


@pytest.fixture(scope="module")
def one_case(tmp_path_factory):
    """A preprocessed dataset of one case, to be copied."""
    base = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        preprocess(own_folders(base, patch), cohort(1), LABELS)
    return base


@pytest.fixture
def benchmark(one_case, tmp_path, monkeypatch, capsys):
    """Call `nnunet-synth benchmark 950 2d` on so many cases; its exit code, and what it printed."""

    def call(count: int, *options: str):
        base = own_folders(tmp_path, monkeypatch)
        shutil.copytree(one_case / "nnUNet_preprocessed", base, dirs_exist_ok=True)
        folder = base / "Dataset950_Small" / "nnUNetPlans_2d"
        for number in range(1, count):
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                os.link(folder / f"case_0{ending}", folder / f"case_{number}{ending}")
        typed = ["nnunet-synth", "benchmark", "950", "2d", "--device", "cpu", "-o", str(tmp_path / "out"), *options]
        monkeypatch.setattr(sys, "argv", typed)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.mark.parametrize(
    ("count", "sizes", "test"),
    [
        (3, "2 training sets of 1 case", 1),
        (12, "12 training sets of 4 cases", 4),
        (40, "12 training sets of 4 cases and 12 training sets of 8", 13),
    ],
)
def test_the_command_says_what_few_cases_allow(benchmark, tmp_path, count, sizes, test):
    code, printed = benchmark(count, "--dry-run")
    assert code in (0, None)
    assert f"{test} test cases" in printed
    assert sizes in printed
    assert "sets overlap" in printed or count == 3
    assert "No verdict" in printed or count > 3
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_how_long_it_takes_by_steps_of_nnunets_network(benchmark, monkeypatch):
    monkeypatch.setattr(progress, "seconds_of_step", lambda network, patches: 0.25)
    options = ("--dry-run", "--quick", "--sizes", "4", "--training-sets", "2", "--steps", "300")
    code, printed = benchmark(12, *options, "--arm", "da5", "--arm", "pair", "--jobs", "3")
    assert code in (0, None)
    runs = 2 * (3 + 1 + 1)  # training sets; nnU-Net alone has three
    minutes = runs * 300 * 0.25 / 60
    assert f"{runs} runs" in printed
    assert f"({minutes:.0f} min of jobs)" in printed
    assert f"{minutes / 3:.0f} min with 3 jobs" in printed
    assert "more for the generators and banks" in printed


def test_a_dry_run_lists_the_tasks_of_unlabelled_cases(benchmark):
    arms = ("pseudo", "true-labels", "oracle", "ensemble")
    code, printed = benchmark(12, "--dry-run", *(part for arm in arms for part in ("--arm", arm)))
    assert code in (0, None)
    assert "bank pseudo-labels, 4 cases, training set 0  (needs run_nnunet_4_0)" in printed
    assert (
        "run ensemble, 4 cases, training set 0  (needs run_nnunet_4_0, run_nnunet_4_0_1, run_nnunet_4_0_2)" in printed
    )


@pytest.mark.parametrize(
    ("options", "steps"), [(("--arm", "pair", "--steps", "500"), [500]), (("--calibrate",), CALIBRATION_STEPS)]
)
def test_a_dry_run_as_json_is_one_object(benchmark, monkeypatch, options, steps):
    monkeypatch.setattr(progress, "seconds_of_step", lambda network, patches: 0.25)
    printed = benchmark(12, "--dry-run", "--json", "--quick", "--sizes", "4", *options)[1]
    found = json.loads(printed)["benchmarks"]
    assert [Budget.model_validate(one["design"]["budget"]).iterations for one in found] == [*steps]
    for one in found:
        assert len(one["tasks"]) > 2
        assert {need for needs in one["tasks"].values() for need in needs} < one["tasks"].keys()


def test_a_step_of_nnunets_network_takes_the_time_that_it_takes(one_case, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(one_case / "nnUNet_preprocessed"))
    preprocessed = open_preprocessed("950", "2d")
    plans = preprocessed.plans_manager.plans
    assert 0 < progress.seconds_by_steps(preprocessed, plans, 10, 1, "cpu") < 60
    monkeypatch.setattr(progress, "seconds_of_step", lambda *_: _raise(MemoryError()))
    assert progress.seconds_by_steps(preprocessed, plans, 10, 1, "cpu") is None


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("count", "options", "named"),
    [
        (2, (), "has 2"),
        (12, ("--sizes", "0"), "--sizes"),
        (12, ("--sizes", "9"), "--sizes"),
        (12, ("--device", "tpu"), "--device tpu"),
        (12, ("--device", "cuda:77"), "cuda:77"),
        (12, ("-o", "/etc/passwd"), "/etc/passwd"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(benchmark, tmp_path, count, options, named, dry):
    code, printed = benchmark(count, *options, *["--dry-run"] * dry)
    assert code == 2
    assert printed.startswith("Error: ")
    assert named in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out" / DESIGN_FILE).exists()


def test_a_folder_that_cannot_be_made_is_named(benchmark):
    code, printed = benchmark(12, "-o", "/proc/nothing")
    assert code == 2
    assert "/proc/nothing" in printed
    assert len(printed.splitlines()) == 1
