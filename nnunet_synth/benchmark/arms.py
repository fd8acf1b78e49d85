"""Arms: the ways to train that a benchmark compares, read from TOML; `arms.toml` has the shipped ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from nnunet_synth.bank.request import GENERATED, REGISTERED
from nnunet_synth.training.schedule import SCHEDULES
from nnunet_synth.training.settings import RATIO_OF_SAMPLES
from stylegan2_cond import MaskVariation
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_ARMS = Path(__file__).parent / "arms.toml"
PSEUDO_LABELS, TRUE_LABELS, TRAINING_CASES, GENERATOR = "pseudo-labels", "true-labels", "training-cases", "generator"
SHUFFLED, COPIES = "shuffled-labels", "copies"
PLANTED = (TRUE_LABELS, SHUFFLED, COPIES)  # banks whose worth is known
WITH_SCANS = f"_with_{PSEUDO_LABELS}"  # ends the name of a generator that learns from the pseudo-labelled bank
CHOICES = {
    "variant": ("pair", "image", "pair+image"),
    "masks": (*get_args(MaskVariation), REGISTERED, GENERATED),
    "schedule": tuple(SCHEDULES),
    "unlabelled": (PSEUDO_LABELS, *PLANTED, TRAINING_CASES, GENERATOR),
}
PLAIN_TRAINER, SYNTH_TRAINER = "nnUNetTrainer", "nnUNetTrainerSynth"


class Arm(BaseModel):
    """One way to train.

    Attributes:
        name: of a-z, 0-9 and hyphens; part of file names.
        title: name in the report.
        baseline: nnU-Net alone, with which all others are compared.
        trainer: any nnU-Net trainer; by default nnU-Net's own, and with a bank or CutMix the plugin's.
        variant: `pair`, `image` or `pair+image`, which is an ensemble; None for no synthetic pairs.
        masks: what `image` generates images for: `deformed`, `blended`, `real`, `registered` or `generated` masks.
        unlabelled: what the unlabelled cases are used for: a bank of `pseudo-labels`; the `generator`, which learns
            from that bank; or, as controls with their true labels, a bank of `true-labels` or ordinary
            `training-cases`. To check the benchmark itself, a bank of them with `shuffled-labels`, each with those of
            another, or of `copies` of the training cases instead. None to leave them out.
        all_teachers: whether the nnU-Nets of all the baseline's runs label the cases together, not the first one alone.
        mix: other arms, whose banks it draws from alike instead of filling one of its own; `ratio` is of all together.
        ensemble: the nnU-Nets of the baseline's runs predict together, by their mean probability.
        ratio, schedule: probability of a draw from the bank in training.
        cutmix: probability of CutMix between a real patch and one from the bank; without a bank, between real ones.
        samples: size of the bank; the budget's number if None.
        without: filters that are disabled.
        snapshots: 1 for the best snapshot of the generator's run; more for an ensemble of its last ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = ""
    baseline: bool = False
    trainer: str = ""
    variant: str | None = None
    masks: str | None = None
    unlabelled: str | None = None
    all_teachers: bool = False
    mix: tuple[Arm, ...] = ()
    ensemble: bool = False
    ratio: float = Field(default=RATIO_OF_SAMPLES, ge=0, le=1)
    schedule: str = "linear"
    cutmix: float = Field(default=0.0, ge=0, le=1)
    samples: int | None = Field(default=None, ge=1)
    without: tuple[str, ...] = ()
    balanced: bool = False
    margin: float | None = Field(default=None, ge=0)
    snapshots: int = Field(default=1, ge=1)

    @field_validator(*CHOICES)
    @classmethod
    def _is_known(cls, value: str | None, info) -> str | None:
        known = CHOICES[info.field_name]
        if value is not None and value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.baseline and (self.variant or self.unlabelled or self.mix or self.ensemble or self.cutmix):
            raise ValueError(
                "the baseline is nnU-Net alone, without a generator, unlabelled cases, CutMix or an ensemble"
            )
        if self.unlabelled == GENERATOR and not self.variant:
            raise ValueError("a generator that learns from unlabelled cases needs a variant")
        if (self.variant is not None) + (self.unlabelled not in (None, GENERATOR)) + bool(self.mix) + self.ensemble > 1:
            raise ValueError("an arm has one of variant, unlabelled (unless it is generator), mix and ensemble")
        if self.all_teachers and self.unlabelled != PSEUDO_LABELS:
            raise ValueError(f"all_teachers is for an arm with unlabelled = '{PSEUDO_LABELS}'")
        if len({arm.bank for arm in self.mix} - {None}) < len(self.mix):
            raise ValueError("mix must name arms with a bank each, and none with the same bank as another")
        if self.cutmix and self.ensemble:
            raise ValueError("cutmix is for training, and an ensemble is not trained")
        if self.masks and "image" not in self.generators:
            raise ValueError("masks need a generator of images for masks (variant image)")
        if self.trainer.endswith("Synth") and not self.uses_plugin:
            raise ValueError(f"trainer {self.trainer} needs a bank or cutmix: set variant, unlabelled or cutmix")
        if self.uses_plugin and "Synth" not in self.trainer_name:
            raise ValueError(f"trainer {self.trainer} takes neither bank nor cutmix: name one with Synth in its name")
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """The generators that must be trained for this arm: variants, with an ending if they learn from scans."""
        if not self.variant:
            return ()
        masks = ("mask",) if self.masks == GENERATED else ()
        ending = WITH_SCANS if self.unlabelled == GENERATOR else ""
        return tuple(variant + ending for variant in (*self.variant.split("+"), *masks))

    @property
    def needs_scans(self) -> bool:
        """Whether it needs unlabelled cases."""
        return self.unlabelled is not None or self.masks == REGISTERED or any(arm.needs_scans for arm in self.mix)

    @property
    def sources(self) -> tuple[Arm, ...]:
        """The arms whose banks it draws from: those that it mixes, or itself if it has a bank."""
        return self.mix or ((self,) if self.bank else ())

    @property
    def uses_plugin(self) -> bool:
        """Whether it needs a trainer of the plugin."""
        return bool(self.sources or self.cutmix)

    @property
    def trainer_name(self) -> str:
        """Name of nnU-Net's trainer, without the benchmark's suffix."""
        return self.trainer or (SYNTH_TRAINER if self.uses_plugin else PLAIN_TRAINER)

    @property
    def bank(self) -> str | None:
        """Name of its bank, which arms that differ only in training share."""
        if self.mix or (not self.variant and self.unlabelled in (None, TRAINING_CASES)):
            return None
        parts = [self.variant.replace("+", "-") if self.variant else self.unlabelled]
        parts += ["with-scans" if self.unlabelled == GENERATOR else None, self.masks]
        parts += ["all-teachers" if self.all_teachers else None]
        parts += [f"last{self.snapshots}" if self.snapshots > 1 else None, "balanced" if self.balanced else None]
        parts += [f"margin{self.margin:g}" if self.margin is not None else None]
        parts += [f"n{self.samples}" if self.samples is not None else None]
        parts += [f"without-{'-'.join(sorted(self.without))}" if self.without else None]
        return "_".join(part for part in parts if part)


