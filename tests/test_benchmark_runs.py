"""Running a benchmark: who is trained and tested on what, and that nothing that is done is done again."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DATASET, TINY_PLANS, run
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from rich.console import Console
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnunet_synth.bank.fill import IF_REFUSED
from nnunet_synth.benchmark import scheduler, task_runner
from nnunet_synth.benchmark.arms import Arm, choose_arms, read_arms
from nnunet_synth.benchmark.budget import SUFFIX, apply_budget, choose_budget
from nnunet_synth.benchmark.case_selection import find_subjects
from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import Design, load_or_create, make_design
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.progress import ProgressTable, estimate, make_table, seconds_by_epochs
from nnunet_synth.benchmark.scheduler import Resources, Scheduler, make_executor
from nnunet_synth.benchmark.scoring import COLUMNS, distance, hausdorff_95, read_rows, score_predictions, write_rows
from nnunet_synth.benchmark.task_runner import last_error, read_record, run_task
from nnunet_synth.benchmark.tasks import Task, commands, make_tasks
from nnunet_synth.benchmark.trainers import with_fixed_length
from nnunet_synth.benchmark.workspace import (
    BENCHMARK_TRAINERS,
    generator_folder,
    model_folder,
    plans_of,
    prepare_workspace,
)
from nnunet_synth.launcher import ext_trainer_path
from stylegan2_cond import io as documents
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import lock_folder

ALONE = Arm(name="nnunet", title="nnU-Net alone", baseline=True)
PAIR = Arm(name="pair", variant="pair")
IMAGE = Arm(name="image", variant="image", masks="deformed")


def design_of(preprocessed, arms=(ALONE, PAIR), **changes) -> Design:
    typed = {"sizes": "2,3", "training_sets": 2, "test_cases": "5", "quick": True}
    return make_design(preprocessed, arms, BenchmarkOptions("901", "2d", **typed | changes))


# --- who is trained and tested on what


@given(st.integers(0, 50), st.sampled_from(["5", "6", "7"]))
@settings(max_examples=20, deadline=None)
def test_no_training_set_has_a_test_case(preprocessed, seed, wanted):
    design = design_of(preprocessed, test_cases=wanted, seed=seed)
    assert len(design.test_cases) == int(wanted)
    for fold in design.training_sets:
        assert not {*fold.cases} & {*design.test_cases}


def test_other_seeds_draw_other_test_cases(preprocessed):
    assert len({design_of(preprocessed, seed=seed).test_cases for seed in range(8)}) > 1


def test_a_subject_is_never_on_both_sides(preprocessed):
    pattern = "[0-6]?$"  # the cases whose numbers end in 7, 8 and 9 are of one subject, called ""
    subjects = find_subjects(preprocessed.case_names(), pattern)
    assert sorted(map(list(subjects.values()).count, set(subjects.values()))) == [1] * 7 + [3]
    for seed in range(12):
        design = design_of(preprocessed, subjects=pattern, sizes="1,2", seed=seed)
        assert design.subjects == subjects
        for fold in design.training_sets:
            assert not {subjects[case] for case in fold.cases} & {subjects[case] for case in design.test_cases}


def test_a_subject_that_is_partly_named_for_testing_is_not_trained_on(preprocessed, tmp_path):
    (tmp_path / "test.txt").write_text("\n".join(preprocessed.case_names()[3:8]))  # 7 is of one subject with 8 and 9
    design = design_of(preprocessed, subjects="[0-6]?$", sizes="1", test_cases=str(tmp_path / "test.txt"))
    assert design.pool == tuple(preprocessed.case_names()[:3])


def test_names_that_look_like_slices_of_one_patient_are_asked_about():
    slices = [f"patient{patient:02d}_z{place:03d}" for patient in range(3) for place in range(20)]
    with pytest.raises(UserError, match="patient00_z000 and patient00_z001 seem to belong to one subject"):
        find_subjects(slices, None)
    assert len(set(find_subjects(slices, "^[^0-9]*[0-9]+").values())) == 3
    assert len(set(find_subjects(slices, "each").values())) == 60
    find_subjects([f"hippocampus_{number:03d}" for number in range(60)], None)
    find_subjects([f"BRATS2021_{number:03d}" for number in (*range(0, 60, 2),)] + ["BRATS"], "each")
    with pytest.raises(UserError, match="finds nothing in the name of case patient00_z000"):
        find_subjects(slices, "case")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_cases": "0"}, "--test-cases 0"),
        ({"test_cases": "10"}, "--test-cases 10"),
        ({"test_cases": "nowhere.txt"}, "neither a number nor a readable file"),
        ({"sizes": "6"}, "asks for 6 training cases; Dataset901_Virtual has 1 to 5 "),
        ({"sizes": "0"}, "asks for 0 training cases"),
        ({"sizes": "many"}, "--sizes many"),
    ],
)
def test_designs_that_cannot_be_are_refused(preprocessed, changes, message):
    with pytest.raises(UserError, match=message):
        design_of(preprocessed, **changes)


def test_test_cases_can_be_named(preprocessed, tmp_path):
    chosen = preprocessed.case_names()[2:8]
    (tmp_path / "test.txt").write_text("\n".join(chosen))
    assert design_of(preprocessed, test_cases=str(tmp_path / "test.txt")).test_cases == tuple(chosen)
    (tmp_path / "test.txt").write_text("\n".join([*chosen, "nobody"]))
    with pytest.raises(UserError, match="names nobody"):
        design_of(preprocessed, test_cases=str(tmp_path / "test.txt"))


# --- a folder is of one design


def test_another_design_in_the_same_folder_is_refused_with_what_differs(preprocessed, tmp_path):
    load_or_create(design_of(preprocessed), tmp_path / "b")
    for changes, message in [
        ({"test_cases": "6"}, "test_cases is"),
        ({"seed": 1}, "seed is 0 there, now 1"),
        ({"steps": 350}, "epochs is 80 there, now 7"),
        ({"kimg": 0.5}, "kimg is 8.0 there, now 0.5"),
        ({"arms": (ALONE, PAIR.model_copy(update={"ratio": 0.5}))}, "arm pair has other"),
    ]:
        with pytest.raises(UserError, match=message):
            load_or_create(design_of(preprocessed, **changes), tmp_path / "b")


def test_a_disk_that_cannot_be_written_to_is_told(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refused)
    with pytest.raises(UserError, match=str(tmp_path)), lock_folder(tmp_path):
        pass


def test_arms_sizes_and_training_sets_can_be_added_and_folds_keep_their_numbers(preprocessed, tmp_path):
    first = load_or_create(design_of(preprocessed), tmp_path)
    grown = load_or_create(design_of(preprocessed, arms=(ALONE, IMAGE), sizes="4", training_sets=3), tmp_path)
    assert [arm.name for arm in grown.arms] == ["nnunet", "pair", "image"]
    assert (grown.sizes, *map(grown.sets_of, (2, 3, 4))) == ((2, 3, 4), 3, 3, 3)
    assert grown.training_sets[: len(first.training_sets)] == first.training_sets
    assert {(fold.size, fold.number) for fold in grown.training_sets} == {(s, r) for s in (2, 3, 4) for r in range(3)}
    assert len(grown.training_sets) == 9
    assert load_or_create(design_of(preprocessed), tmp_path) == grown


def test_runs_can_be_added_and_nnunet_alone_keeps_its_three(preprocessed, tmp_path):
    first = make_tasks(load_or_create(design_of(preprocessed, sizes="2"), tmp_path))
    tasks = make_tasks(load_or_create(design_of(preprocessed, sizes="2", runs=2), tmp_path))
    assert {*tasks} - {*first} == {"run_pair_2_0_1", "run_pair_2_1_1"}
    assert sum(name.startswith("run_nnunet_2_0") for name in tasks) == 3
    assert tasks["run_pair_2_0_1"].needs == ("bank_pair_2_0",)  # runs of a training set share the bank


def test_runs_with_one_training_set_are_kept_apart(preprocessed, tmp_path):
    design = design_of(preprocessed)
    prepare_workspace(tmp_path, design, preprocessed)
    lines = [
        next(commands(task, design, tmp_path, "cpu")) for task in make_tasks(design).values() if task.kind == "run"
    ]
    trained = [(line[3], *line[line.index("-p") + 1 :]) for line in lines]
    assert len({*trained}) == len(trained) == 2 * 2 * (3 + 1)  # sizes, training sets
    assert {line[line.index("-p") + 1] for line in lines} == {
        path.stem for path in (tmp_path / "nnUNet_preprocessed" / DATASET).glob("nnUNetPlans_*.json")
    }


def test_the_protocol_is_written_before_anything_runs_and_stays(preprocessed, tmp_path):
    design = load_or_create(design_of(preprocessed), tmp_path)
    written = json.loads((tmp_path / "design.json").read_text())
    assert written["protocol"]["looks"] == [6, 12, 18]
    assert written["protocol"]["margin"] == 0.01
    written["protocol"]["margin"] = 0.02
    (tmp_path / "design.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="protocol is"):
        load_or_create(design, tmp_path)


def test_a_folder_with_other_things_is_left_alone(preprocessed, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        load_or_create(design_of(preprocessed), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_process_in_a_folder_is_told_who_works_there(tmp_path):
    for _ in range(2):
        with (
            lock_folder(tmp_path),
            pytest.raises(UserError, match=r"process \d+ on .* since \d"),
            lock_folder(tmp_path),
        ):
            pass


# --- arms


def test_the_shipped_arms_are_sound():
    arms, default = read_arms()
    assert set(default) == {"nnunet", "da5", "cutmix", "pair", "pseudo-cutmix", "oracle", "ensemble"}
    assert len({arm.name for arm in arms}) == len(arms) > 10
    assert [arm.trainer_name for arm in arms[:4]] == [
        "nnUNetTrainer",
        "nnUNetTrainerDA5",
        "nnUNetTrainerSynth",
        "nnUNetTrainerSynth",
    ]
    assert [arm.name for arm in choose_arms(None, ["pair"])] == ["nnunet", "pair"]


def test_nnunet_alone_is_nothing_to_compare_with(tmp_path):
    with pytest.raises(UserError, match=r"only nnunet, and nothing to compare.* --arm: da5, cutmix, pair"):
        choose_arms(None, ["nnunet"])
    (tmp_path / "arms.toml").write_text("[a]\nbaseline = true")
    with pytest.raises(UserError, match=r"nothing to compare it with. Add an arm to .*arms.toml"):
        choose_arms(tmp_path / "arms.toml", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "no arm is the baseline"),
        ("[a]\nbaseline = true\n[b]\nbaseline = true", "a and b are the baseline"),
        ("[a]\nbaseline = true\nvariant = 'pair'", "without a generator"),
        ("[a]\nbaseline = true\n[b]\nvariant = 'pears'", "pair, image, pair"),
        ("[a]\nbaseline = true\n[b]\nvariant = 'pair'\nmasks = 'real'", "variant image"),
        ("[a]\nbaseline = true\n[b]\nratoi = 0.5", "did you mean 'ratio'"),
        ("[a]\nbaseline = true\n[b]\nratio = 2", "less than or equal to 1"),
        ("[a]\nbaseline = true\n[b]\ntrainer = 'nnUNetTrainerSynth'", "needs a bank"),
        ("[A b]\nbaseline = true", "cannot be read as TOML"),
        ("x = 1", "x does not belong"),
    ],
)
def test_arms_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "arms.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_arms(tmp_path / "arms.toml")


def test_arms_that_differ_in_training_alone_share_generator_and_bank(preprocessed):
    half = Arm(name="half", variant="pair", ratio=0.5, schedule="pretrain")
    unfiltered = Arm(name="unfiltered", variant="pair", without=("fit",))
    design = design_of(preprocessed, arms=(ALONE, PAIR, half, unfiltered), sizes="2", training_sets=1)
    kinds = [task.kind for task in make_tasks(design).values()]
    assert (kinds.count("generator"), kinds.count("bank"), kinds.count("run")) == (1, 2, 3 + 3)


def test_a_bank_waits_for_its_generators_and_for_the_nnunet_that_its_filter_asks(preprocessed):
    da5 = Arm(name="da5", trainer="nnUNetTrainerDA5")
    drawn = Arm(name="generated", variant="image", masks="generated")
    design = design_of(preprocessed, arms=(ALONE, drawn, da5), sizes="2", training_sets=1)
    tasks = make_tasks(design)
    bank = tasks["bank_image_generated_2_0"]
    assert set(bank.needs) == {"run_nnunet_2_0", "generator_image_2_0", "generator_mask_2_0"}
    (command,) = commands(bank, design, Path("b"), "cpu")
    assert command[command.index("--nnunet") + 1] == str(model_folder(Path("b"), design, ALONE))
    order = list(tasks)
    for task in tasks.values():
        assert all(order.index(need) < order.index(task.name) for need in task.needs)


# --- what nnU-Net is given


def test_all_arms_train_equally_long_and_only_those_with_pairs_have_settings(preprocessed):
    design = design_of(preprocessed, arms=(ALONE, PAIR))
    alone_plans, pair_plans = (plans_of(design, arm, preprocessed.plans_manager.plans) for arm in design.arms)
    a, b = (plans["configurations"]["2d"] for plans in (alone_plans, pair_plans))
    assert b.pop("synth").items() >= {"bank": "pair", "ratio": 0.25, "schedule": "linear"}.items()
    assert a == b
    assert a["benchmark"]["epochs"] == design.budget.length.epochs
    assert a["architecture"]["arch_kwargs"]["features_per_stage"][:4] == [8, 16, 32, 64]


def test_without_quick_the_network_is_nnunets_own(preprocessed):
    plans = preprocessed.plans_manager.plans
    changed = apply_budget(plans, "2d", choose_budget(BenchmarkOptions("901", "2d")))["configurations"]["2d"]
    assert changed.pop("benchmark") == {"mirroring": True}
    assert changed == plans["configurations"]["2d"]


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerDA5", "nnUNetTrainerSynth"])
def test_quick_trainings_take_adamw_whose_rate_falls_as_nnunets_does(preprocessed, name, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", f"{ext_trainer_path(None)}{os.pathsep}{BENCHMARK_TRAINERS}")
    plans = plans_of(design_of(preprocessed), ALONE, preprocessed.plans_manager.plans) | {"continue_training": False}
    trainer = with_fixed_length(name + SUFFIX)(plans, "2d", 0, preprocessed.dataset_json, torch.device("cpu"))
    trainer.network = torch.nn.Linear(2, 2)
    optimizer, scheduler = trainer.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = []
    for epoch in range(trainer.num_epochs):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    epochs = trainer.num_epochs
    assert rates == pytest.approx([0.003 * (1 - epoch / epochs) ** 0.9 for epoch in range(epochs)])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("nnUNetTrainer", "nnUNetTrainer"),
        ("nnUNetTrainerDA5", "nnUNetTrainerDA5"),
        ("nnUNetTrainerSynth", "nnUNetTrainer"),
        ("nnUNetTrainerDA5Synth", "nnUNetTrainerDA5"),
    ],
)
def test_checkpoints_name_a_trainer_that_nnunet_alone_finds(preprocessed, tmp_path, name, plain, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", f"{ext_trainer_path(None)}{os.pathsep}{BENCHMARK_TRAINERS}")
    plans = plans_of(design_of(preprocessed), ALONE, preprocessed.plans_manager.plans) | {"continue_training": False}
    trainer = with_fixed_length(name + SUFFIX)(plans, "2d", 0, preprocessed.dataset_json, torch.device("cpu"))
    trainer.network = torch.nn.Linear(2, 2)
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=False)["trainer_name"] == plain
    assert type(trainer).__name__ == name + SUFFIX
    monkeypatch.delenv("nnUNet_extTrainer")
    assert recursive_find_trainer_class_by_name(plain).__name__ == plain


def test_the_folds_of_the_benchmark_are_nnunets_folds(preprocessed, tmp_path, monkeypatch):
    design = load_or_create(design_of(preprocessed), tmp_path)
    prepare_workspace(tmp_path, design, preprocessed)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_preprocessed"))
    inside = open_preprocessed(DATASET, "2d")
    for number, fold in enumerate(design.training_sets):
        found = inside.fold(number)
        assert (found.training, found.validation) == (fold.cases, design.test_cases)
    assert inside.case_names() == preprocessed.case_names()


@pytest.mark.parametrize("name", ["dataset.json", "dataset_fingerprint.json", "splits_final.json", "nnUNetPlans.json"])
def test_a_file_that_was_cut_off_is_whole_again_before_anything_reads_it(preprocessed, tmp_path, name):
    design = load_or_create(design_of(preprocessed), tmp_path)
    prepare_workspace(tmp_path, design, preprocessed)
    path = tmp_path / "nnUNet_preprocessed" / DATASET / name
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" + whole):
        path.write_bytes(damaged)
        prepare_workspace(tmp_path, design, preprocessed)
        assert path.read_bytes() == whole
    if name.startswith("dataset"):
        assert whole == (preprocessed.base / name).read_bytes()


def test_a_full_disk_leaves_no_part_of_a_copy(preprocessed, tmp_path, monkeypatch):
    design = load_or_create(design_of(preprocessed), tmp_path)

    def half(source, target):
        target.write_bytes(b"{")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(documents.shutil, "copyfile", half)
        with pytest.raises(UserError, match=r"dataset\.json"):
            prepare_workspace(tmp_path, design, preprocessed)
    base = tmp_path / "nnUNet_preprocessed" / DATASET
    assert not [path for path in base.iterdir() if path.is_file()]
    prepare_workspace(tmp_path, design, preprocessed)
    assert (base / "dataset.json").read_bytes() == (preprocessed.base / "dataset.json").read_bytes()


def test_cases_that_were_moved_are_linked_again(preprocessed, tmp_path):
    design = load_or_create(design_of(preprocessed), tmp_path)
    prepare_workspace(tmp_path, design, preprocessed)
    link = tmp_path / "nnUNet_preprocessed" / DATASET / preprocessed.configuration.data_identifier
    link.unlink()
    link.symlink_to(tmp_path / "where it was")
    prepare_workspace(tmp_path, design, preprocessed)
    assert link.resolve() == preprocessed.folder.resolve()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda design: design["arms"].pop(0),
        lambda design: design["training_sets"].pop(0),
        lambda design: design["training_sets"].append(design["training_sets"][0]),
        lambda design: design.pop("runs"),
        lambda design: design["sizes"].append(7),
        lambda design: design["training_sets"][0]["cases"].append(design["test_cases"][0]),
        lambda design: design.update(seed=float("inf")),
        lambda design: design.update(format_version=2),
    ],
)
def test_a_design_that_lost_a_part_is_refused_by_its_file(preprocessed, tmp_path, spoil):
    path = tmp_path / "design.json"
    design_of(preprocessed).save(path)
    design = json.loads(path.read_text())
    spoil(design)
    path.write_text(json.dumps(design))
    with pytest.raises(UserError, match=r"design\.json"):
        Design.load(path)


NOT_SUMMARIES = (
    "",
    "{",
    "[]",
    "{}",
    '{"metric_per_case": 3}',
    '{"metric_per_case": [{"prediction_file": 3}]}',
    "[" * 100_000,
)


@pytest.mark.parametrize("text", NOT_SUMMARIES)
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json"):
        score_predictions(SimpleNamespace(case_of=lambda file: file.split(".")[0]), tmp_path, ("a",))


# --- the 95 % Hausdorff distance


def hausdorff_by_definition(a, b, spacing):
    """Every surface voxel against every other: a voxel with a face towards the outside is of the surface."""

    def surface(mask):
        padded = np.pad(mask, 1)
        inner = [np.roll(padded, step, axis) for axis in range(mask.ndim) for step in (-1, 1)]
        return np.argwhere(padded & ~np.all(inner, axis=0)) * spacing

    distances = cdist(surface(a), surface(b))
    return max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1))


def blob(random, shape):
    return ndimage.gaussian_filter(random.normal(size=shape), 1.5) > 0.03


@given(st.integers(0, 10_000), st.sampled_from([(9, 12, 7), (14, 11), (5, 5, 5)]))
@settings(max_examples=40, deadline=None)
def test_hd95_is_that_of_all_pairs_of_surface_voxels_for_any_spacing(seed, shape):
    random = np.random.default_rng(seed)
    spacing = random.uniform(0.3, 4, size=len(shape))
    a, b = blob(random, shape), blob(random, shape)
    a.flat[random.integers(a.size)] = b.flat[random.integers(b.size)] = True
    assert hausdorff_95(a, b, spacing) == pytest.approx(hausdorff_by_definition(a, b, spacing), rel=1e-5, abs=1e-5)


def test_hd95_of_two_shifted_cubes_is_the_shift_in_mm():
    a, b = np.zeros((2, 20, 20, 20), dtype=bool)
    a[4:10, 5:10, 5:10] = b[7:13, 5:10, 5:10] = True
    assert hausdorff_95(a, b, (2.0, 1.0, 1.0)) == pytest.approx(6.0)
    assert hausdorff_95(a, a, (2.0, 1.0, 1.0)) == 0


def test_hd95_of_a_slice_knows_no_third_axis():
    a, b = np.zeros((2, 1, 12, 12), dtype=bool)
    a[0, 2:8, 2:8] = b[0, 2:8, 5:11] = True
    assert hausdorff_95(a, b, (999, 1.0, 0.5)) == hausdorff_95(a[0], b[0], (1.0, 0.5)) == pytest.approx(1.5)


def test_nothing_found_counts_as_the_diagonal_of_the_image():
    truth = np.zeros((1, 30, 40), dtype=bool)
    truth[0, 4, 4] = True
    assert distance(truth, np.zeros_like(truth), (999, 2.0, 2.0)) == pytest.approx(100)  # 60, 80
    assert distance(truth, truth, (999, 2.0, 2.0)) == 0


def test_hd95_is_undefined_where_a_mask_is_empty():
    a, b = np.zeros((2, 5, 5), dtype=bool)
    a[2, 2] = True
    assert np.isnan(hausdorff_95(a, b, (1, 1)))
    assert np.isnan(hausdorff_95(b, b, (1, 1)))


# --- running: each task is a command that notes that it was run


class Inline:
    """An executor that does each job at once, in this process."""

    def __init__(self):
        self.interrupt_at, self.submitted = None, []

    def update_parameters(self, **_):
        pass

    def submit(self, job, folder, name, threads, device):
        self.submitted.append(name)
        if name == self.interrupt_at:
            raise KeyboardInterrupt
        run_task(folder, name, threads, device)
        return self

    def done(self):
        return True


def wait_until(true):
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_alive(pid):
    """Whether a process runs; not one that has ended and waits to be told of."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.fixture
