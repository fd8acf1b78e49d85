"""Damage: what hands, disks and other programs do to files. Each function draws one from a random generator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Rng = np.random.Generator
DEEP = 100_000
# Placed as text, since Python's own writer refuses some.
RAW = {
    "integer of 6,000 digits": "9" * 6000,
    "negative integer of 25 digits": "-" + "9" * 25,
    "1e400": "1e400",
    "1e308": "1e308",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * 2000 + "1" + "}" * 2000,
    "lone surrogate": '"\\ud800"',
    "NUL in a name": '"a\\u0000b"',
}
VALUES = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e-300, "", "0", "1", "x", "../../x",
    "/etc/passwd", "x" * 5000, "a\nb", "é", "\u202e", [], {}, [None], [[]], [1], [[1, 2], [3]], {"a": 1},
    {"": None}, [0] * 5,
)  # fmt: skip
_PLACE = "@@here@@"


def damaged(path: Path, rng: Rng) -> str:
    """Damage a file by what fits its ending; returns what was done."""
    if rng.random() < 0.12:
        return _in_its_place(path, rng)
    kinds = {".json": json_damage, ".jsonl": lines_damage, ".csv": table_damage}
    content = path.read_bytes()
    structured = kinds.get(path.suffix)
    what, new = structured(content, rng) if structured and rng.random() < 0.8 else byte_damage(content, rng)
    path.write_bytes(new)
    return what


def _in_its_place(path: Path, rng: Rng) -> str:
    """Something else lies where the file was."""
    what = ("folder", "loop of links", "link to nothing", "nothing", "empty file")[rng.integers(5)]
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "loop of links":
        path.symlink_to(path.name)
    elif what == "link to nothing":
        path.symlink_to("nowhere")
    elif what == "empty file":
        path.write_bytes(b"")
    return what


def byte_damage(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """Bits flipped, a part cut off, zeroed, doubled, moved or overwritten."""
    data, size = bytearray(content), max(1, len(content))
    first, last = sorted(int(place) for place in rng.integers(0, size, 2))
    what = ("bit", "bits", "cut", "zeros", "noise", "twice", "appended", "without the start", "swapped")[
        rng.integers(9)
    ]
    if what in ("bit", "bits"):
        for place in rng.integers(0, size, 1 if what == "bit" else 20):
            if data:
                data[place] ^= 1 << rng.integers(8)
    elif what == "cut":
        del data[last:]
    elif what == "without the start":
        del data[: first + 1]
    elif what == "appended":
        data += rng.bytes(100)
    elif what == "twice":
        data[last:last] = data[first:last]
    elif what == "swapped":
        data = data[first:] + data[:first]
    else:
        last = min(last + 1, first + 4096)
        data[first:last] = bytes(last - first) if what == "zeros" else rng.bytes(last - first)
    return f"{what} at {first}", bytes(data)


def json_damage(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """A key or value dropped, replaced, doubled or renamed; or text that is not JSON, or not UTF-8."""
    whole = {
        "deep list alone": b"[" * DEEP,
        "UTF-16": content.decode(errors="replace").encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "latin-1": b'{"\xe9": 1}',
        "NUL": content[: len(content) // 2] + b"\0" + content[len(content) // 2 :],
        "list": b"[]",
        "object": b"{}",
        "null": b"null",
        "number": b"1",
        "string": b'"x"',
        "integer alone": b"9" * 6000,
        "two documents": content + content,
    }
    if rng.random() < 0.1:
        what = list(whole)[rng.integers(len(whole))]
        return what, whole[what]
    tree = json.loads(content)
    what, text = _tree_damage(tree, rng)
    return what, text.encode("utf-8", errors="surrogatepass")


def _tree_damage(tree: object, rng: Rng) -> tuple[str, str]:
    tree = copy.deepcopy(tree)
    inner = [place for place in _places(tree) if place[0] is not None]
    if not inner:
        return "null", "null"
    by_depth: dict[tuple, list] = {}
    for parent, key, route in inner:  # a name among a thousand is no likelier than a key of its own
        by_depth.setdefault(tuple(part if isinstance(part, str) else 0 for part in route), []).append(
            (parent, key, route)
        )
    routes = list(by_depth.values())
    candidates = routes[rng.integers(len(routes))]
    parent, key, route = candidates[rng.integers(len(candidates))]
    where, how = ".".join(map(str, route)), rng.random()
    raw = ""
    if how < 0.15:
        what = f"{where} dropped"
        del parent[key]
    elif how < 0.22 and isinstance(parent, list):
        what = f"{where} twice"
        parent.insert(key, copy.deepcopy(parent[key]))
    elif how < 0.22:
        what = f"{where} renamed"
        parent[f"{key}x"] = parent.pop(key)
    elif how < 0.4:
        name = list(RAW)[rng.integers(len(RAW))]
        what, raw, parent[key] = f"{where} = {name}", RAW[name], _PLACE
    elif how < 0.5:
        other = inner[rng.integers(len(inner))]
        what, parent[key] = f"{where} = that of {'.'.join(map(str, other[2]))}", copy.deepcopy(other[0][other[1]])
    elif how < 0.6 and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        factor = (-1, 1e30, 1000, 0, 1e-30)[rng.integers(5)]
        parent[key] = type(parent[key])(parent[key] * factor)
        what = f"{where} = {parent[key]}"
    else:
        value = VALUES[rng.integers(len(VALUES))]
        what, parent[key] = f"{where} = {str(value)[:40]!r}", value
    return what, json.dumps(tree, indent=1).replace(json.dumps(_PLACE), raw or '""')


def _places(tree: object, route: tuple = ()) -> Iterator[tuple]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(children):
        yield tree, key, (*route, key)
        yield from _places(value, (*route, key))


def lines_damage(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """A line of a `.jsonl` damaged, doubled, dropped, cut or moved."""
    lines = content.splitlines()
    place = int(rng.integers(len(lines)))
    how = rng.random()
    if how < 0.6:
        what, lines[place] = json_damage(lines[place], rng)
        lines[place] = lines[place].replace(b"\n", b"")
    elif how < 0.7:
        what, lines[place] = "cut", lines[place][: rng.integers(len(lines[place]))]
    elif how < 0.8:
        what = "doubled"
        lines.insert(place, lines[place])
    elif how < 0.9:
        what = "dropped"
        del lines[place]
    else:
        what = "moved"
        lines.append(lines.pop(place))
    return f"line {place}: {what}", b"\n".join(lines) + b"\n"


def table_damage(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """A field, a row or a column of a CSV replaced, dropped or doubled."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = 0 if rng.random() < 0.2 else int(rng.integers(len(rows)))
    column = int(rng.integers(len(rows[row])))
    how = rng.random()
    values = (
        "",
        "nan",
        "inf",
        "-1",
        "1e400",
        "x",
        '"',
        "a;b",
        "9" * 500,
        "<script>",
        "é",
        "\0",
        "NA",
        " 1 ",
        "0x1",
        "1,2",
    )
    if how < 0.6:
        rows[row][column] = values[rng.integers(len(values))]
        what = f"row {row}, column {column} = {rows[row][column][:20]!r}"
    elif how < 0.7:
        what = f"row {row} dropped"
        del rows[row]
    elif how < 0.8:
        what = f"row {row} twice"
        rows.insert(row, list(rows[row]))
    elif how < 0.9:
        what = f"column {column} dropped"
        rows = [[value for place, value in enumerate(line) if place != column] for line in rows]
    else:
        what = f"row {row} short"
        del rows[row][column:]
    return what, "\n".join(",".join(line) for line in rows).encode() + b"\n"


