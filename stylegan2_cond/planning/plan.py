"""The plan of a generator, what a user may ask of it, and the folder of its run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from typing_extensions import Self

from stylegan2_cond import Variant
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed, open_preprocessed
from stylegan2_cond.data.nnunet_folders import fold_command, require_folder, run_folder_in
from stylegan2_cond.data.scans import Checksum, ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document, explain

Size = Annotated[int, Field(ge=1, le=2**20)]
MAX_KIMG = 1e6
MAX_HOURS = 1e4
MAX_MEMORY_GB = 1e6


@dataclass(frozen=True)
class RunOptions:
    """What a user asks for when a generator is planned or trained.

    Attributes:
        dataset: `4` or `Dataset004_Hippocampus`.
        configuration: of nnU-Net's plans, e.g. `2d`.
        fold: number of the fold, or `all`.
        plans: name of nnU-Net's plans file.
        variant: what the generator produces.
        patch_size: spatial size in voxels; derived from the data if None.
        kimg: thousands of real images to train on; derived from the data if None.
        hours: that training may take, from which `kimg` follows, if that is None; on CUDA 8 if None.
        seed: of all randomness in training; 0 if None.
        device: torch device.
        memory_gb: memory budget in GiB; what is free on the device if None.
        overrides: values for further keys of the plan.
        with_bank: name of a bank of scans that the generator learns from as well; None for none.
        trust_masks: show the discriminator the scans' masks too; None is no.
    """

    dataset: str
    configuration: str
    fold: str
    plans: str = "nnUNetPlans"
    variant: Variant = "pair"
    patch_size: tuple[int, ...] | None = None
    kimg: float | None = None
    hours: float | None = None
    seed: int | None = None
    device: str = "cpu"
    memory_gb: float | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    with_bank: str | None = None
    trust_masks: bool | None = None

    def __post_init__(self) -> None:
        if self.kimg is not None and not 0 < self.kimg <= MAX_KIMG:
            raise UserError(f"--kimg {self.kimg} must be above 0 and at most {MAX_KIMG:,.0f} (thousands of images).")
        if self.hours is not None and not 0 < self.hours <= MAX_HOURS:
            raise UserError(f"--hours {self.hours} must be above 0 and at most {MAX_HOURS:,.0f}.")
        if self.hours is not None and self.kimg is not None:
            raise UserError("--hours and --kimg both say how long to train. Leave out one of them.")
        if self.memory_gb is not None and not 0 < self.memory_gb <= MAX_MEMORY_GB:
            raise UserError(f"--memory-gb {self.memory_gb} must be above 0 and at most {MAX_MEMORY_GB:,.0f} (GiB).")
        if self.trust_masks and self.with_bank is None:
            raise UserError("--trust-masks is about the masks of scans. Name their bank: --with-bank NAME")

    def open(self) -> tuple[Preprocessed, Fold]:
        """The preprocessed dataset and its fold.

        Raises:
            UserError: one of them does not exist.
        """
        preprocessed = open_preprocessed(self.dataset, self.configuration, self.plans)
        return preprocessed, preprocessed.fold(self.fold)


class ScanSource(BaseModel):
    """The scans that a generator learnt from beside the training cases.

    Attributes:
        bank: its name, among the banks of the fold.
        record_sha256: of its record, which has the checksums of images and pseudo-labels.
        cases: names of the scans.
        sha256: of each scan's image.
        evaluation_cases: names of scans that are validation or test cases, as the bank declares.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bank: str
    record_sha256: Checksum
    cases: tuple[str, ...]
    sha256: tuple[Checksum, ...]
    evaluation_cases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.sha256) != len(self.cases):
            raise ValueError("sha256 has a checksum for each of cases")
        return self


