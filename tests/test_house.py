"""The house: arrows go downwards, and nothing heavy happens at import."""

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


def test_help_needs_neither_torch_nor_nnunet():
    for package in ("stylegan2_cond", "nnunet_synth"):
        code = f"import sys, {package}.cli; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "Commands:" in run("nnunet-synth", "--help").stdout


def test_both_commands_tell_the_releases_that_matter():
    for command in ("stylegan2-cond", "nnunet-synth"):
        told = run(command, "--version").stdout
        assert all(f"{name} {version(name)}" in told for name in ("nnunet-synth", "nnunetv2", "torch"))
