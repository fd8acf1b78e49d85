"""What classes, channels and measures are called on the page, and how numbers are written there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from nnunet_synth.bank.inspection.tiles import Look

TITLES = {
    "area": "Area, % of the patch",
    "components": "Pieces",
    "holes": "Holes",
    "boundary": "Boundary, faces per 100 voxels of the patch",
    "z": "Centre along the first axis, 0 to 1",
    "y": "Centre along the second-last axis, 0 to 1",
    "x": "Centre along the last axis, 0 to 1",
    "intensity": "Intensity of all voxels, in nnU-Net’s units",
    "class intensity": "Intensity by class, in nnU-Net’s units",
    "position": "Place of the nearest real slice in its volume, 0 to 1",
    "nearest": "Correlation with the nearest real patch, of another case",
}


def name_classes(labels: Iterable[int], dataset_json: Mapping | None) -> dict[int, str]:
    """Names of the foreground labels, as dataset.json has them; of one that is only part of regions, its number."""
    declared = (dataset_json or {}).get("labels", {})
    names = {label: name for name, label in declared.items() if isinstance(label, int)}
    names |= {label[0]: name for name, label in declared.items() if isinstance(label, list) and len(label) == 1}
    return {label: names.get(label, f"class {label}") for label in sorted(labels) if label > 0}


def name_channels(count: int, dataset_json: Mapping | None) -> list[str]:
    """Names of the image channels, as dataset.json has them."""
    content = dataset_json or {}
    declared = list((content.get("channel_names") or content.get("modality") or {}).values())
    return [str(name) for name in declared] if len(declared) == count else [f"channel {n}" for n in range(count)]


def name_set(labels: Sequence[int], classes: Mapping[int, str]) -> str:
    """A set of classes that a patch shows."""
    return " + ".join(classes[label] for label in labels) or "no class"


def name_limit(limit: str, classes: Mapping[int, str], channels: Sequence[str]) -> str:
    """What a filter calls a limit, with names for the numbers of classes and channels."""
    for kind, names in (("class", classes), ("channel", dict(enumerate(channels)))):
        match = re.match(rf"{kind} (\d+) ", limit)
        if match and int(match[1]) in names:
            return f"{names[int(match[1])]}: {limit[match.end() :]}"
    return limit


def legend(classes: Mapping[int, str], look: Look) -> list[tuple[str, str]]:
    """Name and colour of each class."""
    return [(name, look.colour(label)) for label, name in classes.items()]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `1,024 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size_of(count: int) -> str:
    """Bytes, in words."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def percent(share: float) -> str:
    """`12 %`, `0.4 %`."""
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"
