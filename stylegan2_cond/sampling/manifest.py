"""`samples.json`: what was drawn from, what was asked for, what came of it; and when a folder may be gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document, explained_write
from stylegan2_cond.planning import Variant
from stylegan2_cond.snapshot import Pairs

RECORD_FILE = "samples.json"


class Content(BaseModel):
    """Which classes a patch shows, and the share of its voxels that each of them takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: tuple[int, ...]
    areas: dict[int, float]


class Wanted(Content):
    """What a sample was asked to be; `position` is that of a slice in its volume, from 0 to 1, where that is known."""

    position: float | None = None


class Sample(BaseModel):
    """A sample whose files are written: what it was asked to be, and what it shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    asked: Wanted
    shows: Content


class SamplesRecord(Document):
    """What a folder was drawn from and with, and the samples whose files are whole.

    Attributes:
        snapshot, weights_sha256: the snapshot's folder, and the checksum of its weights.
        with_classes, position, areas: what was asked of all samples.
        masks: what images were drawn for, by a snapshot of the variant `image`.
        masks_sha256: of the weights that drew those masks, if a snapshot did.
        spacing: of the voxels, in mm along the patch's axes.
        label_values: what the integers in the label files mean.
        requested: how many samples the folder is to hold.
    """

    remedy: ClassVar[str] = "Draw into another folder: stylegan2-cond generate … -o FOLDER"
    snapshot: str
    weights_sha256: str
    variant: Variant
    seed: int = 0
    truncation: float = 1.0
    with_classes: tuple[int, ...] | None = None
    position: float | None = None
    areas: dict[int, float] = Field(default_factory=dict)
    masks: str | None = None
    masks_sha256: str | None = None
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    image_channels: int
    label_values: dict[int, str]
    requested: int = 0
    release: str
    samples: tuple[Sample, ...] = ()

    def settings(self) -> dict[str, tuple[object, str]]:
        """By option: what decides the samples, and how that is told."""
        classes = None if self.with_classes is None else " ".join(map(str, self.with_classes))
        areas = " ".join(f"{label}={area:g}" for label, area in self.areas.items())
        return {
            "SNAPSHOT": (self.weights_sha256, self.snapshot),
            "--seed": (self.seed, str(self.seed)),
            "--truncation": (self.truncation, f"{self.truncation:g}"),
            "--with-class": (self.with_classes, classes or "not given"),
            "--position": (self.position, "not given" if self.position is None else f"{self.position:g}"),
            "--area": (self.areas, areas or "not given"),
            "--masks": (self.masks_sha256 or self.masks, self.masks or "not given"),
        }


def begin_folder(folder: Path, record: SamplesRecord) -> SamplesRecord:
    """The record of the folder, if that was begun with the same settings; else `record`, now in a new folder.

    Raises:
        UserError: the folder holds something else, or can't be written to.
    """
    path = folder / RECORD_FILE
    with explained_write(path):
        if path.exists():
            begun = SamplesRecord.load(path)
            _refuse_others(folder, begun, record)
            return begun.model_copy(update={"requested": max(record.requested, len(begun.samples))})
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and holds other files. Choose another folder with -o.")
        record.save(path)
    return record


def _refuse_others(folder: Path, begun: SamplesRecord, record: SamplesRecord) -> None:
    before, now = begun.settings(), record.settings()
    if other := [option for option in now if before[option][0] != now[option][0]]:
        told = ", ".join(f"{option} {before[option][1]} (now {now[option][1]})" for option in other)
        raise UserError(
            f"{folder} was begun with other settings: {told}. Choose another folder with -o, or type these as then."
        )


def save_record(folder: Path, record: SamplesRecord, samples: Iterable[Sample]) -> SamplesRecord:
    """Write `samples.json` with these samples, in order; the record as it is now."""
    ordered = sorted(samples, key=lambda sample: (len(sample.name), sample.name))
    record = record.model_copy(update={"samples": tuple(ordered)})
    record.save(folder / RECORD_FILE)
    return record


def describe(pairs: Pairs, names: Sequence[str], conditions: Conditions) -> Iterator[Sample]:
    """What each drawn pair was asked to be, and what it shows."""
    shown, log_areas, position = conditions.parts(torch.from_numpy(pairs.condition))
    asked = torch.where(shown, log_areas.exp(), 0).tolist()
    places = [None] * len(names) if position is None else [round(place, 4) for place in position.tolist()]
    drawn = conditions.shares(torch.from_numpy(pairs.label)).tolist()
    for name, wanted, place, there in zip(names, asked, places, drawn, strict=True):
        yield Sample(
            name=name,
            asked=Wanted(**_content(conditions.classes, wanted), position=place),
            shows=Content(**_content(conditions.classes, there)),
        )


def _content(classes: Sequence[int], shares: Sequence[float]) -> dict[str, object]:
    areas = {label: float(f"{share:.4g}") for label, share in zip(classes, shares, strict=True) if share > 0}
    return {"classes": tuple(areas), "areas": areas}


def summary(record: SamplesRecord, folder: Path) -> str:
    """How many samples there are and where, and how well they are what was asked for; one line."""
    told = [f"{len(record.samples)} samples: {folder}"]
    if record.with_classes is not None:
        met = sum(sample.shows.classes == sample.asked.classes for sample in record.samples)
        told.append(f"{met} of {len(record.samples)} show just the classes asked for")
    for label, asked in record.areas.items():
        drawn = float(np.median([sample.shows.areas.get(label, 0.0) for sample in record.samples]))
        told.append(f"class {label} takes {100 * drawn:.3g} % in the median, {100 * asked:.3g} % was asked for")
    return "; ".join(told)