def bench(preprocessed, tmp_path, monkeypatch):
    """A benchmark whose commands write their task's name to `ran`, and fail where `broken` names them."""
    design = load_or_create(design_of(preprocessed, arms=(ALONE, PAIR), sizes="2", training_sets=2), tmp_path)
    ran, broken, executor = tmp_path / "ran", tmp_path / "broken", Inline()

    def noted(task, design, folder, device):
        yield [
            "python",
            "-c",
            f"import os\nopen({str(ran)!r}, 'a').write('{task.name}\\n')\n"
            f"if os.path.exists({str(broken)!r}) and '{task.name}' in open({str(broken)!r}).read():\n"
            "    print('warming up'); raise SystemExit('Error: the disk is full')",
        ]

    def scored(task, design, folder):
        rows = [{"case": case, "label": "1", "dice": "0.5"} for case in design.test_cases]
        write_rows(task_runner.scores_path(folder, task.name), COLUMNS, rows)

    monkeypatch.setattr(task_runner, "commands", noted)
    monkeypatch.setattr(task_runner, "score_run", scored)
    monkeypatch.setattr(scheduler, "make_executor", lambda folder, resources: executor)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.0)

    class Bench:
        folder, printed = tmp_path, io.StringIO()

        def finish(self, jobs=2):
            table = ProgressTable(Console(file=self.printed, width=200))
            done = Scheduler(tmp_path, design, Resources(jobs, threads=1), table)
            done.finish()
            write_tables(tmp_path, design, done.records)
            return done

        def ran(self):
            return ran.read_text().split() if ran.exists() else []

    bench = Bench()
    bench.design, bench.broken, bench.executor = design, broken, executor
    return bench


