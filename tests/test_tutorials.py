"""Every command of the tutorials runs, in its order, on a small dataset with short trainings."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import DATASET, TINY_PLANS, run

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
CPU, SHORT = ("-device", "cpu"), "_1epoch"
# What makes a command short enough for a test: words to add, by its first words.
SHORTER = {
    "nnUNetv2_train": ("-tr", f"nnUNetTrainer{SHORT}", *CPU),
    "nnUNetv2_predict": CPU,
    "nnunet-synth pseudo-label": ("--without", "all", "-tr", f"nnUNetTrainerSynth{SHORT}", "--device", "cpu"),
    "nnunet-synth train": ("-tr", f"nnUNetTrainerSynth{SHORT}", *CPU),
    "nnunet-synth bank": ("--without", "all", "--device", "cpu"),
    "nnunet-synth benchmark": ("--dry-run",),
    "stylegan2-cond train": ("--kimg", "0.1", "--device", "cpu"),
}
REPLACED = {
    "Dataset004_Hippocampus": DATASET,
    " 4 2d": " 901 2d",
    "-d 4 ": "-d 901 ",
    "-tr nnUNetTrainerSynth": f"-tr nnUNetTrainerSynth{SHORT}",
    "-n 1000": "-n 16",
    "--sizes 4": "--sizes 2",  # of ten cases
}
# Python reads it at its start, in each command and in what that starts.
FEW_ITERATIONS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
begin = nnUNetTrainer.__init__
def short(self, plans, configuration, fold, dataset_json, device):
    begin(self, plans, configuration, fold, dataset_json, device)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 10, 2
nnUNetTrainer.__init__ = short
"""


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's bash blocks, changed so that they take seconds."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.strip().splitlines():
            for old, new in REPLACED.items():
                line = line.replace(old, new)
            words = shlex.split(line)
            added = next((SHORTER[key] for key in (words[0], " ".join(words[:2])) if key in SHORTER), ())
            found.append([*words, *added])
    return found


@pytest.fixture
def world(preprocessed, nnunet_folders, tmp_path, monkeypatch):
    """A copy of nnU-Net's folders whose plans are tiny, and folders of scans and of images to predict."""
    folders = {}
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folders[variable] = tmp_path / variable
        monkeypatch.setenv(variable, str(folders[variable]))
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(nnunet_folders / variable / DATASET, folders[variable] / DATASET)
    base = folders["nnUNet_preprocessed"] / DATASET
    plans = json.loads((base / f"{TINY_PLANS}.json").read_text()) | {"plans_name": "nnUNetPlans"}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans))
    names = sorted(preprocessed.case_names())
    (base / "splits_final.json").write_text(json.dumps([{"train": names[:5], "val": names[5:6]}]))
    for folder, cases in (("scans", names[6:9]), ("images", names[5:6])):
        (tmp_path / folder).mkdir()
        for case in cases:
            for path in (folders["nnUNet_raw"] / DATASET / "imagesTr").glob(f"{case}_*"):
                shutil.copy(path, tmp_path / folder / (f"new_{path.name}" if folder == "scans" else path.name))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(FEW_ITERATIONS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "start"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_a_tutorial_runs(world, page):
    typed = commands(page)
    assert typed
    for command in typed:
        done = run(*(os.path.expandvars(word) for word in command))
        assert "Traceback" not in done.stderr, command
