"""A page as data, and its two forms: one HTML file that needs no other, or Markdown with its pictures next to it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jinja2

HTML, MARKDOWN = "page.html", "page.md"
PICTURES = "figures"  # folder of a Markdown page's pictures


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, `figures/<name>.png`.
        png: content of that file.
        alt: what it shows, for those who cannot see it.
        caption: how to read it.
        zoom: pixels of the file per pixel of the page.
    """

    name: str
    png: bytes
    alt: str
    caption: str = ""
    zoom: float = 1.5

    @cached_property
    def uri(self) -> str:
        """The file as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """In pixels of the page; a PNG states its own width in bytes 16 to 19."""
        return round(int.from_bytes(self.png[16:20], "big") / self.zoom)


@dataclass(frozen=True)
class Table:
    """Head and rows as text; the first `words` columns are words, the rest are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    words: int = 1


@dataclass(frozen=True)
class Note:
    """A sentence or a few at the top of the page; `state` is `good`, `note`, `bad`, or empty."""

    text: str
    title: str = ""
    state: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of the attributes.

    Attributes:
        legend: names and colours.
        terms: words and what they mean.
        code: a command to copy.
        folded: whether the HTML page shows it only on demand.
    """

    title: str
    text: str = ""
    legend: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    terms: Sequence[tuple[str, str]] = ()
    code: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """All that a reader sees.

    Attributes:
        summary: the sentence at the top.
        verdict: in a word, above the summary; empty for none.
        written_by: command and release.
        footer: the last line.
    """

    title: str
    summary: str
    sections: Sequence[Section]
    written_by: str
    notes: Sequence[Note] = ()
    verdict: str = ""
    footer: str = ""


def render(page: Page, template: str = HTML) -> str:
    """The page as HTML, with everything in it, or as Markdown, whose pictures are `figures/<name>.png`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(template).render(page=page)