def test_everything_is_done_once_in_an_order_that_serves_needs(bench):
    run = bench.finish()
    assert sorted(bench.ran()) == sorted(make_tasks(bench.design))
    for task in make_tasks(bench.design).values():
        assert all(bench.ran().index(need) < bench.ran().index(task.name) for need in task.needs)
    assert bench.ran()[0].startswith("run_nnunet")  # by which the rest is estimated
    assert {record.state for record in run.records.values()} == {"done"}
    bench.finish()
    assert len(bench.ran()) == len(bench.executor.submitted) == len(make_tasks(bench.design))


def test_a_stopped_benchmark_goes_on_and_does_nothing_twice(bench):
    bench.executor.interrupt_at = "bank_pair_2_0"
    with pytest.raises(Stopped, match="The same command"):
        bench.finish()
    before = bench.ran()
    assert before
    assert "bank_pair_2_0" not in before
    bench.executor.interrupt_at = None
    bench.finish()
    assert bench.ran()[: len(before)] == before
    assert sorted(bench.ran()) == sorted(make_tasks(bench.design))


def test_a_failed_task_is_told_what_needs_it_waits_and_the_others_go_on(bench):
    bench.broken.write_text("generator_pair_2_0")
    run = bench.finish()
    assert run.records["generator_pair_2_0"].state == "failed"
    assert run.records["generator_pair_2_0"].error == "python: Error: the disk is full"
    assert "✗ generator pair, 2 cases, training set 0: python: Error: the disk is full" in bench.printed.getvalue()
    assert run.records["run_pair_2_0"].state == "missing"
    assert run.records["run_pair_2_1"].state == "done"
    rows = {(row["arm"], row["training_set"]): row for row in read_rows(bench.folder / "runs.csv")}
    assert rows["pair", "0"]["state"] == "missing"
    reason = "generator pair, 2 cases, training set 0 failed: python: Error: the disk is full"
    assert rows["pair", "0"]["error"] == reason
    assert rows["pair", "1"]["state"] == "done"
    assert {(row["arm"], row["training_set"]) for row in read_rows(bench.folder / "scores.csv")} == {
        ("nnunet", "0"),
        ("nnunet", "1"),
        ("pair", "1"),
    }
    before = bench.ran()
    bench.broken.unlink()
    run = bench.finish()
    assert bench.ran()[len(before) :] == ["generator_pair_2_0", "bank_pair_2_0", "run_pair_2_0"]
    assert {record.state for record in run.records.values()} == {"done"}


