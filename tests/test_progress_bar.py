"""Progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from stylegan2_cond import progress_bar
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import TEXT_LOG, keep_log
from stylegan2_cond.progress_bar import ProgressBar, write_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_log(monkeypatch, seconds=0.01):
    """A file in the place of the terminal; pytest puts its own there before each test, so a fixture can't."""
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    monkeypatch.setattr(progress_bar, "LINE_SECONDS", seconds)
    return file


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_a_log_gets_lines_even_during_a_long_step(monkeypatch):
    log = open_log(monkeypatch)
    with ProgressBar(total=8, initial=2, desc="Training", unit="img") as bar:
        bar.update(2)
        assert wait_for(lambda: log.getvalue().count("\n") >= 3)
        bar.update(4)
    lines = log.getvalue().splitlines()
    assert all(line.startswith("Training: 4 of 8 img (50%)") for line in lines[:3])
    assert lines[-1].startswith("Training: 8 of 8 img (100%)")
    assert "\r" not in log.getvalue()


def test_nothing_is_written_after_the_end(monkeypatch):
    log = open_log(monkeypatch)
    with ProgressBar(total=1):
        pass
    before = log.getvalue()
    time.sleep(0.05)
    assert log.getvalue() == before


@pytest.mark.parametrize(("options", "lines"), [({}, 1), ({"leave": False}, 0), ({"disable": True}, 0)])
def test_a_short_bar_is_one_line_or_none(monkeypatch, options, lines):
    log = open_log(monkeypatch, seconds=60)
    assert list(ProgressBar(range(3), desc="Cases", **options)) == [0, 1, 2]
    assert log.getvalue().count("\n") == lines


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(ProgressBar(range(3), desc="Cases")) == [0, 1, 2]
    assert "\rCases" in terminal.getvalue()


def test_a_line_above_the_bar_is_in_the_file_at_once(tmp_path, monkeypatch):
    open_log(monkeypatch)
    with (tmp_path / "log").open("w") as file, ProgressBar(total=2):
        monkeypatch.setattr(sys, "stdout", file)
        write_line("Snapshot")
        assert (tmp_path / "log").read_text() == "Snapshot\n"


def test_the_log_of_a_folder_has_what_was_printed_and_what_ended_the_work(tmp_path, capsys):
    """Each line with its time, after those of before; nothing of other work."""
    folder = tmp_path / "new"
    with keep_log(folder):
        write_line("Snapshot\nBest")
        write_line("A warning", sys.stderr)
    write_line("other work")
    with pytest.raises(UserError), keep_log(folder):
        raise UserError("Out of memory")
    with pytest.raises(ZeroDivisionError), keep_log(folder):
        next(1 / 0 for _ in ProgressBar(range(3)))
    text = (folder / TEXT_LOG).read_text()
    lines = re.findall(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)$", text, re.MULTILINE)
    assert [line for line in lines if not line.startswith("$ ")] == [
        "Snapshot",
        "Best",
        "A warning",
        "Out of memory",
        "Failed:",
    ]
    assert "ZeroDivisionError" in text
    printed = capsys.readouterr()
    assert (printed.out, "A warning\n" in printed.err) == ("Snapshot\nBest\nother work\n", True)
