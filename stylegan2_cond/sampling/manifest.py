"""The folder of generated samples: NIfTI files, each whole or not there, and `samples.json`, which describes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from pydantic import BaseModel, ConfigDict, Field

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document, explained_write
from stylegan2_cond.planning import Plan, Variant
from stylegan2_cond.visualization import overlay_grid, save_picture

MANIFEST_FILE = "samples.json"
PREVIEW_FILE = "preview.png"
PREVIEW_SAMPLES = {2: 48, 3: 16}  # by the number of axes


class Content(BaseModel):
    """Which classes a patch shows, and the fraction of its voxels that each of them covers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: tuple[int, ...]
    areas: dict[int, float]


class Condition(Content):
    """What a sample was conditioned on; `position` of a slice in its volume goes from 0 to 1, None where unknown."""

    position: float | None = None


class Sample(BaseModel):
    """A sample whose files are whole: what it was conditioned on, and what it shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    condition: Condition
    shows: Content


class Manifest(Document):
    """What a folder's samples were generated from and with, and the samples whose files are whole.

    Attributes:
        snapshot, weights_sha256: the snapshot's folder, and the checksum of its weights.
        with_classes, position, areas: what was requested of all samples.
        masks: what a snapshot of the variant `image` generated images for.
        masks_sha256: of the weights that generated those masks; None for masks of the training cases.
        spacing: of the voxels, in mm along the patch's axes.
        label_values: what the integers in the label files mean.
        requested: number of samples that the folder is to hold.
    """

    remedy: ClassVar[str] = "Generate into another folder: stylegan2-cond generate … -o FOLDER"
    format_version: int = 2
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
        """What decides the samples, by option: its value, and how a user would type it."""
        classes = " ".join(map(str, self.with_classes or ()))
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


def open_folder(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest of a folder that was started with the same settings; else `manifest`, saved in a new folder.

    Raises:
        UserError: the folder was started with other settings or holds something else, or can't be written to.
    """
    path = folder / MANIFEST_FILE
    with explained_write(path):
        if path.exists():
            started = Manifest.load(path)
            before, now = started.settings(), manifest.settings()
            if changed := [option for option in now if before[option][0] != now[option][0]]:
                listed = ", ".join(f"{option} {before[option][1]} (now {now[option][1]})" for option in changed)
                raise UserError(
                    f"{folder} was started with other settings: {listed}. Choose another folder with -o, or repeat "
                    f"the original options."
                )
            return started.model_copy(update={"requested": max(manifest.requested, len(started.samples))})
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty. Choose another folder with -o.")
        manifest.save(path)
    return manifest


def save_manifest(folder: Path, manifest: Manifest, samples: Iterable[Sample]) -> Manifest:
    """Write `samples.json` with these samples, in order; returns the manifest as saved."""
    ordered = sorted(samples, key=lambda sample: (len(sample.name), sample.name))
    manifest = manifest.model_copy(update={"samples": tuple(ordered)})
    manifest.save(folder / MANIFEST_FILE)
    return manifest


def describe(pairs: SampleSet, names: Sequence[str], conditions: Conditions) -> Iterator[Sample]:
    """What each generated pair was conditioned on, and what it shows."""
    shown, log_areas, position = conditions.decode(torch.from_numpy(pairs.condition))
    wanted = torch.where(shown, log_areas.exp(), 0).tolist()
    positions = [None] * len(names) if position is None else [round(place, 4) for place in position.tolist()]
    found = conditions.shares(torch.from_numpy(pairs.label)).tolist()
    for name, condition, place, shows in zip(names, wanted, positions, found, strict=True):
        yield Sample(
            name=name,
            condition=Condition(**_content(conditions.classes, condition), position=place),
            shows=Content(**_content(conditions.classes, shows)),
        )


def _content(classes: Sequence[int], shares: Sequence[float]) -> dict[str, object]:
    areas = {label: float(f"{share:.4g}") for label, share in zip(classes, shares, strict=True) if share > 0}
    return {"classes": tuple(areas), "areas": areas}


def summary(manifest: Manifest, folder: Path) -> str:
    """One line: how many samples there are and where, and how well they meet what was requested."""
    parts = [f"{len(manifest.samples)} samples: {folder}"]
    if manifest.with_classes is not None:
        met = sum(sample.shows.classes == sample.condition.classes for sample in manifest.samples)
        parts.append(f"{met} of {len(manifest.samples)} show exactly the requested classes")
    for label, requested in manifest.areas.items():
        median = float(np.median([sample.shows.areas.get(label, 0.0) for sample in manifest.samples]))
        parts.append(f"class {label} covers a median of {100 * median:.3g} % (requested: {100 * requested:.3g} %)")
    return "; ".join(parts)


def sample_files(folder: Path, name: str, channels: int) -> list[Path]:
    """The file of each image channel, as nnU-Net names them, and that of the mask."""
    images = [folder / "images" / f"{name}_{channel:04d}.nii.gz" for channel in range(channels)]
    return [*images, folder / "labels" / f"{name}.nii.gz"]


def write_sample(
    folder: Path, scratch: Path, name: str, arrays: Sequence[np.ndarray], spacing: Sequence[float]
) -> None:
    """Write channels and mask, `[*spatial]` each; each file is read back before it gets its name.

    Raises:
        UserError: the disk is full, or a file does not read back as it was written.
    """
    for path, array in zip(sample_files(folder, name, len(arrays) - 1), arrays, strict=True):
        temporary = scratch / path.name
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])  # SimpleITK lists axes in reverse
        try:
            with explained_write(path):
                path.parent.mkdir(exist_ok=True)
                sitk.WriteImage(image, str(temporary))
                if not np.array_equal(_read(temporary), array, equal_nan=True):
                    raise RuntimeError("the file does not read back as it was written")
                os.replace(temporary, path)
        except RuntimeError as error:  # SimpleITK's errors, too
            raise UserError(f"{path} was not stored as it was written. Is the disk full or damaged?") from error


def save_preview(folder: Path, names: Sequence[str], plan: Plan) -> None:
    """Plot the folder's first samples as a grid."""
    codec = plan.codec
    shown = names[: PREVIEW_SAMPLES[len(plan.patch_size)]]
    files = [sample_files(folder, name, codec.image_channels) for name in shown]
    pairs = np.stack([np.stack([_read(path) for path in paths]) for paths in files])  # [N, C + mask, *spatial]
    ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
    save_picture(folder / PREVIEW_FILE, overlay_grid(pairs[:, :-1], pairs[:, -1], **ranges))


def _read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