def test_a_refused_bank_advises_only_what_a_benchmark_can_do(bench, monkeypatch):
    said = f"Error: The filters refused 64 of 64 samples. {IF_REFUSED}: --without range --name pair_open"
    script = f"raise SystemExit({said!r})"
    monkeypatch.setattr(task_runner, "commands", lambda *_: iter([["python", "-c", script]]))
    run_task(bench.folder, "bank_pair_2_0", 1, "cpu")
    error = read_record(bench.folder, "bank_pair_2_0").error
    assert "refused 64 of 64" in error
    options = re.findall(r"(?<!\w)--?[a-z]+(?:-[a-z]+)?", error)
    known = run("nnunet-synth", "benchmark", "--help").stdout
    assert options
    assert all(re.search(rf"{option}\b", known) for option in options)
    arms = read_arms()[0]
    assert all(name in [arm.name for arm in arms] for name in re.findall(r"--arm ([a-z-]+)", error))


def test_what_failed_is_tried_again_and_what_needs_it_waits_for_that(bench):
    bench.broken.write_text("generator_pair_2_0 generator_pair_2_1")
    bench.finish()
    bench.broken.unlink()
    run = bench.finish(jobs=1)
    assert {record.state for record in run.records.values()} == {"done"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "done"}', "[" * 100_000, "9" * 6000])