def tree_of_tensors_damage(tree: dict, rng: Rng) -> tuple[str, dict]:
    """A checkpoint whose keys, types, shapes or values are others."""
    import torch

    tree = copy.deepcopy(tree)
    inner = list(_branches(tree))
    parent, key, route = inner[rng.integers(len(inner))]
    where, value = ".".join(map(str, route)), parent[key]
    changes: list[tuple[str, Callable[[], object]]] = [
        ("None", lambda: None), ("text", lambda: "x"), ("number", lambda: -1), ("list", lambda: [1]),
        ("empty", lambda: {}), ("huge", lambda: 10**30), ("not a number", lambda: float("nan")),
    ]  # fmt: skip
    if isinstance(value, torch.Tensor):
        half = value.reshape(-1)[: value.numel() // 2]
        changes += [
            ("float64", value.double), ("integers", value.long), ("flat", lambda: half),
            ("complex", lambda: value + 1j), ("sparse", value.to_sparse), ("one more axis", lambda: value[None]),
        ]  # fmt: skip
    if rng.random() < 0.2:
        del parent[key]
        return f"{where} dropped", tree
    what, change = changes[rng.integers(len(changes))]
    parent[key] = change()
    return f"{where} = {what}", tree


def _branches(tree: object, route: tuple = ()) -> Iterator[tuple]:
    if isinstance(tree, dict):
        for key, value in list(tree.items()):
            yield tree, key, (*route, key)
            yield from _branches(value, (*route, key))
