"""The demo's steps: done once, logged, and explained when they fail."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_synth.demo import run as demo
from nnunet_synth.demo.run import Steps, run_demo
from stylegan2_cond.errors import UserError


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path, {"GREETING": "hello"})


def append_to(file):
    return ["python", "-c", f"import os; open({str(file)!r}, 'a').write(os.environ['GREETING']); print('said')"]


def test_a_step_is_run_once_in_its_environment(steps, tmp_path):
    for _ in range(2):
        steps.run("greet", "Greeting", append_to(tmp_path / "greetings"))
    assert (tmp_path / "greetings").read_text() == "hello"
    assert (tmp_path / "logs" / "greet.log").read_text().endswith("\nsaid\n")


def test_a_failed_step_shows_the_end_of_its_log_and_is_not_done(steps, tmp_path):
    with pytest.raises(UserError, match=r"(?s)ended with code 3:.*the reason\n.*greet.log"):
        steps.run("greet", "Greeting", ["python", "-c", "print('the reason'); raise SystemExit(3)"])
    assert not steps.is_done("greet")
    steps.run("greet", "Greeting", append_to(tmp_path / "greetings"))
    assert steps.is_done("greet")


def test_a_program_that_is_not_installed_is_named(steps):
    with pytest.raises(UserError, match="nnUNetv2_dance is not installed"):
        steps.run("dance", "Dancing", ["nnUNetv2_dance"])


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        run_demo(tmp_path, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["/etc/passwd", "/etc/passwd/inside", "/proc/nothing"])
def test_a_place_where_no_folder_can_be_is_named(place):
    with pytest.raises(UserError, match=place):
        run_demo(Path(place), "cpu")


def test_ctrl_c_ends_the_step_and_says_how_to_go_on(tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
        "from pathlib import Path; from nnunet_synth.demo.run import Steps\n"
        "from stylegan2_cond.errors import Stopped\n"
        "try: Steps(Path(sys.argv[1]), {}).run('sleep', 'Sleeping', ['sleep', '60'])\n"
        "except Stopped as stop: print(stop)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "logs" / "sleep.log").exists():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert "The same command" in process.communicate(timeout=20)[0]
    assert not (tmp_path / "done" / "sleep").exists()


@pytest.mark.slow
def test_all_of_it_ends_with_a_table_and_names_what_there_is(few_iterations, tmp_path, monkeypatch, run_here):
    monkeypatch.setattr(demo, "KIMG", "0.1")
    monkeypatch.setattr(demo, "SAMPLES", "16")
    code, printed, errors = run_here("nnunet-synth", "demo", "--folder", str(tmp_path / "demo"), "--device", "cpu")
    assert code == 0, printed + errors
    table = (tmp_path / "demo" / "results.md").read_text()
    assert table in printed
    for arm in demo.ARMS:
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {arm} | "))
        assert all(0 <= float(dice) <= 1 for dice in row.strip("| ").split(" | ")[1:])
    named = re.findall(r": (/.*)$", printed, re.MULTILINE)
    assert len(named) > 6
    assert all(Path(path).exists() for path in named)
