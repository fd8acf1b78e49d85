"""Files as a stopped program, a full disk or an editor leaves them."""

from __future__ import annotations

import random
from pathlib import Path

WRONG = (None, -1, "x", [], {}, [None], True)  # values of JSON, each of which some key does not take


def damage(path: Path, content: str | bytes | None) -> None:
    """Replace a file by another one, or by a folder if `content` is None."""
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def choose_value(content: dict | list, chance: random.Random) -> tuple[dict | list, int | str]:
    """A dictionary or list somewhere inside, and the key or index of one of its values."""
    part = content
    while True:
        key = chance.choice(range(len(part)) if isinstance(part, list) else sorted(part))
        if not isinstance(part[key], (dict, list)) or not part[key] or chance.random() < 0.4:
            return part, key
        part = part[key]
