"""On a full or read-only disk, commands end with one line; with space, they end as if it had always been there."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raw_files import NAME

import nnunet_synth.cli
import stylegan2_cond.cli
from attack.killing import Command, leftovers
from attack.outcomes import outcome_of
from attack.test_kills import cases, filled, filling, own, trained, training
from attack.victims import Victims, small_design
from nnunet_synth.benchmark.design import load_or_create
from nnunet_synth.benchmark.workspace import prepare_workspace
from stylegan2_cond.folders import lock_folder

assert cases  # a fixture


@contextmanager
def disk(folder: Path, kib: int) -> Iterator[Callable[[str], None]]:
    """A disk of so many KiB in place of a folder; what it gives changes its options."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def complaint(command: Command) -> str:
    """The one line that a command ended with, beside bars and what it said before."""
    lines = [line for line in command.told.replace("\r", "\n").splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in command.told, command.told[-3000:]
    assert len(lines) == 1, command.told[-3000:]
    return lines[0]


def assert_nothing_is_half(folder: Path) -> None:
    """No temporary file is left, no empty one, and all JSON can be read."""
    assert not leftovers(folder)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(".lock"):
            assert path.stat().st_size or "tensorboard" in path.parts, f"{path} is empty"
            if path.suffix == ".json":
                json.loads(path.read_text())


def grow_until_it_fits(make: Callable[[], Command], folder: Path, sizes: list[int]) -> int:
    """Run a command on a disk that grows until it ends well; how often it failed before. The last size is enough."""
    failures = 0
    with disk(folder, sizes[0]) as change:
        for size in sizes:
            change(f"size={size}k")
            command = make()
            command.log.unlink(missing_ok=True)
            if (code := command.run()) == 0:
                break
            assert code == 2, (code, command.told[-3000:])
            assert "space" in complaint(command)
            assert_nothing_is_half(folder)
            failures += 1
        else:
            raise AssertionError(command.told[-3000:])
        assert_nothing_is_half(folder)
        shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
    shutil.rmtree(folder)
    shutil.move(folder.with_name("kept"), folder)
    return failures


def lift_until_it_fits(make: Callable[[], Command], folder: Path, sizes: list[int]) -> int:
    """Run a command that may write files of so many KiB, as any user can be limited; how often it failed before."""
    for failures, size in enumerate(sizes):
        command = make()
        command.log.unlink(missing_ok=True)
        enter, limit = command.prepare, (size * 1024, resource.RLIM_INFINITY)
        command.prepare = lambda enter=enter, limit=limit: (enter(), resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        code = command.run()
        assert_nothing_is_half(folder)
        if code == 0:
            return failures
        assert code == 2, (code, command.told[-3000:])
        assert re.search("ulimit|disk full", complaint(command))  # SimpleITK is not told that a file was cut off
    raise AssertionError(command.told[-3000:])


Grow = Callable[[Callable[[], Command], Path, list[int]], int]


def assert_training_goes_on(cases: Victims, tmp_path: Path, sizes: list[int], grow: Grow = grow_until_it_fits) -> int:
    straight, full = own(cases, tmp_path / "straight"), own(cases, tmp_path / "full")
    assert training(straight, 400).run() == 0
    results = full.folder / "nnUNet_results"
    failures = grow(lambda: training(full, 400), results, sizes)
    assert outcome_of(lambda: repr(trained(full.run))) == outcome_of(lambda: repr(trained(straight.run)))
    return failures


def assert_filling_goes_on(victims: Victims, samples: int, sizes: list[int], grow: Grow = grow_until_it_fits) -> int:
    folder = victims.bank.parent
    assert filling(victims, samples).run() == 0
    expected = filled(folder / "killed")
    shutil.rmtree(folder)
    failures = grow(lambda: filling(victims, samples), folder, sizes)
    assert filled(folder / "killed") == expected
    return failures


def test_a_bank_on_a_full_disk_is_told_and_goes_on_with_space(victims):
    assert assert_filling_goes_on(victims, 100, [4, 300, 20_000]) >= 2


def test_a_bank_whose_files_are_too_large_is_told_and_goes_on_when_they_may_be(victims):
    assert assert_filling_goes_on(victims, 100, [16, 64, 20_000], lift_until_it_fits) >= 1


@pytest.mark.attack
def test_a_training_whose_files_are_too_large_is_told_and_goes_on_when_they_may_be(cases, tmp_path):
    assert assert_training_goes_on(cases, tmp_path, [8, 16, 64, 256, 512, 50_000], lift_until_it_fits) >= 2


@pytest.mark.attack
def test_a_bank_goes_on_at_every_size_of_disk(victims):
    assert assert_filling_goes_on(victims, 400, [4, 8, 16, 64, 200, 250, 300, 400, 500, 700, 900, 1100, 20_000]) >= 8


@pytest.mark.attack
def test_a_training_goes_on_at_every_size_of_disk(cases, tmp_path):
    sizes = [4, 8, 16, 36, 64, 128, 200, 300, 400, 500, 600, 700, 800, 1000, 1200, 1500, 50_000]
    assert assert_training_goes_on(cases, tmp_path, sizes) >= 5


def command_of(victims: Victims, *line: str) -> Command:
    """One of the small commands."""
    main = stylegan2_cond.cli.main if line[0] in ("generate", "evaluate", "train", "plan") else nnunet_synth.cli.main
    return Command(main, line, victims.folder / "command.log", victims.enter)


OUTPUTS = {
    "generate": (lambda v, out: ("generate", str(v.snapshot), "-n", "8", "-o", f"{out}/drawn"), [8, 40, 20_000]),
    "export-dataset": (lambda v, out: ("export-dataset", str(v.bank), "-o", out), [4, 8, 64, 128, 20_000]),
    "export-model": (lambda v, out: ("export-model", str(v.judge), "-o", out), [4, 8, 16, 24, 32, 20_000]),
}


@pytest.mark.attack
@pytest.mark.parametrize("grow", [grow_until_it_fits, lift_until_it_fits])
@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_written_elsewhere_goes_on_at_every_size_of_disk(victims, tmp_path, name, grow):
    line, sizes = OUTPUTS[name]
    straight, full = tmp_path / "straight", tmp_path / "full"
    straight.mkdir()
    full.mkdir()
    assert command_of(victims, *line(victims, str(straight))).run() == 0
    assert grow(lambda: command_of(victims, *line(victims, str(full))), full, sizes) >= 1
    assert contents(full) == contents(straight)


def contents(folder: Path) -> dict[str, bytes]:
    """What every file holds, beside hidden ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def prepare_benchmark(victims: Victims, folder: Path) -> dict[str, str]:
    """All that a benchmark writes before its jobs."""
    preprocessed = victims.open()
    with lock_folder(folder):
        prepare_workspace(folder, load_or_create(small_design(preprocessed), folder), preprocessed)
    found = [path for path in folder.rglob("*.json") if not path.name.startswith(".") and not path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(found)}


def test_a_benchmarks_preparation_goes_on_at_every_size_of_disk(victims, tmp_path):
    expected = outcome_of(lambda: repr(prepare_benchmark(victims, tmp_path / "straight")))
    assert expected.kind == "taken", expected.told
    full, failures = tmp_path / "full", 0
    with disk(full, 4) as change:
        for size in (4, 8, 12, 16, 20, 24, 28, 32, 1000):
            change(f"size={size}k")
            found = outcome_of(lambda: repr(prepare_benchmark(victims, full)))
            assert found.kind in ("clear", "taken"), found.told
            failures += found.kind == "clear"
            assert_nothing_is_half(full)
        assert found == expected
    assert failures >= 3


READ_ONLY = {
    "train": lambda v, out: ("train", NAME, "2d", "1", "--kimg", "0.1"),
    "bank": lambda v, out: ("bank", NAME, "2d", "0", "-n", "10", "--without", "all", "--name", "other"),
    "bank that is there": lambda v, out: ("bank", NAME, "2d", "0", "-n", "90", "--without", "all", "--name", "kb"),
    "benchmark": lambda v, out: (
        *("benchmark", NAME, "2d", "--quick", "-o", f"{out}/benchmark", "--sizes", "4", "--test-cases", "5"),
    ),
    "evaluate": lambda v, out: ("evaluate", str(v.snapshot), "--metric", "masks", "-n", "20"),
    "generate": lambda v, out: ("generate", str(v.snapshot), "-n", "2", "-o", f"{out}/drawn"),
    "inspect": lambda v, out: ("inspect", str(v.bank)),
    "export-dataset": lambda v, out: ("export-dataset", str(v.bank), "-o", out),
    "export-model": lambda v, out: ("export-model", str(v.judge), "-o", out),
    "plan of nnU-Net": lambda v, out: ("plan", NAME, "2d", "--ratio", "0.5", "-o", "nnUNetPlansHalf"),
}


def test_a_read_only_disk_is_told_in_one_line(whole, tmp_path):
    place = tmp_path / "disk"
    with disk(place, 50_000) as change:
        victims = whole.copy(place / "victims")
        before = contents(place)
        change("ro")
        for name, line in READ_ONLY.items():
            command = command_of(victims, *line(victims, str(place)))
            command.log = tmp_path / f"{name}.log"
            assert command.run() == 2, (name, command.told[-3000:])
            assert "Error: " in command.told
            assert complaint(command), name
        assert contents(place) == before
