"""One small cohort, preprocessed by nnU-Net's own command, and a narrow generator trained on it, for all tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import entry_points
from pathlib import Path

import hypothesis
import pytest

os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", MPLBACKEND="agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch: two workers share two cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # no thread spins while another works

import torch
from filelock import FileLock
from raw_cases import run_options

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.demo.cohort import write_cohort
from stylegan2_cond.data.nnunet_dataset import Preprocessed, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
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

# `nnUNetv2_plan_and_preprocess`, which otherwise gathers 2 GiB of intensities for statistics that only CT needs.
FEW_VOXELS = """
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry
begin = DatasetFingerprintExtractor.__init__
def few(self, *args, **options):
    begin(self, *args, **options)
    self.num_foreground_voxels_for_intensitystats = 10**5
DatasetFingerprintExtractor.__init__ = few
plan_and_preprocess_entry()
"""

# `nnunet-synth` with fewer iterations per epoch than nnU-Net has.
ITERATIONS = 100
SHORT = f"""
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
begin = nnUNetTrainer.__init__
def short(self, plans, configuration, fold, dataset_json, device):
    begin(self, plans, configuration, fold, dataset_json, device)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {ITERATIONS}, 10
nnUNetTrainer.__init__ = short
from nnunet_synth.cli import main
main()
"""

# Python reads it at its start, in each command and in what that starts.
FEW_ITERATIONS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
begin = nnUNetTrainer.__init__
def short(self, plans, configuration, fold, dataset_json, device):
    begin(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 10, 2
nnUNetTrainer.__init__ = short
"""

# Files that one worker runs together, since they share what takes long to make: a trained nnU-Net, files to attack.
TOGETHER = {
    "model": ("test_evaluate", "test_export_model", "test_features_nnunet", "test_trainer"),
    "attack": ("test_disk", "test_fuzz", "test_kills", "test_leaks", "test_two_at_once"),
}
# What takes longest comes first, so that no worker is left with it at the end.
FIRST = ("model", "attack", "test_many_processes", "test_training", "test_all_of_nnunet", "test_ops_build")


def run(*command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess:
    """Run an installed command of this environment and keep what it prints."""
    return _run([str(BIN / command[0]), *command[1:]], check, variables)


def run_code(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run Python code that ends with a command's own function."""
    return _run([sys.executable, "-c", code, *arguments], True, variables)


def _run(command: list[str], check: bool, variables: dict[str, str]) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
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


@pytest.fixture
def few_iterations(tmp_path_factory, monkeypatch):
    """Epochs of nnU-Net in commands are short, and one is all if the trainer's name does not say how many."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "sitecustomize.py").write_text(FEW_ITERATIONS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


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


def group_of(file: str) -> str:
    """What one worker runs together: a file, or several of `TOGETHER`."""
    name = Path(file).stem
    return next((group for group, files in TOGETHER.items() if name in files), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups of `FIRST` come first."""
    for item in items:
        assert "model" not in item.fixturenames or group_of(item.path) == "model", f"{item.path.name} uses `model`"
    order = {group: place for place, group in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(group_of(item.path), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out whole groups, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker that asks for it fills by `make(folder)`, and that the others wait for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            (part := folder.with_suffix(".part")).mkdir()
            make(part)
            part.rename(folder)
    return folder


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


def make_preprocessed(base: Path, training: int = 10) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (base / variable).mkdir()
    write_cohort(base / "nnUNet_raw" / DATASET, training=training, test=2, seed=0)
    variables = {variable: str(base / variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed")}
    run_code(FEW_VOXELS, "-d", "901", "-c", "2d", "-np", "1", "-npfp", "1", **variables)
    folder = base / "nnUNet_preprocessed" / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["plans_name"] = TINY_PLANS
    configuration = plans["configurations"]["2d"]
    configuration["batch_size"] = 4
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8] * network["n_stages"]
    (folder / f"{TINY_PLANS}.json").write_text(json.dumps(plans))


@pytest.fixture(scope="session")
def preprocessed(nnunet_folders, tmp_path_factory) -> Preprocessed:
    """Ten training subjects in `.b2nd`, two test subjects in nnUNet_raw, and plans for a tiny nnU-Net."""
    made = made_once(tmp_path_factory, "preprocessed", make_preprocessed)
    shutil.copytree(made, nnunet_folders, dirs_exist_ok=True)
    return open_preprocessed(901, "2d")


@pytest.fixture(scope="session")
def plan(preprocessed) -> Plan:
    fold = preprocessed.fold(0)
    return narrow(make_plan(run_options(preprocessed, "0"), preprocessed, fold))


@pytest.fixture(scope="session")
def generator_run(nnunet_folders, preprocessed, plan, tmp_path_factory) -> Path:
    """The folder of a generator that saw 480 images of fold 0."""

    def make(results: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_results", str(results))
            plan.save(run_folder(plan.source) / "plan.json")
            train(run_options(preprocessed, "0", kimg=0.48))

    made = made_once(tmp_path_factory, "generator_run", make)
    shutil.copytree(made, nnunet_folders / "nnUNet_results", symlinks=True, dirs_exist_ok=True)
    return run_folder(plan.source)


@pytest.fixture(scope="session")
def bank(preprocessed, generator_run) -> Path:
    """A bank of 100 samples for fold 0, of a generator so young that most filters would refuse all of them."""
    return fill_bank(preprocessed, "0", FillRequest(samples=100, name="tests", without=STRICT))


@pytest.fixture(scope="session")
def model(preprocessed, bank, nnunet_folders):
    """The folder of an nnU-Net trained by `nnunet-synth train`, and what it printed."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")  # the newest bank, whatever other tests filled
    BankRecord.load(bank / RECORD_FILE).model_copy(update={"created": now}).save(bank / RECORD_FILE)
    line = ["train", "901", "2d", "0", "-p", TINY_PLANS, "-tr", "nnUNetTrainerSynth_1epoch", "-device", "cpu"]
    done = run_code(SHORT, *line)
    results = nnunet_folders / "nnUNet_results" / DATASET
    return results / f"nnUNetTrainerSynth_1epoch__{TINY_PLANS}__2d", done.stdout
