"""What MkDocs adds to the pages: README, studies and examples; the command-line reference, from the code; equations."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import nnunet_synth.cli
import stylegan2_cond.cli

ROOT = Path(__file__).parent.parent
PIPE = "\\|"  # in a table
APPS = {"nnunet-synth": nnunet_synth.cli.app, "stylegan2-cond": stylegan2_cond.cli.app}


def command_line(name: str, app: typer.Typer) -> str:
    """A page with the help of each command."""
    group = typer.main.get_command(app)
    top = typer.Context(group, info_name=name)
    lines = [f"# {name}", group.help or ""]
    for title, command in group.commands.items():
        context = typer.Context(command, info_name=title, parent=top)
        usage = re.sub("[{}]", "", " ".join([context.command_path, *command.collect_usage_pieces(context)]))
        lines += [f"## {title}", f"```\n{usage}\n```", command.help or ""]
        records = filter(None, (parameter.get_help_record(context) for parameter in command.params))
        if rows := [f"| `{re.sub(' <.*>', '', names).replace('|', PIPE)}` | {text} |" for names, text in records]:
            lines.append("\n".join(["| argument or option | meaning |", "| --- | --- |", *rows]))
        lines.append(f"```\n{command.epilog.removeprefix('Example: ')}\n```")
    return "\n\n".join(lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/, and pages that are made from the code."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for name, app in APPS.items():
        files.append(File.generated(config, f"reference/{name}.md", content=command_line(name, app)))
    for path in sorted([*ROOT.glob("studies/**/*"), *ROOT.glob("examples/**/*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links that leave docs/, as they are right on GitHub, find those pages."""
    return re.sub(r"\((?:\.\./)+(studies|examples)/", r"(../\1/", markdown)


def on_page_content(html: str, **_: object) -> str:
    r"""Turn TeX, `\(…\)` and `\[…\]`, into MathML."""
    return re.sub(
        r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>',
        lambda found: convert(found[2], display="block" if found[1] == "div" else "inline"),
        html,
        flags=re.DOTALL,
    )