def test_a_task_whose_record_is_damaged_is_named_and_done_again(bench, text, capsys):
    bench.finish()
    path = task_runner.record_path(bench.folder, "run_pair_2_0")
    path.write_text(text)
    before = bench.ran()
    run = bench.finish()
    assert str(path) in capsys.readouterr().err
    assert bench.ran()[len(before) :] == ["run_pair_2_0"]
    assert {record.state for record in run.records.values()} == {"done"}


def test_the_tables_hold_each_run_as_soon_as_it_has_ended(bench, monkeypatch):
    ended = []

    def noted(folder, design, records):
        write_tables(folder, design, records)
        states = [row["state"] for row in read_rows(folder / "runs.csv")]
        ended.append(states.count("done") + states.count("failed"))

    bench.broken.write_text("run_pair_2_0")
    monkeypatch.setattr(scheduler, "write_tables", noted)
    bench.finish()
    runs = [task for task in make_tasks(bench.design).values() if task.kind == "run"]
    assert ended == list(range(1, 1 + len(runs)))


@pytest.mark.parametrize(
    "text", [None, "", "case,label,dice,hd95,false_positive\na,1,0.5,,\n", "case,label\n\0", "dice\nnan\n"]
)
def test_a_run_whose_scores_are_damaged_is_left_out_and_done_again(bench, text, capsys):
    bench.finish()
    path = task_runner.scores_path(bench.folder, "run_pair_2_0")
    path.unlink() if text is None else path.write_text(text)
    write_tables(bench.folder, bench.design)
    assert str(path) in capsys.readouterr().err
    rows = {(row["arm"], row["training_set"]): row for row in read_rows(bench.folder / "runs.csv")}
    assert rows["pair", "0"]["state"] == "missing"
    assert str(path) in rows["pair", "0"]["error"]
    assert rows["pair", "1"]["state"] == "done"
    assert ("pair", "0") not in {(row["arm"], row["training_set"]) for row in read_rows(bench.folder / "scores.csv")}
    before = bench.ran()
    bench.finish()
    assert bench.ran()[len(before) :] == ["run_pair_2_0"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, "9" * 6000])
