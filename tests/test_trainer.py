"""nnU-Net's own commands, with the plugin and, for inference, without it."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import BIN, DATASET, ITERATIONS, TINY_PLANS, run
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_synth import cli, launcher
from nnunet_synth.training import trainer as trainers
from nnunet_synth.training.settings import SynthSettings
from nnunet_synth.training.trainer import SyntheticDataMixin
from stylegan2_cond.errors import UserError

# Commands one after the other, for the price of one start of Python, as if what is missing had never been installed.
ONE_BY_ONE = """
import json, sys
from importlib.metadata import entry_points
for package in {missing!r}:
    sys.modules[package] = None
for command in json.loads(sys.argv[1]):
    sys.argv = command
    (script,) = entry_points(group="console_scripts", name=command[0])
    try:
        script.load()()
    except SystemExit as end:
        if end.code:
            raise
"""


def one_by_one(*commands, missing=()):
    """Run commands in one process of its own."""
    typed = json.dumps([[str(part) for part in command] for command in commands])
    variables = {k: v for k, v in os.environ.items() if not missing or k != launcher.VARIABLE}
    code = ONE_BY_ONE.format(missing=missing)
    done = subprocess.run([sys.executable, "-c", code, typed], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_share_of_the_epoch_stands_in_nnunets_log(model):
    folder, _ = model
    log = min((folder / "fold_0").glob("training_log_*.txt")).read_text()  # later ones are of other tests
    share, ratio, synthetic, total = re.search(
        r"Synthetic share ([\d.]+) \(ratio ([\d.]+); (\d+) of (\d+) draws\)", log
    ).groups()
    assert float(ratio) == 0.25
    assert int(total) >= 4 * ITERATIONS  # and what workers drew ahead
    assert abs(float(share) - 0.25) < 4 * (0.25 * 0.75 / int(total)) ** 0.5
    assert float(share) == pytest.approx(int(synthetic) / int(total), abs=1e-4)
    assert "Synthetic pairs: bank" in log


def test_the_training_learnt_something(model):
    folder, _ = model
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] > 0.3


def test_the_checkpoint_names_the_plain_trainer(model):
    folder, _ = model
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        checkpoint = torch.load(folder / "fold_0" / name, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer_1epoch"


def test_predict_and_evaluate_work_without_the_plugin(model, nnunet_folders, tmp_path):
    images, labels = (nnunet_folders / "nnUNet_raw" / DATASET / name for name in ("imagesTs", "labelsTs"))
    names = ["-d", "901", "-c", "2d", "-f", "0", "-tr", "nnUNetTrainerSynth_1epoch", "-p", TINY_PLANS]
    folder, _ = model
    files = ["-djfile", folder / "dataset.json", "-pfile", folder / "plans.json"]
    one_by_one(
        ["nnUNetv2_predict", "-i", images, "-o", tmp_path, *names, "-device", "cpu", "--disable_tta", "-npp", 0,
         "-nps", 0],
        ["nnUNetv2_evaluate_folder", labels, tmp_path, *files, "-np", 1],
        missing=("nnunet_synth", "stylegan2_cond"),
    )  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    assert summary["foreground_mean"]["Dice"] > 0.3


def test_validation_and_continuing_are_nnunets_own(model, nnunet_folders):
    """`--val --npz`, and `--c` of a training that is done."""
    arguments = ("901", "2d", "0", "-p", TINY_PLANS, "-tr", "nnUNetTrainerSynth_1epoch", "-device", "cpu")
    folder = nnunet_folders / "nnUNet_results" / DATASET / f"nnUNetTrainerSynth_1epoch__{TINY_PLANS}__2d" / "fold_0"
    before = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    command = ("nnunet-synth", "train", *arguments)
    one_by_one([*command, "--val", "--npz"], [*command, "--c"])
    assert len(list((folder / "validation").glob("*.npz"))) == 2
    for path in (folder / "validation").glob("*.npz"):
        path.unlink()
    after = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_env_prints_a_line_that_nnunets_own_search_for_trainers_obeys(monkeypatch, run_here):
    line = run_here("nnunet-synth", "env")[1].strip()
    done = subprocess.run(["bash", "-c", f"{line}; echo ${launcher.VARIABLE}"], capture_output=True, text=True)
    monkeypatch.setenv(launcher.VARIABLE, done.stdout.strip())
    found = recursive_find_trainer_class_by_name("nnUNetTrainerSynth")
    assert found.__module__ == "nnunet_synth.training.trainer"


def test_folders_of_other_plugins_stay_in_the_variable():
    path = launcher.ext_trainer_path("/other/plugin")
    assert path.split(os.pathsep) == ["/other/plugin", str(launcher.EXT_TRAINER)]
    assert launcher.ext_trainer_path(path) == path


def test_the_external_folder_is_one_file_with_one_import():
    files = [path for path in launcher.EXT_TRAINER.iterdir() if path.suffix == ".py"]
    assert [path.name for path in files] == ["nnUNetTrainerSynth.py"]
    docstring, statement = ast.parse(files[0].read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(statement, ast.ImportFrom)


@pytest.mark.parametrize("name", [n for n in dir(trainers) if n.startswith("nnUNetTrainer") and "Synth" in n])
def test_every_trainer_is_found_by_its_name(monkeypatch, name):
    monkeypatch.setenv(launcher.VARIABLE, launcher.ext_trainer_path(None))
    assert recursive_find_trainer_class_by_name(name) is getattr(trainers, name)


@pytest.mark.parametrize(
    ("typed", "trainer", "plans"),
    [
        ([], "nnUNetTrainerSynth", "nnUNetPlans"),
        (["-p=Other"], "nnUNetTrainerSynth", "Other"),
        (["-tr", "nnUNetTrainerDA5Synth"], "nnUNetTrainerDA5Synth", "nnUNetPlans"),
        (["-tr=nnUNetTrainerDA5Synth", "-p", "Other"], "nnUNetTrainerDA5Synth", "Other"),
        (["-pretrained_weights", "x.pth"], "nnUNetTrainerSynth", "nnUNetPlans"),
    ],
)
def test_a_trainer_that_was_named_in_any_way_is_the_one_that_trains(typed, trainer, plans, monkeypatch):
    from nnunetv2.run import run_training

    asked = []
    monkeypatch.setattr(run_training, "run_training", lambda *arguments, **_: asked.append(arguments[:5]))
    monkeypatch.setenv(launcher.VARIABLE, "")
    monkeypatch.setattr("sys.argv", ["nnunet-synth", "train", "4", "2d", "0", *typed, "-device", "cpu"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert asked == [("4", "2d", "0", trainer, plans)]


@pytest.mark.parametrize("trained_before", [False, True])
def test_a_refused_training_leaves_no_empty_folder(tmp_path, trained_before):
    class Base:
        def get_tr_and_val_datasets(self):
            return None, None

    class Refused(SyntheticDataMixin, Base):
        is_cascaded, configuration_name = True, "3d_cascade_fullres"
        synth_settings = SynthSettings()

    trainer, fold = Refused(), tmp_path / "nnUNetTrainerSynth__nnUNetPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    trainer.output_folder, trainer.output_folder_base = str(fold), str(fold.parent)
    trainer.log_file = str(fold / "training_log_now.txt")
    (fold / "training_log_now.txt").touch()
    if trained_before:
        (fold / "checkpoint_final.pth").touch()
    with pytest.raises(UserError, match="cascade"):
        trainer.get_tr_and_val_datasets()
    left = [str(path.relative_to(fold)) for path in fold.rglob("*")] if trained_before else list(tmp_path.iterdir())
    assert left == (["checkpoint_final.pth"] if trained_before else [])


HOOKS = [name for name, member in vars(SyntheticDataMixin).items() if inspect.isfunction(member)]


def test_every_hook_still_exists_in_nnunet_with_the_same_parameters():
    public = [name for name in HOOKS if not name.startswith("_")]
    assert public == [
        "get_tr_and_val_datasets",
        "get_training_transforms",
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size",
        "on_train_epoch_start",
        "on_train_epoch_end",
        "save_checkpoint",
    ]
    assert callable(nnUNetTrainer.get_training_transforms)  # ours passes on whatever it gets
    for name in set(public) - {"get_training_transforms"}:
        ours, theirs = (
            list(inspect.signature(getattr(c, name)).parameters) for c in (SyntheticDataMixin, nnUNetTrainer)
        )
        assert ours == theirs


def test_what_the_hooks_rely_on_is_still_there():
    constructor = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    assert constructor == ["self", "plans", "configuration", "fold", "dataset_json", "device"]
    source = inspect.getsource(nnUNetTrainer.save_checkpoint)
    assert "'trainer_name': self.__class__.__name__" in source
    for attribute in ("plans_manager", "configuration_manager", "configuration_name", "dataset_json", "num_epochs"):
        assert f"self.{attribute} =" in inspect.getsource(nnUNetTrainer.__init__)
    for name in SyntheticDataMixin.__dict__.keys() - {"synth_settings"}:
        assert name.startswith("__") or name in HOOKS or name in ("_control", "_cutmix", "_box", "_ratios")
    assert not hasattr(nnUNetTrainer, "_ratios_now")
    assert not hasattr(nnUNetTrainer, "_cutmix")
    assert not hasattr(nnUNetTrainer, "synth_settings")


def test_leaks_end_the_command_with_one_paragraph(preprocessed, bank, monkeypatch, run_here):
    monkeypatch.setenv(launcher.VARIABLE, "")
    elsewhere = bank.parent.parent / "fold_1" / "copied"
    shutil.copytree(bank, elsewhere)
    try:
        code, _, errors = run_here("nnunet-synth", "train", "901", "2d", "1", "-p", TINY_PLANS, "-device", "cpu")
    finally:
        shutil.rmtree(elsewhere.parent)
    assert code == 2
    assert "saw 2 of the 2 validation cases of fold 1" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["stylegan2-cond", "nnunet-synth"])
def test_every_help_fits_on_a_screen_and_shows_an_example(command):
    overview = run(command, "--help").stdout
    names = re.findall(r"^  ([a-z-]+)  ", overview.split("Commands:")[1], re.MULTILINE)
    assert names
    assert "..." not in overview.split("Commands:")[1]  # which typer puts where it cuts a sentence off
    for name in names:
        text = subprocess.run([BIN / command, name, "--help"], capture_output=True, text=True).stdout
        assert len(text.splitlines()) <= 40
        assert "Example: " in text