class Source(BaseModel):
    """Origin of a generator's training cases; stored in banks and read by the leak guard.

    Attributes:
        preprocessing: hash of what decides the values of preprocessed voxels.
        training_cases, training_sha256: labelled cases, and the checksum of each one's image.
        scans: unlabelled ones; None if there are none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset_name: str
    plans_name: str
    configuration: str
    data_identifier: str
    preprocessing: str
    fold: str
    training_cases: tuple[str, ...]
    training_sha256: tuple[Checksum, ...]
    scans: ScanSource | None = None

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.training_sha256) != len(self.training_cases):
            raise ValueError("training_sha256 has a checksum for each of training_cases")
        return self

    @classmethod
    def of(cls, preprocessed: Preprocessed, fold: Fold, scans: ScanBank | None = None) -> Source:
        """The source of a fold's training cases, whose images are hashed if they were not before, and of scans."""
        return cls(
            dataset_name=preprocessed.dataset_name,
            plans_name=preprocessed.plans_name,
            configuration=preprocessed.configuration_name,
            data_identifier=preprocessed.configuration.data_identifier,
            preprocessing=preprocessed.preprocessing_hash,
            fold=fold.name,
            training_cases=fold.training,
            training_sha256=tuple(case_hashes(preprocessed, fold.training).values()),
            scans=scans
            and ScanSource(
                bank=scans.folder.name,
                record_sha256=scans.record_sha256,
                cases=tuple(scans.names),
                sha256=tuple(scan.image_sha256 for scan in scans.scans),
                evaluation_cases=tuple(scan.name for scan in scans.scans if scan.evaluation_case),
            ),
        )

    def cases(self) -> list[tuple[str, str]]:
        """Name and checksum of all cases that the generator saw, but for scans declared as evaluation cases."""
        labelled = list(zip(self.training_cases, self.training_sha256, strict=True))
        if self.scans is None:
            return labelled
        scans = zip(self.scans.cases, self.scans.sha256, strict=True)
        return labelled + [scan for scan in scans if scan[0] not in self.scans.evaluation_cases]

    def command(self, program: str, *options: str, variant: Variant = "pair") -> str:
        """A command for this source, for example `stylegan2-cond train`."""
        place = self.dataset_name, self.configuration, self.fold
        with_bank = self.scans.bank if self.scans else None
        named = {"plans_name": self.plans_name, "variant": variant, "with_bank": with_bank}
        return fold_command(program, *place, *options, **named)

    def describe_cases(self) -> str:
        """Numbers of labelled cases and scans, in words."""
        one, many = len(self.training_cases), len(self.scans.cases) if self.scans else 0
        labelled = f"{one} training case{'s' * (one != 1)}"
        if not self.scans:
            return labelled
        held = len(self.scans.evaluation_cases)
        which = f" ({held} of them validation or test cases)" * bool(held)
        return f"{labelled} and {many} unlabelled scan{'s' * (many != 1)}{which}"


class Plan(Document):
    """Everything that the training of a generator depends on, with the reason for each setting.

    Attributes:
        variant: the output: `pair` is image and mask, `mask` a mask alone, `image` an image for a given mask.
        patch_size: spatial size in voxels.
        spacing: of the voxels, in mm along the patch's axes.
        factors: upsampling per axis of each stage after the first, coarse to fine.
        channels: of each stage, coarse to fine; one more than `factors`.
        apart_share: of the samples of which the discriminator sees the image or the mask alone.
        foreground_share: of the patches that lie around a voxel of a class.
        trust_masks: whether the discriminator sees the masks of scans; without scans, it has no effect.
        batch_size: images of a step, on all devices together.
        accumulate: parts that a batch is computed in, one after the other, to save memory.
        precision: of the networks' activations; `tf32` and `bfloat16` need a device that has them.
        cuda_graphs: record the GPU's work of a step once and replay it; no GPU has confirmed it yet.
        r1_weight, r1_interval: of the gradient penalties R1 and R2, and how many steps lie between two of them.
        feature_weight, l1_weight: of the losses between an image and the real one of its mask; variant `image` only.
        ema_share: half-life of the weights' moving average, as a share of the images seen so far;
            20,000 images at most.
        augment_target: mean sign of the discriminator at real pairs that augmentation aims at; None is none.
        augment_kimg: thousands of images in which the probability of augmentation can rise from 0 to 1.
        kimg: thousands of real images to see in all.
        hours: that training was to take, which `kimg` follows from; None if it follows from the data or was asked for.
    """

    remedy: ClassVar[str] = "Fix the key, or delete the file; training then makes a new plan."
    format_version: int = 4
    variant: Variant
    source: Source
    patch_size: tuple[Size, ...]
    spacing: tuple[Annotated[float, Field(gt=0)], ...]
    factors: tuple[tuple[Size, ...], ...]
    channels: tuple[Size, ...]
    codec: Codec
    conditions: Conditions
    latent_dim: Size
    style_dim: Size
    mapping_layers: int = Field(ge=1, le=64)
    apart_share: float = Field(ge=0, le=1)
    foreground_share: float = Field(ge=0, le=1)
    trust_masks: bool = False
    batch_size: Size
    accumulate: Size
    precision: Literal["float32", "tf32", "bfloat16"]
    cuda_graphs: bool = False
    learning_rate: float = Field(gt=0)
    r1_weight: float = Field(ge=0)
    r1_interval: int = Field(ge=1)
    feature_weight: float = Field(ge=0)
    l1_weight: float = Field(ge=0)
    ema_share: float = Field(gt=0)
    augment_target: float | None = Field(ge=-1, le=1)
    augment_kimg: float = Field(gt=0)
    kimg: float = Field(gt=0, le=MAX_KIMG)
    hours: float | None = Field(default=None, gt=0)
    seed: int = Field(ge=0)
    reasons: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        axes, codec = len(self.patch_size), self.codec
        if axes not in (2, 3):
            raise ValueError(f"patch_size {self.patch_size} must have 2 or 3 axes")
        if len(self.spacing) != axes or any(len(stage) != axes for stage in self.factors):
            raise ValueError(f"spacing {self.spacing} and each of factors {self.factors} need {axes} numbers")
        if len(self.channels) != len(self.factors) + 1:
            raise ValueError(f"channels {self.channels} must be one more than factors {self.factors}")
        if not len(codec.low) == len(codec.high) == len(codec.outside or codec.low):
            raise ValueError("codec.low, codec.high and codec.outside need a number for each image channel")
        if len(set(codec.labels)) != len(codec.labels) or not codec.labels:
            raise ValueError(f"codec.labels {codec.labels} must be different numbers")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} can't be split into {self.accumulate} equal parts (accumulate)"
            )
        return self

    @property
    def given_mask(self) -> bool:
        """Whether the generator makes images for given masks."""
        return self.variant == "image"


