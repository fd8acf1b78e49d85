"""`nnunet-synth status` lists what there is for a dataset, whatever its files hold, and what to type next."""

import json
import random
import shlex
import subprocess
import sys

import numpy as np
import pytest
from damage import WRONG, choose_value, damage
from raw_cases import LABELS, cohort, own_folders, preprocess
from raw_files import make_bank, write_record
from test_docs import parse
from tiny import tiny_plan

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.resume import fill_command
from nnunet_synth.status import read_status
from nnunet_synth.training.settings import make_settings, write_plans
from stylegan2_cond.data.nnunet_folders import PLAN_FILE, RECORD_FILE
from stylegan2_cond.folders import lock_folder
from stylegan2_cond.planning import Source, run_folder
from stylegan2_cond.training.log_file import LOG_FILE, Log
from stylegan2_cond.training.model_selection import link_best

NAME = "Dataset950_Small"
SPLITS = [{"train": ["case_0", "case_1"], "val": ["case_2"]}]
PREPROCESS = "nnUNetv2_plan_and_preprocess -d 950 -c 2d"
GENERATOR = f"stylegan2-cond train {NAME} 2d 0"
BANK = f"nnunet-synth bank {NAME} 2d 0 -n 1000"
TRAIN = f"nnunet-synth train {NAME} 2d 0"
BENCHMARK = f"nnunet-synth benchmark {NAME} 2d --quick"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three preprocessed cases, and nothing else."""
    return preprocess(own_folders(tmp_path, monkeypatch), cohort(3), LABELS, SPLITS)


@pytest.fixture
def status(run_here, monkeypatch):
    """What the command says as JSON; each next command is one that its program takes."""

    def status() -> dict:
        code, out, err = run_here("nnunet-synth", "status", "950", "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        for command in found["next"]:
            parse(shlex.split(command, comments=True), monkeypatch)
        assert run_here("nnunet-synth", "status", NAME)[0] == 0
        return found

    return status


def make_generator(data, images, *, variant="pair", kimg=2.0):
    """A run that saw so many images, with a scored snapshot after each thousand, the best of which is the first."""
    source = Source.of(data, data.fold(0))
    folder = run_folder(source, variant)
    folder.mkdir(parents=True)
    tiny_plan(variant, source=source, kimg=kimg).save(folder / PLAN_FILE)
    log = Log(folder, 0)
    for seen in range(500, images + 1, 500):
        log.write(seen, {"loss_generator": 1.0} | ({} if seen % 1000 else {"kid": seen / 1e4, "kid error": 0.01}))
    if images >= 1000:
        (folder / "snapshots" / f"{1000:09d}").mkdir(parents=True)
        link_best(folder, folder / "snapshots" / f"{1000:09d}")
    return folder


def make_training(data, *, trainer="nnUNetTrainerSynth", epoch=9, final=True, dice=0.875, plans="nnUNetPlans"):
    """What nnU-Net's training leaves of ten epochs."""
    folder = run_folder(Source.of(data, data.fold(0))).parents[1] / f"{trainer}__{plans}__2d" / "fold_0"
    (folder / "validation").mkdir(parents=True)
    (folder / "debug.json").write_text(json.dumps({"num_epochs": "10"}))
    lines = (f"2026-01-01 00:00:00.000000: {text} \n" for n in range(epoch + 1) for text in ("", f"Epoch {n}"))
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text("".join(lines))
    if final:
        (folder / "checkpoint_final.pth").touch()
    if dice is not None:
        (folder / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": dice}}))
    if "Synth" in trainer:
        (folder / "synthetic_data.json").write_text("{}")
    return folder


def fill(data, requested=4):
    """A bank of four pairs."""
    folder = make_bank(data, np.zeros((4, 2, 16, 14)), np.zeros((4, 16, 14)), "pairs")
    record = json.loads((folder / RECORD_FILE).read_text())
    write_record(folder, {key: value for key, value in record.items() if key != "checksum"} | {"requested": requested})
    return folder


def test_each_step_leads_to_the_next(data, status):
    """From preprocessed cases to the question whether it helps."""
    assert status()["next"] == [GENERATOR]
    make_generator(data, 2000)
    assert status()["next"] == [BANK]
    fill(data)
    assert status()["next"] == [TRAIN]
    write_plans(data, make_settings(ratio=0.5, banks=["pairs"]), "Mixed")
    assert status()["next"] == [f"{TRAIN} -p Mixed"]
    make_training(data, plans="Mixed")
    assert status()["next"] == [BENCHMARK]


def test_what_was_stopped_continues_with_the_command_that_began_it(data, status):
    make_generator(data, 500, variant="image")
    assert status()["next"] == [f"{GENERATOR} --variant image"]
    record = BankRecord.load(fill(data, requested=100) / RECORD_FILE)
    assert status()["next"][1] == fill_command(record)


@pytest.mark.parametrize(
    ("left", "option"), [({"epoch": 3, "final": False, "dice": None}, "--c"), ({"dice": None}, "--val")]
)
def test_a_training_of_nnunet_continues(data, status, left, option):
    make_training(data, trainer="nnUNetTrainer", **left)
    (command, *_) = status()["next"]
    assert command.startswith(f"{TRAIN} -tr nnUNetTrainer {option}  #")


def test_nothing_starts_twice(data, status):
    generator, bank = make_generator(data, 500), fill(data, requested=100)
    with lock_folder(generator), lock_folder(bank, inside=False):
        found = status()
    assert found["generators"][0]["state"] == "running"
    assert found["banks"][0]["state"] == "filling"
    assert found["next"] == []
    assert len(status()["next"]) == 2


def test_cases_come_first(data, status):
    for path in data.folder.iterdir():
        path.unlink()
    assert status()["next"] == [PREPROCESS]


def test_progress_and_scores_are_those_of_the_files(data, status, run_here):
    make_generator(data, 2000)
    fill(data)
    make_training(data, epoch=3, dice=float("nan"))
    write_plans(data, make_settings(ratio=0.5, banks=["pairs"]), "Mixed")
    found = status()
    assert [(one["plans"], one["cases"], one["banks"]) for one in found["preprocessed"]] == [
        ("Mixed", 3, {"pairs": 0.5}),
        ("nnUNetPlans", 3, {}),
    ]
    assert found["splits"] == [{"folds": 1}]
    (generator,), (bank,), (training,) = (found[kind] for kind in ("generators", "banks", "trainings"))
    assert (generator["images"], generator["total_images"], generator["state"]) == (2000, 2000, "finished")
    assert (generator["best_snapshot"], generator["scores"]) == (1000, {"kid": 0.1})
    assert (bank["samples"], bank["requested"], bank["state"], bank["kind"]) == (4, 4, "complete", "generators")
    assert (training["epochs"], training["total_epochs"], training["dice"]) == (4, 10, None)
    out = run_here("nnunet-synth", "status", NAME)[1]
    for part in ("2,000 of 2,000 images", "best snapshot after 1,000 (kid 0.1)", "4 of 4 pairs", "epoch 4 of 10"):
        assert part in out


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", '{"format_version": 5}', b"\xff", None])
def test_a_damaged_file_is_named_and_stops_nothing_else(data, status, content):
    generator, bank, training = make_generator(data, 2000), fill(data), make_training(data)
    make_training(data, trainer="Other")
    base = data.base
    names = (training / "validation" / "summary.json", generator / PLAN_FILE, bank / RECORD_FILE)
    for path in (*names, generator / LOG_FILE, training / "debug.json", base / "splits_final.json", base / "x.json"):
        damage(path, content)
    found = status()
    assert [one["cases"] for one in found["preprocessed"]] == [3]
    assert [one["trainer"] for one in found["trainings"]] == ["Other"]
    for path in names:
        assert any(str(path) in problem for problem in found["unreadable"])


def test_no_value_of_a_file_stops_it(data, capsys):
    """One value of a file at a time is replaced."""
    generator, bank, training = make_generator(data, 2000), fill(data), make_training(data)
    paths = [generator / PLAN_FILE, bank / RECORD_FILE, training / "debug.json", training / "validation/summary.json"]
    paths += [write_plans(data, make_settings(ratio=0.5, banks=["pairs"]), "Mixed"), data.base / "splits_final.json"]
    chance = random.Random(0)
    for path in paths * 30:
        whole = path.read_text()
        content = json.loads(whole)
        part, key = choose_value(content, chance)
        part[key] = chance.choice([*WRONG, 10**400, float("nan"), float("inf")])
        if path.name == RECORD_FILE:
            content.pop("checksum", None)
            write_record(bank, content)
        else:
            path.write_text(json.dumps(content))
        found = read_status(NAME)
        found.show()
        json.dumps(found.json(), allow_nan=False)
        path.write_text(whole)


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        *((absent, PREPROCESS.replace("950", "951")) for absent in ("951", "Dataset951_Tiny")),
        *((malformed, "4 or Dataset004_") for malformed in ("", "Dataset", "Small")),
    ],
)
def test_another_dataset_is_refused_with_those_that_exist(data, run_here, dataset, remedy):
    code, out, err = run_here("nnunet-synth", "status", dataset)
    assert (code, out) == (2, "")
    assert NAME in err
    assert remedy in err
    assert ("nnUNetv2" in err) == ("nnUNetv2" in remedy)


@pytest.mark.parametrize("variable", ["nnUNet_preprocessed", "nnUNet_results"])
def test_a_variable_that_is_not_set_is_named(data, run_here, monkeypatch, variable):
    monkeypatch.delenv(variable)
    code, _, err = run_here("nnunet-synth", "status", "950")
    assert code == 2
    assert f"export {variable}=" in err


def test_it_does_not_wait_for_torch(data):
    """Which takes seconds to import."""
    make_generator(data, 2000), fill(data), make_training(data)
    code = f"import sys; from nnunet_synth.status import read_status; assert read_status({NAME!r}).next; "
    subprocess.run([sys.executable, "-c", f"{code}sys.exit('torch' in sys.modules)"], check=True)
