"""Arms of unlabelled cases and their controls train on what they claim, and never on a test case."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import DATASET
from made_benchmark import make_benchmark
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_synth.bank.format import BankRecord, TrueLabels
from nnunet_synth.bank.inspection import inspect_bank
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.benchmark import task_runner
from nnunet_synth.benchmark.analysis import analyse
from nnunet_synth.benchmark.arms import Arm, choose_arms, read_arms
from nnunet_synth.benchmark.collect import write_tables
from nnunet_synth.benchmark.design import Design, load_or_create, make_design
from nnunet_synth.benchmark.ensemble import predict_ensemble
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.protocol import Effect
from nnunet_synth.benchmark.report.page import write_report
from nnunet_synth.benchmark.report.verdict import conclude
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.benchmark.scoring import COLUMNS, read_rows, write_rows
from nnunet_synth.benchmark.task_runner import TaskRecord, read_record, run_task
from nnunet_synth.benchmark.tasks import commands, make_tasks
from nnunet_synth.benchmark.true_labels import fill_true_labels
from nnunet_synth.benchmark.workspace import bank_folder, model_folder, plans_of, predictions_folder, prepare_workspace
from nnunet_synth.export.model_card import describe_fold
from nnunet_synth.pseudo_labels.label import IF_ALL_REFUSED
from nnunet_synth.training.leak_guard import LeakError, refuse_leaks
from nnunet_synth.training.settings import SynthSettings
from nnunet_synth.training.usage_record import record_use
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source

TAUGHT_BY_ALL = Arm(name="taught-by-all", unlabelled="pseudo-labels", all_teachers=True)
CONTROLS = ("pseudo", "pseudo-cutmix", "pair-scans", "true-labels", "oracle", "ensemble")
ARMS = choose_arms(None, CONTROLS)
ARM = {arm.name: arm for arm in ARMS}


def design_of(preprocessed, arms=ARMS, **changes) -> Design:
    typed = {"sizes": "2,3", "training_sets": 2, "test_cases": "5", "quick": True}
    return make_design(preprocessed, arms, BenchmarkOptions("901", "2d", **typed | changes))


@pytest.fixture
def workspace(preprocessed, tmp_path, monkeypatch):
    """A benchmark's folder and its design; nnU-Net's variables point into it."""
    design = load_or_create(design_of(preprocessed), tmp_path)
    prepare_workspace(tmp_path, design, preprocessed)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path, design


# --- arms


def test_the_control_of_pseudo_labels_differs_in_its_labels_alone():
    assert (ARM["pseudo"].ratio, ARM["pseudo"].schedule) == (0.5, "linear")
    changed = ARM["pseudo"].model_dump().keys() - {"name", "title", "unlabelled"}
    assert all(getattr(ARM["true-labels"], key) == getattr(ARM["pseudo"], key) for key in changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nbaseline = true\nunlabelled = 'pseudo-labels'", "the baseline is nnU-Net alone"),
        ("[a]\nbaseline = true\n[b]\nunlabelled = 'generator'", "needs a variant"),
        ("[a]\nbaseline = true\n[b]\nunlabelled = 'labels'", "pseudo-labels, true-labels, .*training-cases"),
        ("[a]\nbaseline = true\n[b]\nunlabelled = 'true-labels'\nvariant = 'pair'", "one of variant, unlabelled"),
        ("[a]\nbaseline = true\ncutmix = 0.5", "the baseline is nnU-Net alone"),
        ("[a]\nbaseline = true\n[b]\nensemble = true\ncutmix = 0.5", "an ensemble is not trained"),
        ("[a]\nbaseline = true\n[b]\ntrainer = 'nnUNetTrainerDA5'\ncutmix = 0.5", "takes neither bank nor cutmix"),
        ("[a]\nbaseline = true\nensemble = true", "the baseline is nnU-Net alone"),
        ("[a]\nbaseline = true\n[b]\nensemble = true\nvariant = 'pair'", "one of variant, unlabelled"),
        (
            "[a]\nbaseline = true\n[b]\nvariant = 'pair'\n[c]\nvariant = 'pair'\nmix = ['b']",
            "one of variant, unlabelled",
        ),
        (
            "[a]\nbaseline = true\n[b]\nmix = ['c']\n[c]\nvariant = 'pair'",
            "mix must be a list .* above it, but is \\['c'\\]",
        ),
        ("[a]\nbaseline = true\n[b]\nmix = 3", "mix must be a list"),
        ("[a]\nbaseline = true\n[b]\nmix = [['a']]", "mix must be a list"),
        ("[a]\nbaseline = true\n[b]\nvariant = 'pair'\n[c]\nmix = ['b', 'b']", "none with the same bank"),
        ("[a]\nbaseline = true\n[b]\nmix = ['a']", "a bank each"),
        ("[a]\nbaseline = true\n[b]\nunlabelled = 'true-labels'\nall_teachers = true", "all_teachers is for"),
    ],
)
def test_arms_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "arms.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_arms(tmp_path / "arms.toml")


# --- tasks


def test_pseudo_labels_are_of_exactly_the_cases_left_by_the_baselines_nnunet(preprocessed, tmp_path):
    design = design_of(preprocessed)
    tasks = make_tasks(design)
    for one in design.training_sets:
        of_set = f"_{one.size}_{one.number}"
        banks = [name for name in tasks if name.startswith("bank_pseudo") and name.endswith(of_set)]
        assert banks == [f"bank_pseudo-labels{of_set}"]  # of the arms pseudo and pseudo-cutmix
        assert tasks[banks[0]].needs == (f"run_nnunet_{one.size}_{one.number}",)
        (command,) = commands(tasks[banks[0]], design, tmp_path, "cpu")
        option = dict(zip(command[5::2], command[6::2], strict=True))
        scans = option["-i"].split(",")
        assert sorted([*scans, *one.cases, *design.test_cases]) == preprocessed.case_names()
        assert option["--teacher"] == str(model_folder(tmp_path, design, design.baseline))
        assert command[:5] == ["nnunet-synth", "pseudo-label", DATASET, "2d", str(design.fold(one.size, one.number))]


def test_the_nnunets_of_all_runs_may_label_together_for_a_bank_of_its_own(preprocessed, tmp_path):
    design = design_of(preprocessed, arms=(*choose_arms(None, ["pseudo"]), TAUGHT_BY_ALL))
    tasks = make_tasks(design)
    bank = tasks["bank_pseudo-labels_all-teachers_2_0"]
    assert bank.needs == ("run_nnunet_2_0", "run_nnunet_2_0_1", "run_nnunet_2_0_2")
    assert tasks["run_taught-by-all_2_0"].needs == (bank.name,)
    (command,) = commands(bank, design, tmp_path, "cpu")
    teachers = [value for option, value in pairwise(command) if option == "--teacher"]
    assert teachers == [str(model_folder(tmp_path, design, design.baseline, run)) for run in range(3)]


def test_a_generator_learns_from_the_pseudo_labelled_bank_though_no_arm_trains_with_it(preprocessed, tmp_path):
    design = design_of(preprocessed, arms=choose_arms(None, ["pair-scans"]))
    tasks = make_tasks(design)
    assert tasks["bank_pseudo-labels_2_0"].needs == ("run_nnunet_2_0",)
    generator = tasks["generator_pair_with_pseudo-labels_2_0"]
    assert generator.needs == ("bank_pseudo-labels_2_0",)
    assert tasks["bank_pair_with-scans_2_0"].needs == ("run_nnunet_2_0", generator.name)
    label, train, fill = (
        next(commands(tasks[name], design, tmp_path, "cpu"))
        for name in ("bank_pseudo-labels_2_0", generator.name, "bank_pair_with-scans_2_0")
    )
    assert label[:2] == ["nnunet-synth", "pseudo-label"]
    for command, program in ((train, "stylegan2-cond"), (fill, "nnunet-synth")):
        assert command[0] == program
        assert (
            dict(zip(command[5::2], command[6::2], strict=True)).items()
            >= {
                "--variant": "pair",
                "--with-bank": label[label.index("--name") + 1],
            }.items()
        )


def test_an_arm_mixes_the_banks_of_others_alike_and_waits_for_both(preprocessed, tmp_path):
    alone = choose_arms(None, ["pseudo", "pair-scans"])
    design = design_of(preprocessed, arms=choose_arms(None, ["pseudo-pair-scans"]))
    mixed = design.arms[-1]
    assert [arm.name for arm in mixed.sources] == ["pseudo", "pair-scans"]
    tasks = make_tasks(design)
    banks = ("bank_pseudo-labels_2_0", "bank_pair_with-scans_2_0")
    assert tasks["run_pseudo-pair-scans_2_0"].needs == banks
    others = make_tasks(design_of(preprocessed, arms=alone))
    assert tasks.keys() - others.keys() == {name for name in tasks if name.startswith("run_pseudo-pair-scans")}
    for name in banks:
        assert [*commands(tasks[name], design, tmp_path, "cpu")] == [*commands(others[name], design, tmp_path, "cpu")]
    plans = plans_of(design, mixed, preprocessed.plans_manager.plans)
    settings = SynthSettings.model_validate(plans["configurations"]["2d"]["synth"])
    assert settings.shares == (("pseudo-labels", 0.25), ("pair_with-scans", 0.25))
    with pytest.raises(UserError, match=r"arm pseudo-pair-scans\b.*--sizes"):
        load_or_create(design_of(preprocessed, arms=design.arms, sizes="5"), tmp_path)


def test_masks_are_registered_with_the_pseudo_labelled_cases(preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_synth.benchmark.tasks.find_best", lambda run: run)
    design = design_of(preprocessed, arms=choose_arms(None, ["image-registered"]))
    tasks = make_tasks(design)
    assert tasks["bank_image_registered_2_0"].needs == (
        "run_nnunet_2_0", "generator_image_2_0", "bank_pseudo-labels_2_0"
    )  # fmt: skip
    (label,) = commands(tasks["bank_pseudo-labels_2_0"], design, tmp_path, "cpu")
    (fill,) = commands(tasks["bank_image_registered_2_0"], design, tmp_path, "cpu")
    assert fill[fill.index("--masks") + 1] == f"registered:{label[label.index('--name') + 1]}"
    with pytest.raises(UserError, match=r"arm image-registered\b.*--sizes"):
        load_or_create(design_of(preprocessed, arms=design.arms, sizes="5"), tmp_path)


def test_cases_of_a_test_subject_are_not_unlabelled_cases(preprocessed, tmp_path):
    (tmp_path / "test.txt").write_text("\n".join(preprocessed.case_names()[3:8]))  # 7 is of one subject with 8 and 9
    design = design_of(preprocessed, subjects="[0-6]?$", sizes="2", test_cases=str(tmp_path / "test.txt"))
    for fold, one in enumerate(design.training_sets):
        assert {*design.unlabelled(fold)} == {*preprocessed.case_names()[:3]} - {*one.cases}


def test_every_task_comes_after_what_it_needs(preprocessed):
    tasks = make_tasks(design_of(preprocessed, arms=ARMS[::-1]))
    order = list(tasks)
    for task in tasks.values():
        assert all(order.index(need) < order.index(task.name) for need in task.needs)
    assert tasks["run_ensemble_2_0"].needs == ("run_nnunet_2_0", "run_nnunet_2_0_1", "run_nnunet_2_0_2")
    assert tasks["bank_true-labels_2_0"].needs == ()


def test_plans_mix_the_bank_at_the_arms_ratio_and_only_one_arm_cuts_and_mixes(preprocessed):
    plans = preprocessed.plans_manager.plans
    blocks = {
        name: plans_of(design_of(preprocessed), arm, plans)["configurations"]["2d"].get("synth")
        for name, arm in ARM.items()
    }
    shared = {"ratio": 0.5, "schedule": "linear"}
    assert blocks["pseudo"].items() >= {"bank": "pseudo-labels", "cutmix": 0.0, **shared}.items()
    assert blocks["pseudo-cutmix"].items() >= {"bank": "pseudo-labels", "cutmix": 0.5, **shared}.items()
    assert blocks["true-labels"].items() >= {"bank": "true-labels", "cutmix": 0.0, **shared}.items()
    assert blocks["oracle"] is blocks["ensemble"] is blocks["nnunet"] is None


def test_cutmix_needs_no_bank(preprocessed):
    _, arm = choose_arms(None, ["cutmix"])
    design = design_of(preprocessed, arms=choose_arms(None, ["cutmix"]))
    assert arm.trainer_name == "nnUNetTrainerSynth"
    assert {task.kind for task in make_tasks(design).values()} == {"run"}
    plans = plans_of(design, arm, preprocessed.plans_manager.plans)
    settings = SynthSettings.model_validate(plans["configurations"]["2d"]["synth"])
    assert (settings.cutmix, settings.shares) == (0.5, ())


# --- oracle


def test_the_oracle_trains_on_training_set_and_pool_in_folds_that_keep_their_numbers(preprocessed, workspace, tmp_path):
    folder, _ = workspace
    added = design_of(preprocessed, arms=(ARM["nnunet"], ARM["oracle"]), sizes="4", training_sets=3)
    design = load_or_create(added, folder)
    prepare_workspace(folder, design, preprocessed)
    inside = open_preprocessed(DATASET, "2d")
    tasks = make_tasks(design)
    for place, one in enumerate(design.training_sets):
        (command,) = commands(tasks[f"run_oracle_{one.size}_{one.number}"], design, folder, "cpu")
        assert command[3] == str(1000 + place)
        fold = inside.fold(command[3])
        assert {*fold.training} == {*one.cases, *design.unlabelled(place)} == {*design.pool}
        assert fold.validation == design.test_cases
        assert not {*fold.training} & {*design.test_cases}
        assert inside.fold(place).training == one.cases
        assert command[5:8] == ["nnUNetPlans_oracle", "-tr", "nnUNetTrainer_benchmark"]


def test_without_an_oracle_there_are_no_more_folds_than_training_sets(preprocessed, tmp_path):
    design = load_or_create(design_of(preprocessed, arms=choose_arms(None, ["pseudo"])), tmp_path)
    prepare_workspace(tmp_path, design, preprocessed)
    splits = json.loads((tmp_path / "nnUNet_preprocessed" / DATASET / "splits_final.json").read_text())
    assert [tuple(split["train"]) for split in splits] == [one.cases for one in design.training_sets]


# --- true labels


@pytest.fixture
def true_labels(workspace):
    """The bank of the first training set."""
    return fill_true_labels(workspace[0], 0, "true-labels")


def test_the_bank_of_true_labels_holds_the_datasets_labels_of_exactly_the_pool(preprocessed, workspace):
    folder, design = workspace
    run_task(folder, "bank_true-labels_2_0", 1, "cpu")  # by its own command
    outcome = read_record(folder, "bank_true-labels_2_0")
    assert outcome.state == "done", outcome.error
    filled = bank_folder(folder, design, open_preprocessed(DATASET, "2d"), ARM["true-labels"], 0)
    record = verify_bank(filled, preprocessed)
    scans = [scan.name for scan in record.origin.scans]
    assert isinstance(record.origin, TrueLabels)
    assert sorted([*scans, *design.training_sets[0].cases, *design.test_cases]) == preprocessed.case_names()
    assert len(scans) == len(record.shards)
    bank = BankDataset(str(filled))
    for scan, shard in zip(record.origin.scans, record.shards, strict=True):
        image, label, _, _ = bank.load_case(shard.name)
        real = preprocessed.load(scan.name)
        assert np.array_equal(image[:], real.image[:])
        assert np.array_equal(label[:], real.label[:])
        assert scan.image_sha256 == case_hashes(preprocessed, [scan.name])[scan.name]


@pytest.mark.parametrize("content", ["shuffled-labels", "copies"])
def test_planted_banks_hold_what_is_known_to_harm_or_not_to_matter(preprocessed, workspace, content):
    _, design = workspace
    filled = fill_true_labels(workspace[0], 0, content, content)
    bank, record = BankDataset(str(filled)), verify_bank(filled, preprocessed)
    expected = design.training_sets[0].cases if content == "copies" else design.unlabelled(0)
    assert tuple(scan.name for scan in record.origin.scans) == expected
    for case, shard in zip(expected, record.shards, strict=True):
        image, label, _, _ = bank.load_case(shard.name)
        real = preprocessed.load(case)
        assert np.array_equal(image[:], real.image[:])
        assert np.array_equal(label[:], real.label[:]) == (content == "copies")
        assert {*np.unique(label[:])} <= {-1, 0, 1, 2}


def test_a_training_takes_the_bank_unless_a_validation_case_is_in_it(workspace, true_labels):
    _, design = workspace
    inside, record = open_preprocessed(DATASET, "2d"), BankRecord.load(true_labels / RECORD_FILE)
    here = Source.of(inside, inside.fold(0))
    refuse_leaks(true_labels, record, here, case_hashes(inside, design.test_cases))
    scan = record.origin.scans[0].name
    with pytest.raises(LeakError, match=f"1 of the 1 validation cases .*{scan}"):
        refuse_leaks(true_labels, record, here, case_hashes(inside, [scan]))


def test_what_was_trained_with_it_says_so(true_labels, tmp_path):
    record_use(tmp_path, "nnUNetTrainerSynth", 0, SynthSettings(bank="true-labels"), [true_labels])
    assert "with the dataset's own labels" in describe_fold(tmp_path, {}).summary
    with pytest.raises(UserError, match="benchmark's control"):
        inspect_bank(true_labels)


# --- ensemble


def write_model(folder, design, run, preprocessed):
    """What nnU-Net's training of a run of the baseline leaves in fold 0, untrained."""
    torch.manual_seed(run)
    plans, dataset_json = plans_of(design, design.baseline, preprocessed.plans_manager.plans), preprocessed.dataset_json
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    model = model_folder(folder, design, design.baseline, run)
    (model / "fold_0").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    trainer.save_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    return model


