"""Every command of the tutorials, of README and of the how-to pages runs on a small dataset with short trainings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import BIN, DATASET, TINY_PLANS

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
CPU = ("-device", "cpu")
# What makes a command short enough for a test: words to add, by its first words.
SHORTER = {
    "nnUNetv2_train": CPU,
    "nnUNetv2_predict": CPU,
    "nnUNetv2_find_best_configuration": ("-f", "0", "1"),
    "nnunet-synth pseudo-label": ("--without", "all", "--device", "cpu"),
    "nnunet-synth train": CPU,
    "nnunet-synth bank": ("--without", "all", "--device", "cpu"),
    "nnunet-synth benchmark": ("--dry-run",),
    "stylegan2-cond plan": ("--kimg", "0.1", "--device", "cpu"),
    "stylegan2-cond train": ("--kimg", "0.1", "--device", "cpu"),
    "stylegan2-cond evaluate": ("-n", "20", "--metric", "masks", "--device", "cpu"),
}
REPLACED = {
    "Dataset004_Hippocampus": DATASET,
    " 4 2d": " 901 2d",
    " 4 3d": " 901 3d",
    "pair_200k": "pair_0.112k",
    " 4 -c": " 901 -c",
    "status 4": "status 901",
    "-d 4 ": "-d 901 ",
    "-n 1000": "-n 16",
    "--sizes 4": "--sizes 2",  # of ten cases
    "in 0 1 2 3 4;": "in 0 1;",
    "--input images/brain-mri": "--input images/t1-mri --input images/t2-mri",
}
# Pages whose commands suppose a first run, in an order in which each finds what it needs.
AFTERWARDS = ("README", "docs/explanation/pseudo_labels", *(
    f"docs/how-to/{name}" for name in (
        "fill_a_bank", "variants", "mix_banks", "generate", "judge_a_generator", "inspect_a_bank", "share", "benchmark",
        "run_anywhere",
    )
))  # fmt: skip
RUN = f"$nnUNet_results/{DATASET}/StyleGAN2Cond_pair__nnUNetPlans__2d/fold_0"
PLACEHOLDERS = {
    " BANK": f" $nnUNet_preprocessed/{DATASET}/nnUNetPlans_2d_synth/fold_0/pair_0.112k",
    " fold_0/snapshots/000080000": f" {RUN}/best",
    " fold_0/best": f" {RUN}/best",
    "--snapshot A --snapshot B=2": f"--snapshot {RUN}/best --snapshot {RUN}/snapshots/000000112=2",
    "-n 10000": "-n 16",
}
# What needs a container, several GPUs or a compiler, takes minutes to time, or is not a command.
ELSEWHERE = ("docker ", "torchrun ", "make ", "doctor --build", "stylegan2-cond bench", "-num_gpus", "…")
# What a page's last commands leave.
LEFT = {
    "challenge": ("submission/README.md", "submission/test/expected_output/interf0/images/hippocampus/output.mha"),
    "first_run": ("predictions/dataset.json",),
    "own_trainer": (f"nnUNet_results/{DATASET}/DiceLossSynth__nnUNetPlans__2d/fold_0/checkpoint_final.pth",),
    "unlabelled_scans": ("predictions/dataset.json",),
    "volumes": (f"nnUNet_results/{DATASET}/nnUNetTrainerSynth__nnUNetPlans__3d_fullres/fold_0/progress.png",),
}


def commands(page: str, language: str = "bash", replaced: dict[str, str] = REPLACED) -> list[str]:
    """The lines of a page's blocks, changed so that they take seconds."""
    found = []
    for written, block in re.findall(r"^```(\w*).*?\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", "").strip().splitlines() if written == language else ():
            line, _, _ = line.partition("  #")
            for old, new in replaced.items():
                line = line.replace(old, new)
            parts = re.split("(; do |; done|; )", line.replace(" && ", "; "))  # so that bash -e stops at each one
            found.append("".join(map(shortened, parts)))
    return found


def shortened(command: str) -> str:
    """The command with words added to it."""
    words = command.split()
    keys = (" ".join(words[:1]), " ".join(words[:2]))
    return " ".join([command, *next((SHORTER[key] for key in keys if key in SHORTER), ())])


@pytest.fixture
def world(preprocessed, nnunet_folders, few_iterations, tmp_path, monkeypatch):
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
    folds = [{"train": names[:n] + names[n + 2 :], "val": names[n : n + 2]} for n in range(0, len(names), 2)]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    for folder, cases in (("scans", names[6:9]), ("images", names[5:6])):
        (tmp_path / folder).mkdir()
        for case in cases:
            for path in (folders["nnUNet_raw"] / DATASET / "imagesTr").glob(f"{case}_*"):
                shutil.copy(path, tmp_path / folder / (f"new_{path.name}" if folder == "scans" else path.name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(page.stem for page in TUTORIALS.glob("*.md")))
def test_every_command_of_a_tutorial_runs(world, name):
    page = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    for path, code in re.findall(r'```python title="(.*?)"\n(.*?)```', page, re.DOTALL):
        (world / path).parent.mkdir(exist_ok=True)
        (world / path).write_text(code)
    run_script(commands(page))
    assert all((world / file).exists() for file in LEFT[name])


@pytest.mark.slow
def test_every_command_of_other_pages_runs_after_a_first_run(world):
    run_script(commands((TUTORIALS / "first_run.md").read_text(encoding="utf-8")))
    run_script([shortened(f"nnUNetv2_train {DATASET} 2d 0")])  # a teacher
    tried = 0
    for page in AFTERWARDS:
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        lines = commands(text, "", PLACEHOLDERS | REPLACED)
        run_script([line for line in lines if not any(words in line for words in ELSEWHERE)])
        tried += len(lines)
    assert tried > 30


def run_script(lines: list[str]) -> None:
    """Run commands in this project's environment, and stop at the first that fails."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    script = ["bash", "-exc", "\n".join(lines)]
    done = subprocess.run(script, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