def test_damaged_records_of_a_generator_and_its_bank_are_named_and_left_out(bench, text, capsys):
    bench.finish()
    generator = generator_folder(bench.folder, bench.design, "pair", 0) / "snapshots" / "000001"
    bank = bench.folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d_synth" / "fold_0" / "pair"
    damaged = [generator / "card.json", generator / "evaluation.json", bank / "bank.json"]
    for path in damaged:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_tables(bench.folder, bench.design)
    said = capsys.readouterr().err
    assert all(str(path) in said for path in damaged)
    rows = {(row["arm"], row["training_set"]): row for row in read_rows(bench.folder / "runs.csv")}
    assert rows["pair", "0"]["state"] == "done"
    assert not any(rows["pair", "0"][key] for key in ("bank_samples", "generator_images", "kid", "kid_error"))


def test_the_cases_of_a_run_stand_in_its_row(bench):
    bench.finish()
    for row in read_rows(bench.folder / "runs.csv"):
        fold = bench.design.training_sets[bench.design.fold(int(row["size"]), int(row["training_set"]))]
        assert tuple(row["training_cases"].split()) == fold.cases
        length = bench.design.budget.length
        assert int(row["iterations"]) == length.epochs * length.iterations


def test_a_job_that_outlived_its_benchmark_is_awaited_and_not_done_again(bench):
    name = "run_nnunet_2_0"
    (bench.folder / "tasks").mkdir()
    with ThreadPoolExecutor(1) as pool, FileLock(bench.folder / "tasks" / f".{name}.lock"):
        second = pool.submit(run_task, bench.folder, name, 1, "cpu")
        time.sleep(0.5)
        assert not second.done()
        task_runner.TaskRecord(state="done").save(task_runner.record_path(bench.folder, name))
    second.result(timeout=10)
    assert bench.ran() == []