def own_probabilities(model, files):
    """nnU-Net's own probabilities of a case, from its raw files."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(path) for path in files])
    return predictor.predict_single_npy_array(image, properties, None, None, True)[1]


def test_an_ensemble_predicts_by_the_mean_probability_of_the_three_runs_of_nnunet_alone(
    preprocessed, nnunet_folders, workspace, monkeypatch
):
    folder, design = workspace
    models = [write_model(folder, design, run, preprocessed) for run in range(3)]
    predict_ensemble(folder, "ensemble", 0, "cpu")
    predictions = predictions_folder(folder, design, ARM["ensemble"], 0)
    ending = preprocessed.dataset_json["file_ending"]
    reader, alike = preprocessed.plans_manager.image_reader_writer_class(), []
    for case in design.test_cases:
        files = sorted((nnunet_folders / "nnUNet_raw" / DATASET / "imagesTr").glob(f"{case}_????{ending}"))
        own = [own_probabilities(model, files) for model in models]
        found, _ = reader.read_seg(str(predictions / f"{case}{ending}"))
        assert np.array_equal(found[0], np.mean(own, axis=0).argmax(axis=0))
        alike += [np.array_equal(found[0], one.argmax(axis=0)) for one in own]
    assert not any(alike)
    task = make_tasks(design)["run_ensemble_2_0"]
    (predict,) = commands(task, design, folder, "cpu")
    assert predict == ["python", "-m", "nnunet_synth.benchmark.ensemble", str(folder), "ensemble", "0", "cpu"]
    (folder / "tasks").mkdir()
    task_runner.score_run(task, design, folder)
    scores = read_rows(task_runner.scores_path(folder, task.name))
    assert {row["case"] for row in scores} == {*design.test_cases}


# --- tasks that end otherwise than well, and what everything costs


def test_a_bank_of_scans_is_done_though_some_of_them_could_not_be_used(workspace, true_labels, monkeypatch):
    folder, design = workspace
    name = "bank_pseudo-labels_2_0"
    script = [sys.executable, "-c", "print('1 scans cannot be used: x'); raise SystemExit(1)"]
    monkeypatch.setattr(task_runner, "commands", lambda *_: iter([script]))
    run_task(folder, name, 1, "cpu")
    assert read_record(folder, name).state == "failed"  # there is no bank
    true_labels.rename(bank_folder(folder, design, open_preprocessed(DATASET, "2d"), ARM["pseudo"], 0))
    run_task(folder, name, 1, "cpu")
    assert read_record(folder, name).state == "done"


def test_where_filters_refuse_all_scans_the_advice_is_what_a_benchmark_can_do(workspace, monkeypatch):
    folder, _ = workspace
    said = f"Error: None of 5 scans entered: x (confidence: 0.1). {IF_ALL_REFUSED}: --without confidence --name open"
    script = [sys.executable, "-c", f"raise SystemExit({said!r})"]
    monkeypatch.setattr(task_runner, "commands", lambda *_: iter([script]))
    run_task(folder, "bank_pseudo-labels_2_0", 1, "cpu")
    error = read_record(folder, "bank_pseudo-labels_2_0").error
    assert "None of 5 scans entered" in error
    assert "--arms" in error
    assert "--name" not in error


def test_an_arm_costs_what_its_teacher_bank_and_members_cost(workspace):
    folder, design = workspace
    seconds = {"run_nnunet": 1, "bank_pseudo-labels": 100, "bank_true-labels": 1000}
    records = {
        name: TaskRecord(state="done", seconds=seconds.get(f"{task.kind}_{task.target}", 5) * 10 ** (task.run == 1))
        for name, task in make_tasks(design).items()
    }
    (folder / "tasks").mkdir()
    rows = [{"case": case, "label": "1", "dice": "0.5"} for case in design.test_cases]
    for name in records:
        write_rows(task_runner.scores_path(folder, name), COLUMNS, rows)
    write_tables(folder, design, records)
    rows = {row["arm"]: row for row in read_rows(folder / "runs.csv")}
    costs = {arm: row["seconds_generator"] for arm, row in rows.items()}
    assert costs == {
        "nnunet": "",
        "oracle": "",
        "ensemble": "12.0",
        "pseudo": "101.0",
        "pseudo-cutmix": "101.0",
        "pair-scans": "111.0",  # its bank and generator, 5 each, and those of the arm pseudo
        "true-labels": "1000.0",
    }
    assert {*rows["oracle"]["training_cases"].split()} == {*design.pool}


# --- the report


@pytest.mark.parametrize(("gain", "effect"), [(0.0, Effect.NO_EVIDENCE), (0.05, Effect.HELPS)])
def test_the_verdict_is_on_pseudo_labels_and_not_on_their_controls(tmp_path, gain, effect):
    effects = {"pseudo": gain, "oracle": 0.1, "true-labels": 0.1}
    make_benchmark(tmp_path, effects, sizes=(4, 8), training_sets=12, cases=8, run_luck=0.01, seed=1)
    benchmark = read_benchmark(tmp_path)
    verdict = conclude(analyse(benchmark))
    assert verdict.effect is effect
    assert "pseudo-labels help" in verdict.sentence.lower()
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# Do pseudo-labels help?")
    assert all(f"| {arm.title} |" in report for arm in benchmark.arms)


def test_an_arm_of_unlabelled_cases_cannot_join_a_design_that_labels_all(preprocessed, tmp_path):
    load_or_create(design_of(preprocessed, arms=(ARM["nnunet"], Arm(name="other")), sizes="2,5"), tmp_path)
    with pytest.raises(UserError, match=r"arm pseudo\b.*--sizes"):
        load_or_create(design_of(preprocessed, arms=(ARM["nnunet"], ARM["pseudo"])), tmp_path)
