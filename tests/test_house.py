"""The house: arrows go downwards, and nothing heavy happens at import."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from conftest import run

ROOT = Path(__file__).parent.parent


def test_imports_go_downwards_only():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_code_is_formatted_and_linted():
    for arguments in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run(
            [Path(sys.executable).parent / "ruff", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_makefile_names_test_files_that_exist():
    named = re.search(r"^NUMERICAL := .*?test_,(.*?)\)", (ROOT / "Makefile").read_text(), flags=re.M | re.S)[1]
    assert all((ROOT / "tests" / f"test_{name}").exists() for name in re.findall(r"\w+\.py", named))


def test_a_default_stands_in_one_place():
    text = {
        path: path.read_text() for part in ("stylegan2_cond", "nnunet_synth") for path in (ROOT / part).rglob("*.py")
    }
    variants = [path for path, lines in text.items() if '"pair", "mask", "image"]' in lines]
    assert variants == [ROOT / "stylegan2_cond" / "__init__.py"]
    own = [line for line in text[ROOT / "nnunet_synth" / "cli.py"].splitlines() if re.search(r"\] = [0-9]", line)]
    assert [line.split(":")[0].strip() for line in own] == ["seed"] * len(own)  # the first of all seeds is 0


def test_help_needs_neither_torch_nor_nnunet():
    for package in ("stylegan2_cond", "nnunet_synth"):
        code = f"import sys, {package}.cli; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "Commands:" in run("nnunet-synth", "--help").stdout


def test_both_commands_tell_the_releases_that_matter():
    for command in ("stylegan2-cond", "nnunet-synth"):
        told = run(command, "--version").stdout
        assert all(f"{name} {version(name)}" in told for name in ("nnunet-synth", "nnunetv2", "torch"))


def test_bash_completes_commands_and_datasets(tmp_path):
    for name in ("Dataset004_Hippocampus", "Dataset027_ACDC", "other"):
        (tmp_path / name).mkdir()
    script = """
        eval "$(nnunet-synth --show-completion)"
        press_tab() {
            COMP_WORDS=(nnunet-synth "$@"); COMP_CWORD=$#
            _nnunet_synth_completion nnunet-synth; echo ${COMPREPLY[@]}
        }
        press_tab export-d; press_tab bank Dataset02; press_tab bank 4 2d 0 --bal
    """
    variables = {"nnUNet_preprocessed": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=os.environ | variables, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["export-dataset", "Dataset027_ACDC", "--balanced"], done.stderr
