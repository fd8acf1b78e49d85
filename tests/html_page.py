"""An HTML page as a test reads it: its text and pictures, after checks that it is whole and needs nothing else."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.image import imread

VOID = ("meta", "link", "br", "img", "hr", "input")
PNG = "data:image/png;base64,"


class Page(HTMLParser):
    """The text, the tags with their attributes, and the pixels of each picture by its alternative text."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.styles: list[str] = []
        self._words: list[str] = []
        self.feed(content)
        self.text = " ".join(" ".join(self._words).split())
        sources = {attributes["alt"]: attributes["src"] for tag, attributes in self.tags if tag == "img"}
        self.images = {alt: pixels_of(source) for alt, source in sources.items()}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open[-1:] == ["style"] else self._words).append(data)


def read_page(content: str) -> Page:
    """Parse a page, and assert that all tags are closed, all anchors resolve, all pictures decode, and nothing else is
    loaded or run."""
    page = Page(content)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "link")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
            assert (attributes.get(name) or "#") == "#" or attributes[name][1:] in ids
        assert tag == "img" or "src" not in attributes
    assert not re.search(r"@import|url\(", "".join([*page.styles, *(a.get("style") or "" for _, a in page.tags)]))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise([0, *levels]))
    return page


def pixels_of(source: str) -> np.ndarray:
    """A data URI's `[H, W, channels]`, 0 to 255."""
    assert source.startswith(PNG)
    return (255 * imread(io.BytesIO(base64.b64decode(source.removeprefix(PNG), validate=True)))).round().astype(int)