def run_folder(source: Source, variant: Variant = "pair") -> Path:
    """Folder of a generator of this source: plan, checkpoint, previews and snapshots."""
    results = require_folder("nnUNet_results")
    place = source.dataset_name, source.plans_name, source.configuration, source.fold
    return run_folder_in(results, *place, variant, source.scans and source.scans.bank)


BY_HAND = "set by hand"
OWN_OPTION = ("variant", "patch_size", "kimg", "hours", "seed", "trust_masks")
DERIVED = ("format_version", "source", "spacing", "factors", "codec", "conditions", "reasons")
FREE = tuple(name for name in Plan.model_fields if name not in (*OWN_OPTION, *DERIVED))
OTHER_NAMES = {  # of keys, common in the literature
    "ada_target": "augment_target",
    "ada_kimg": "augment_kimg",
    "dtype": "precision",
    "gamma": "r1_weight",
    "gradient_accumulation": "accumulate",
    "lr": "learning_rate",
    "z_dim": "latent_dim",
    "w_dim": "style_dim",
}


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """`["r1_weight=0.5", "channels=[64,32]", "precision=tf32"]` → values by key.

    Raises:
        UserError: a text without `=`, or a key that is unknown or not to be set.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} is not key=value. Type for example --set batch_size=8")
        values[_known(key.strip())] = _value(value.strip())
    return values


def check_overrides(values: Mapping[str, object], stages: int) -> dict[str, object]:
    """The same values as a plan holds them, tuples where it has tuples.

    Args:
        values: by key.
        stages: of the pyramid, which `channels` must be given for.

    Raises:
        UserError: a key that is unknown or not to be set, or a value that it can't have; all of them at once.
    """
    fields = {key: (Plan.model_fields[_known(key)].annotation, Plan.model_fields[key]) for key in values}
    model = create_model("Overrides", __config__=ConfigDict(allow_inf_nan=False), **fields)
    try:
        checked = model.model_validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        raise UserError(f"--set: {explain(error, Plan)}") from None
    found = {key: getattr(checked, key) for key in values}
    if len(channels := found.get("channels", (1,) * stages)) != stages:
        raise UserError(f"--set channels={list(channels)}: the pyramid has {stages} stages, each needs a number.")
    return found


def _known(key: str) -> str:
    if key in FREE:
        return key
    if key in OWN_OPTION:
        raise UserError(f"'{key}' has an option of its own: --{key.replace('_', '-')}")
    if key in DERIVED:
        raise UserError(f"'{key}' is derived from the data and can't be set. Keys that can: {', '.join(FREE)}.")
    lower = key.lower().replace("-", "_")
    nearest = OTHER_NAMES.get(lower) or next(iter(difflib.get_close_matches(lower, FREE, n=1, cutoff=0.4)), None)
    hint = f"Did you mean '{nearest}'? " if nearest else ""
    raise UserError(f"A plan has no key '{key}'. {hint}Keys that can be set: {', '.join(FREE)}.")


def _value(text: str) -> object:
    """A number, list, true, false or null as in JSON; a list may lack its brackets; anything else is a word."""
    plain = {"none": "null", "true": "true", "false": "false"}.get(text.lower(), text)
    for attempt in (plain, f"[{text}]" if "," in text else plain):
        try:
            return json.loads(attempt, parse_constant=str)  # JSON has no Infinity and NaN
        except (ValueError, RecursionError):  # also: thousands of digits, or of brackets
            continue
    return text