def test_a_job_that_dies_is_told(bench, monkeypatch):
    monkeypatch.setattr(bench.executor, "submit", lambda job, *arguments: bench.executor)
    monkeypatch.setattr(Inline, "paths", type("Paths", (), {"stderr": "its.err"}), raising=False)
    run = bench.finish()
    assert "the job ended without" in run.records["run_nnunet_2_0"].error


def test_a_stopped_command_is_killed_and_its_time_is_kept(bench, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        """As if Ctrl-C came half a second after the start."""

        def wait(self, timeout=None):
            if self.pid in started:
                return super().wait(timeout)
            started.append(self.pid)
            time.sleep(0.5)
            raise KeyboardInterrupt

    monkeypatch.setattr(task_runner, "commands", lambda *_: iter([["sleep", "600"]]))
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_task(bench.folder, "run_nnunet_2_0", 1, "cpu")
    monkeypatch.undo()
    assert not is_alive(started[0])
    record = read_record(bench.folder, "run_nnunet_2_0")
    assert record.state == "missing"
    assert record.seconds > 0.4


def test_a_killed_job_takes_its_command_with_it_and_its_time_is_told_by_its_log(bench, tmp_path):
    pid = tmp_path / "pid"
    code = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); print('here', flush=True); time.sleep(600)"
    )
    job = os.fork()
    if job == 0:
        task_runner.commands = lambda *_: iter([["python", "-c", code]])
        run_task(bench.folder, "run_nnunet_2_0", 1, "cpu")
        os._exit(0)
    wait_until(lambda: pid.exists() and pid.read_text())
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    wait_until(lambda: not is_alive(int(pid.read_text())))
    killed = read_record(bench.folder, "run_nnunet_2_0")
    assert killed.state == "running"
    log = task_runner.log_path(bench.folder, "run_nnunet_2_0")
    os.utime(log, (killed.started + 5000, killed.started + 5000))
    bench.finish()
    assert 5000 < read_record(bench.folder, "run_nnunet_2_0").seconds < 5500


def test_a_job_ends_with_its_benchmark_and_is_done_again_later(bench, tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with monkeypatch.context() as patch:
        patch.setattr(task_runner, "commands", lambda *_: iter([["python", "-c", code]]))
        owner = subprocess.Popen(["sleep", "600"])
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(run_task, bench.folder, "run_nnunet_2_0", 1, "cpu", owner.pid)
            wait_until(lambda: pid.exists() and pid.read_text())
            time.sleep(0.3)
            assert not job.done()
            owner.kill()
            owner.wait()
            with pytest.raises(SystemExit):
                job.result(timeout=20)
    assert not is_alive(int(pid.read_text()))
    record = read_record(bench.folder, "run_nnunet_2_0")
    assert (record.state, record.failures) == ("missing", 0)
    assert record.seconds > 0.2
    bench.finish()
    assert read_record(bench.folder, "run_nnunet_2_0").state == "done"


def test_the_error_of_a_log_is_its_last_line_that_is_no_bar_or_traceback(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "$ nnUNetv2_train\nEpoch 0\rEpoch 1\nTraceback (most recent call last):\n  File x, line 1\n    raise\n"
        "RuntimeError: out of memory\n/x/y.py:3: FutureWarning: old\n  warnings.warn(\n\n"
    )
    assert last_error(log) == "RuntimeError: out of memory"
    assert last_error(log, start=log.stat().st_size) == ""


FAKE_CLUSTER = {
    "sbatch": """#!/bin/sh
cp "$1" {folder}/submitted.sh
SLURM_JOB_ID=77 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 \\
    SLURM_JOB_NODELIST=here sh {folder}/submitted.sh > {folder}/job.log 2>&1 &
echo Submitted batch job 77
""",
    "srun": """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do case "$1" in --unbuffered) shift;; *) shift 2;; esac; done
exec "$@"
""",
    "sacct": """#!/bin/sh
printf 'JobID|State|NodeList\\n77|RUNNING|here\\n'
""",
}


def test_jobs_go_through_slurm_with_its_options(preprocessed, tmp_path, monkeypatch):
    """The cluster is three scripts that do what submitit expects of SLURM."""
    (tmp_path / "bin").mkdir()
    for name, text in FAKE_CLUSTER.items():
        (tmp_path / "bin" / name).write_text(text.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.1)
    folder = tmp_path / "benchmark"
    design = design_of(preprocessed, arms=(ALONE,), sizes="2", training_sets=1)
    design = load_or_create(design.model_copy(update={"baseline_runs": 1}), folder)
    resources = Resources(jobs=1, threads=3, slurm={"partition": "fast", "time": "90"})
    run = Scheduler(folder, design, resources, ProgressTable(Console(file=io.StringIO())))
    record = task_runner.record_path(folder, "run_nnunet_2_0")
    task_runner.TaskRecord(state="done", seconds=5).save(record)  # so the job is short
    run.finish()
    assert run.records["run_nnunet_2_0"].seconds == 5
    submitted = (tmp_path / "submitted.sh").read_text()
    for option in ("--partition=fast", "--time=90", "--cpus-per-task=3", "--job-name=run_nnunet_2_0"):
        assert f"#SBATCH {option}\n" in submitted


@pytest.mark.parametrize(
    ("options", "message"),
    [({"time": "1h"}, "in minutes"), ({"partitoin": "fast"}, "partitoin")],
)
def test_options_that_slurm_does_not_have_are_refused(tmp_path, monkeypatch, options, message):
    (tmp_path / "srun").write_text("")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=message):
        make_executor(tmp_path, Resources(jobs=1, threads=1, slurm=options))


