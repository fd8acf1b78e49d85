"""The documentation is true to the code: its commands parse, and its pages build and need nothing from the network."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

import nnunet_synth.cli
import stylegan2_cond.cli
from nnunet_synth.training.settings import read_settings

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("studies/*/README.md")),
]
OURS = {"nnunet-synth": nnunet_synth.cli.app, "stylegan2-cond": stylegan2_cond.cli.app}
SHELL = {"cd", "cp", "eval", "export", "for", "done", "mkdir", "pip"}
OTHERS = {".venv/bin/python", "compute-sanitizer", "docker", "python", "torchrun"}
NNUNET_OPTIONS = {"--c", "--npz"}  # of nnUNetv2_train
MORE = "…"  # stands for further arguments


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the blocks of a page that have no language, or bash."""
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", "").splitlines() if language in ("", "bash") else ():
            words = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set(";&|"):
                    command = command[command[:1] == ["do"] :]
                    if command:
                        yield command
                    command = []
                else:
                    command.append(word)


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program's own parser read a command, which is not run."""
    program, *arguments = words
    if program == "eval":  # eval "$(nnunet-synth env)"
        parse(shlex.split(arguments[0].removeprefix("$(").removesuffix(")")), monkeypatch)
    elif program == "make":
        assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()
    elif program in OTHERS:
        if "stylegan2_cond" in arguments:  # torchrun … -m stylegan2_cond train …
            parse(["stylegan2-cond", *arguments[arguments.index("stylegan2_cond") + 1 :]], monkeypatch)
    elif program in OURS:
        group = typer.main.get_command(OURS[program])
        command = group.commands[arguments[0]]
        if MORE not in arguments:
            rest = command.make_context(arguments[0], arguments[1:]).args
            if (program, arguments[0]) == ("nnunet-synth", "train"):
                parse(["nnUNetv2_train", *rest], monkeypatch)
    elif program.startswith("nnUNetv2_"):
        (entry,) = entry_points(group="console_scripts", name=program)

        def stop(parser: argparse.ArgumentParser, *_: object) -> None:
            read(parser, arguments)
            raise KeyboardInterrupt

        read = argparse.ArgumentParser.parse_args
        main = entry.load()
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(KeyboardInterrupt):
                main()
    else:
        assert program in SHELL or (program.startswith("submission/") and program.endswith(".sh"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one(page, monkeypatch):
    for words in shell_commands(page.read_text(encoding="utf-8")):
        try:
            parse(words, monkeypatch)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{shlex.join(words)}: {error!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_option_in_the_text_of_a_page_is_one(page):
    commands = {
        (program, name): {option for parameter in command.params for option in parameter.opts}
        for program, app in OURS.items()
        for name, command in typer.main.get_command(app).commands.items()
    }
    every = set().union(*commands.values(), ["--version"], NNUNET_OPTIONS)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)):
        program, *words = span.split()
        options = {word.split("=")[0] for word in span.split() if word.startswith("--")}
        if program in OURS and words and not words[0].startswith("-"):
            assert (program, words[0]) in commands, span
            assert options <= commands[program, words[0]], span
        elif program.startswith("--"):
            assert options <= every, span


def block(page: str, language: str) -> str:
    """The only block of a how-to page in a language."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


def test_the_python_that_generates_samples_runs(generator_run):
    names: dict = {}
    exec(block("generate", "python").replace("…/fold_0", str(generator_run)), names)
    assert names["pairs"].image.shape[0] == len(names["pairs"].label) == 16


def test_the_settings_that_mix_a_bank_are_read():
    settings = read_settings(json.loads(f"{{{block('mix_banks', 'json')}}}"), "the page")
    assert settings.shares == (("pair_200k", 0.25),)


def test_the_pages_build_and_request_nothing(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: make install")
    # --quiet would hide warnings from --strict
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.glob("**/*.html"))
    assert {"index.html", "reference/nnunet-synth.html"} <= {page.relative_to(tmp_path).as_posix() for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//[^>]*>', text), page
        assert not re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect)[^>]*href="?(?:https?:)?//[^>]*>', text), page
        assert "arithmatex" not in text, page
