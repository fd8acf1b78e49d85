"""One small cohort, preprocessed by nnU-Net's own command, and a narrow generator trained on it, for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import entry_points
from pathlib import Path

import hypothesis
import pytest

os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", MPLBACKEND="agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch: two workers share two cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # no thread spins while another works

import torch
from raw_cases import run_options

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.demo.cohort import write_cohort
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.planning import Plan, make_plan, run_folder
from stylegan2_cond.training import run_setup
from stylegan2_cond.training.profile_step import StepCost
from stylegan2_cond.training.train import train

# The same examples each time, and no clock: what fails does so on every machine, and by what was changed.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")

DATASET = "Dataset901_Virtual"
TINY_PLANS = "nnUNetPlansTiny"
STRICT = ("range", "anatomy", "fit", "copy")
BIN = Path(sys.executable).parent


def run(*command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess:
    """Run an installed command of this environment and keep what it prints."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, env=os.environ | variables
    )
    assert not check or done.returncode == 0, (
        f"{command} → {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    )
    return done


@pytest.fixture
def run_here(monkeypatch, capfd):
    """Run an installed command in this process, where all is imported; returns code, stdout and stderr."""

    def run_here(command: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        (entry,) = entry_points(group="console_scripts", name=command)
        with pytest.raises(SystemExit) as ended:
            entry.load()()
        return (ended.value.code or 0, *capfd.readouterr())

    return run_here


@pytest.fixture(autouse=True)
def same_threads():
    """nnU-Net sets torch's number of threads and leaves it so; sums over more threads round differently."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def no_measured_step():
    """Trainings in this process make their plans without a real step, which takes seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_setup, "measure_step", lambda plan, device: StepCost(peak_bytes=0, seconds_per_step=1.0))
        yield


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay with one worker, and so do all files that need a trained nnU-Net: it is trained once."""
    trained = {item.path for item in items if "model" in item.fixturenames}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("model" if item.path in trained else item.path.stem))


def narrow(plan: Plan, **changes: object) -> Plan:
    """The same plan with networks that train in seconds."""
    return plan.model_copy(
        update={"channels": (16,) * len(plan.channels), "latent_dim": 16, "style_dim": 16, "batch_size": 8, **changes}
    )


@pytest.fixture(scope="session")
def nnunet_folders(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("nnunet")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(base / variable)
        (base / variable).mkdir()
    return base


@pytest.fixture(scope="session")
def preprocessed(nnunet_folders) -> Preprocessed:
    """Ten training subjects in `.b2nd`, two test subjects in nnUNet_raw, and plans for a tiny nnU-Net."""
    write_cohort(nnunet_folders / "nnUNet_raw" / DATASET, training=10, test=2, seed=0)
    run("nnUNetv2_plan_and_preprocess", "-d", "901", "-c", "2d", "-np", "1", "-npfp", "1")
    base = nnunet_folders / "nnUNet_preprocessed" / DATASET
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    plans["plans_name"] = TINY_PLANS
    configuration = plans["configurations"]["2d"]
    configuration["batch_size"] = 4
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8] * network["n_stages"]
    (base / f"{TINY_PLANS}.json").write_text(json.dumps(plans))
    return open_preprocessed(901, "2d")


@pytest.fixture(scope="session")
def plan(preprocessed) -> Plan:
    fold = preprocessed.fold(0)
    return narrow(make_plan(run_options(preprocessed, "0"), preprocessed, fold))


@pytest.fixture(scope="session")
def generator_run(preprocessed, plan) -> Path:
    """The folder of a generator that saw 480 images of fold 0."""
    folder = run_folder(plan.source)
    plan.save(folder / "plan.json")
    return train(run_options(preprocessed, "0", kimg=0.48))


@pytest.fixture(scope="session")
def bank(preprocessed, generator_run) -> Path:
    """A bank of 100 samples for fold 0, of a generator so young that most filters would refuse all of them."""
    return fill_bank(preprocessed, "0", FillRequest(samples=100, name="tests", without=STRICT))


@pytest.fixture(scope="session")
def model(preprocessed, bank, nnunet_folders):
    """The folder of a nnU-Net trained by `nnunet-synth train`, and what it printed."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")  # the newest bank, whatever other tests filled
    BankRecord.load(bank / RECORD_FILE).model_copy(update={"created": now}).save(bank / RECORD_FILE)
    done = run(
        "nnunet-synth",
        "train",
        "901",
        "2d",
        "0",
        "-p",
        TINY_PLANS,
        "-tr",
        "nnUNetTrainerSynth_1epoch",
        "-device",
        "cpu",
    )
    results = nnunet_folders / "nnUNet_results" / DATASET
    return results / f"nnUNetTrainerSynth_1epoch__{TINY_PLANS}__2d", done.stdout