def test_without_slurm_the_user_is_told(tmp_path):
    with pytest.raises(UserError, match="Without --slurm, jobs run on this machine"):
        make_executor(tmp_path, Resources(jobs=1, threads=1, slurm={"partition": "fast"}))


# --- how long it takes, and how far it is


def test_the_estimate_counts_what_is_left_at_what_the_like_of_it_took():
    done = {Task("run", "nnunet", 4, 0): 100.0, Task("run", "pair", 4, 0): 140.0}
    left = [Task("run", "nnunet", 4, 1), Task("run", "pair", 4, 1), Task("run", "image", 4, 1)]
    found = estimate(left, done, jobs=2)
    assert found.seconds == 100 + 140 + 120
    assert str(found) == "3 runs left: about 3 min with 2 jobs in parallel (6 min of jobs)."
    found = estimate([*left, Task("generator", "pair", 4, 1)], done, jobs=8)
    assert (found.unmeasured, found.jobs) == (("generator",), 4)
    assert "more for the generators" in str(found)
    assert str(estimate([], done, 2)) == "Nothing is left to do."


def test_the_first_epochs_foretell_a_training():
    log = "Epoch time: 30.0 s\nyada\nEpoch time: 10.0 s\nEpoch time: 14.0 s\n"
    assert seconds_by_epochs(log, 100) == 1200
    assert seconds_by_epochs("Epoch time: 30.0 s", 100) is None


def test_the_progress_table_has_a_mark_for_every_task(bench):
    run = bench.finish()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(make_table(run.tasks, run.records))
    text = console.export_text()
    assert text.count("✓") == len(run.tasks)
    assert "generator pair" in text


# --- all of it, with nnU-Net's own commands


@pytest.mark.slow
def test_a_small_benchmark_from_command_to_tables(preprocessed, tmp_path):
    """Real trainings, a real generator and bank; and what nnU-Net alone does is what nnU-Net's own trainer does."""
    folder = tmp_path / "benchmark"
    typed = (
        *("nnunet-synth", "benchmark", "901", "2d", "-p", TINY_PLANS, "--quick", "-o", str(folder)),
        *("--sizes", "3", "--training-sets", "1", "--test-cases", "5", "--arm", "pair-unfiltered"),
        *("--steps", "4", "--kimg", "0.048", "--jobs", "2", "--device", "cpu"),
    )
    done = run(*typed, check=False)
    design = Design.load(folder / "design.json")
    runs = read_rows(folder / "runs.csv")
    assert [(row["arm"], row["state"], row["error"]) for row in runs] == [
        *[("nnunet", "done", "")] * 3,
        ("pair-unfiltered", "done", ""),
    ]
    pair = runs[-1]
    assert int(pair["bank_samples"]) == design.budget.bank_samples
    assert float(pair["seconds_generator"]) > 0
    assert float(pair["kid"]) > -1
    with (folder / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert {(row["arm"], row["case"], row["label"]) for row in scores} == {
        (arm, case, label)
        for arm in ("nnunet", "pair-unfiltered")
        for case in design.test_cases
        for label in design.labels
    }
    base = folder / "nnUNet_results" / DATASET
    summary = json.loads(
        (base / f"nnUNetTrainer_benchmark__{TINY_PLANS}_nnunet__2d" / "fold_0/validation/summary.json").read_text()
    )
    by_case = {
        row["prediction_file"].split("/")[-1].split(".")[0]: row["metrics"] for row in summary["metric_per_case"]
    }
    for row in scores:
        if row["arm"] == "nnunet" and row["run"] == "0" and row["dice"]:
            assert float(row["dice"]) == pytest.approx(by_case[row["case"]][row["label"]]["Dice"], abs=1e-5)
    log = next(
        (base / f"nnUNetTrainerSynth_benchmark__{TINY_PLANS}_pair-unfiltered__2d" / "fold_0").glob("training_log*")
    ).read_text()
    assert "Synthetic pairs: bank" in log
    assert "](figures/gain.png)" in (folder / "report.md").read_text(encoding="utf-8")
    again = run(*typed, check=False)
    assert "Nothing is left to do." in again.stderr
    assert done.returncode == again.returncode == 0, done.stderr