def read_arms(path: Path = DEFAULT_ARMS) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The arms of a TOML file, in its order, and the names of those that run by default.

    Raises:
        UserError: the file is missing or not TOML, has an unknown key or a wrong value, or not exactly one baseline.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist. nnunet-synth benchmark --show-arms prints one to start from."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}. Fix the file.") from None
    arms: dict[str, Arm] = {}
    default = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} does not belong to an arm. An arm begins with its name: [pair]")
        if table.pop("default", path != DEFAULT_ARMS):
            default.append(name)
        masks = {"masks": "deformed"} if "image" in str(table.get("variant")) else {}
        mixed = table.pop("mix", [])
        if not isinstance(mixed, list) or not all(isinstance(one, str) and one in arms for one in mixed):
            raise UserError(
                f"{path}, arm {name}: mix must be a list of names of arms above it, but is {mixed}. Fix the file."
            )
        mix = {"mix": tuple(arms[one] for one in mixed)} if mixed else {}
        try:
            arms[name] = Arm.model_validate({"name": name, "title": name} | masks | table | mix)
        except ValidationError as error:
            raise UserError(f"{path}, arm {name}: {explain(error, Arm)} Fix the file.") from None
    baselines = [arm.name for arm in arms.values() if arm.baseline]
    if len(baselines) != 1:
        raise UserError(
            f"{path}: {'no arm is' if not baselines else ' and '.join(baselines) + ' are'} the baseline. Set "
            f"baseline = true in exactly one, nnU-Net alone, with which the others are compared."
        )
    return tuple(arms.values()), tuple(default)


def choose_arms(path: Path | None, names: Sequence[str]) -> tuple[Arm, ...]:
    """The named or else the default arms of a file, and always the baseline.

    Args:
        path: the shipped file if None.

    Raises:
        UserError: as `read_arms`; an unknown name; nothing to compare with the baseline.
    """
    arms, default = read_arms(path or DEFAULT_ARMS)
    known = [arm.name for arm in arms]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"There is no arm {unknown[0]} in {path or DEFAULT_ARMS}. There are: {', '.join(known)}.")
    chosen = tuple(arm for arm in arms if arm.baseline or arm.name in (names or default))
    if len(chosen) < 2:
        others = [arm.name for arm in arms if not arm.baseline]
        raise UserError(
            f"There is only {chosen[0].name}, and nothing to compare it with. "
            + (f"Add one with --arm: {', '.join(others)}." if others else f"Add an arm to {path}, e.g. [pair]")
        )
    return chosen
