"""Arms: the ways to train that a benchmark compares. Read from TOML; the defaults lie beside this file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nnunet_synth.training.schedule import SCHEDULES
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_ARMS = Path(__file__).parent / "arms.toml"
VARIANTS = ("pair", "image", "pair+image")
MASKS = ("deformed", "real", "generated")
PLAIN_TRAINER, SYNTH_TRAINER = "nnUNetTrainer", "nnUNetTrainerSynth"


class Arm(BaseModel):
    """One way to train, as `arms.toml` explains it.

    Attributes:
        name: a-z, 0-9 and hyphens; stands in file names.
        title: in the report.
        baseline: nnU-Net alone, with which all others are compared.
        trainer: any nnU-Net trainer; if none is named, nnU-Net's own, with pairs the plugin's.
        variant: `pair`, `image` or `pair+image`; None for no synthetic pairs.
        masks: that images are drawn for: `deformed`, `real` or `generated`.
        ratio, schedule: of the synthetic draws in training.
        samples: of the bank; the benchmark's number, when None.
        without: filters that do not look.
        snapshots: how many of the generator's run are drawn from; 1 is its best, more are its last.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = ""
    baseline: bool = False
    trainer: str = ""
    variant: str | None = None
    masks: str | None = None
    ratio: float = Field(default=0.25, ge=0, le=1)
    schedule: str = "linear"
    samples: int | None = Field(default=None, ge=1)
    without: tuple[str, ...] = ()
    balanced: bool = False
    margin: float | None = Field(default=None, ge=0)
    snapshots: int = Field(default=1, ge=1)

    @field_validator("variant", "masks", "schedule")
    @classmethod
    def _known(cls, value: str | None, info) -> str | None:
        known = {"variant": VARIANTS, "masks": MASKS, "schedule": tuple(SCHEDULES)}[info.field_name]
        if value is not None and value not in known:
            raise ValueError(f"there are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        if self.baseline and self.variant:
            raise ValueError("the baseline is nnU-Net alone, without a generator")
        if self.masks and "image" not in self.generators:
            raise ValueError("masks are asked for where no images are drawn for masks (variant image)")
        if not self.variant and self.trainer.endswith("Synth"):
            raise ValueError(f"trainer {self.trainer} needs a generator: say which variant")
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """The variants that must be trained for this arm."""
        drawn = ("mask",) if self.masks == "generated" else ()
        return (*self.variant.split("+"), *drawn) if self.variant else ()

    @property
    def trainer_name(self) -> str:
        return self.trainer or (SYNTH_TRAINER if self.variant else PLAIN_TRAINER)

    @property
    def bank(self) -> str | None:
        """Name of its bank; arms that differ in training alone share it."""
        if not self.variant:
            return None
        parts = [self.variant.replace("+", "-"), self.masks if "image" in self.generators else None]
        parts += [f"last{self.snapshots}" if self.snapshots > 1 else None, "balanced" if self.balanced else None]
        parts += [f"margin{self.margin:g}" if self.margin is not None else None]
        parts += [f"n{self.samples}" if self.samples is not None else None]
        parts += [f"without-{'-'.join(sorted(self.without))}" if self.without else None]
        return "_".join(part for part in parts if part)


def read_arms(path: Path = DEFAULT_ARMS) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The arms of a TOML file, in its order, and the names of those that run unless others are chosen.

    Raises:
        UserError: no such file, no TOML, an unknown key or a wrong value, no baseline or several.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist. nnunet-synth benchmark --show-arms prints one to start from."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}. Mend it there.") from None
    arms, default = [], []
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} stands outside of any arm. An arm begins with its name: [pair]")
        table = {"variant": None, "masks": None} | table
        if table.pop("default", path != DEFAULT_ARMS):
            default.append(name)
        arms.append(_arm(name, _with_masks(table), path))
    baselines = [arm.name for arm in arms if arm.baseline]
    if len(baselines) != 1:
        raise UserError(
            f"{path}: {'no arm is' if not baselines else ' and '.join(baselines) + ' are'} the baseline. Say "
            f"baseline = true in exactly one, nnU-Net alone, with which the others are compared."
        )
    return tuple(arms), tuple(default)


def choose_arms(path: Path | None, names: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of a file (the shipped one, when None) that are named, or else the default ones; always the baseline.

    Raises:
        UserError: as `read_arms`; no arm of such a name; nothing to compare with the baseline.
    """
    arms, default = read_arms(path or DEFAULT_ARMS)
    known = [arm.name for arm in arms]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"There is no arm {unknown[0]} in {path or DEFAULT_ARMS}. There are: {', '.join(known)}.")
    wanted = set(names or default)
    chosen = tuple(arm for arm in arms if arm.baseline or arm.name in wanted)
    if len(chosen) < 2:
        others = [arm.name for arm in arms if not arm.baseline]
        raise UserError(
            f"There is only {chosen[0].name}, and nothing to compare it with. "
            + (f"Add one with --arm: {', '.join(others)}." if others else f"Add an arm to {path}, e.g. [again]")
        )
    return chosen


def _with_masks(table: dict) -> dict:
    """Images are drawn for deformed real masks, unless the table says otherwise."""
    if table["masks"] is None and "image" in str(table["variant"]):
        table["masks"] = "deformed"
    return table


def _arm(name: str, table: dict, path: Path) -> Arm:
    try:
        return Arm.model_validate({"name": name, "title": table.get("title") or name} | table)
    except ValidationError as error:
        raise UserError(f"{path}, arm {name}: {explain(error, Arm)} Mend it there.") from None
