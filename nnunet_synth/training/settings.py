"""The `synth` block of a configuration in a plans file: settings that travel with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from nnunet_synth.training.schedule import DEFAULT_SCHEDULE, SCHEDULES
from stylegan2_cond.data.untrusted_files import PlainName, is_plain_name
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explain, write_atomically

if TYPE_CHECKING:
    from stylegan2_cond.data.nnunet_dataset import Preprocessed

BLOCK = "synth"
RATIO_OF_SAMPLES = 0.25  # default for a bank of generated samples
RATIO_OF_SCANS = 0.5  # and for one of scans: that of studies/six_datasets


class BankShare(BaseModel):
    """A bank of the fold, and the probability that a training draw comes from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: PlainName
    ratio: float = Field(ge=0, le=1)


class SynthSettings(BaseModel):
    """Which extra pairs enter training, and how often.

    Attributes:
        bank: name of a bank of the fold; None for the newest.
        ratio: probability that a training draw is from the bank; None for the default, which depends on the bank.
        banks: several banks, each with its ratio, instead of `bank` and `ratio`.
        schedule: how the ratios change over the epochs; a key of `SCHEDULES`.
        cutmix: probability that a box of a patch is replaced by that of a patch of the other kind, real or from a bank;
            it changes over the epochs as the ratios do. With ratio 0, by that of another real patch, in all epochs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bank: PlainName | None = None
    ratio: float | None = Field(default=None, ge=0, le=1)
    banks: tuple[BankShare, ...] = ()
    schedule: str = DEFAULT_SCHEDULE
    cutmix: float = Field(default=0.0, ge=0, le=1)

    @property
    def shares(self) -> tuple[tuple[str | None, float | None], ...]:
        """Name, or None for the newest, and ratio, or None for the default, of each bank whose ratio is not 0."""
        shares = [(share.name, share.ratio) for share in self.banks] or [(self.bank, self.ratio)]
        return tuple((name, ratio) for name, ratio in shares if ratio != 0)

    def with_default_ratio(self, scans: bool) -> Self:
        """The same with a ratio, also where it is left to the bank, which holds scans or generated samples."""
        if self.banks or self.ratio is not None:
            return self
        return self.model_copy(update={"ratio": RATIO_OF_SCANS if scans else RATIO_OF_SAMPLES})

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.banks and (self.bank is not None or self.ratio is not None):
            raise ValueError("bank and ratio are for a single bank; of several, 'banks' has names and ratios")
        names = [share.name for share in self.banks]
        if len(set(names)) < len(names):
            raise ValueError("banks must have different names")
        if (total := sum(share.ratio for share in self.banks)) > 1:
            raise ValueError(f"the ratios of all banks must not exceed 1 together, but are {total:g}")
        return self

    @field_validator("schedule")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULES:
            raise ValueError(f"must be one of {', '.join(SCHEDULES)}")
        return name


def read_settings(configuration: dict, where: str) -> SynthSettings:
    """Settings of a configuration (as in `ConfigurationManager.configuration`); the defaults without a block.

    Raises:
        UserError: an unknown key or an invalid value in the block.
    """
    try:
        return SynthSettings.model_validate_json(json.dumps(configuration.get(BLOCK, {})), strict=True)
    except ValidationError as error:
        raise UserError(f"The '{BLOCK}' block of {where}: {explain(error, SynthSettings)} Fix it there.") from None


def make_settings(
    *,
    banks: Sequence[str] = (),
    ratio: float | None = None,
    schedule: str = DEFAULT_SCHEDULE,
    cutmix: float | None = None,
) -> SynthSettings:
    """Settings from command-line options.

    Args:
        banks: one name or none, or several as `NAME=RATIO`.
        ratio: of a bank that is named without one; None for the default.
        schedule, cutmix: as in `SynthSettings`.

    Raises:
        UserError: an unknown schedule, a ratio outside 0 to 1, one of several banks without a ratio, or a bank that is
            not a plain name.
    """
    content: dict = {"schedule": schedule} | ({"cutmix": cutmix} if cutmix else {})
    if len(banks) <= 1 and "=" not in "".join(banks):
        content |= ({} if ratio is None else {"ratio": ratio}) | ({"bank": banks[0]} if banks else {})
    else:
        if ratio is not None or not all("=" in bank for bank in banks):
            raise UserError("Each of several banks needs a ratio of its own: --bank pseudo=0.5 --bank pair_200k=0.1")
        pairs = (bank.rpartition("=") for bank in banks)
        content["banks"] = tuple({"name": name, "ratio": share} for name, _, share in pairs)
    try:
        return SynthSettings.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, SynthSettings).replace("key '", "'--")) from None


def write_plans(preprocessed: Preprocessed, settings: SynthSettings, name: str) -> Path:
    """Copy a plans file under a new name, with a `synth` block; both use the same preprocessed cases.

    Args:
        preprocessed: the plans and the configuration to copy.
        settings: contents of the block.
        name: of the new plans, for nnU-Net's `-p`.

    Returns:
        The new file, next to the old one.

    Raises:
        UserError: `name` is not a plain name, or the file exists with different contents.
    """
    if not is_plain_name(name) or name.endswith(".json"):
        raise UserError(
            f"-o {name!r} must be a plain name, without .json. Type for example -o {preprocessed.plans_name}Synth"
        )
    plans = json.loads(json.dumps(preprocessed.plans_manager.plans))
    plans["plans_name"] = name
    plans["configurations"][preprocessed.configuration_name][BLOCK] = settings.model_dump(exclude_unset=True)
    path = preprocessed.base / f"{name}.json"
    text = json.dumps(plans, indent=4)
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} exists with different contents. Choose another name with -o, or delete it.")
    with write_atomically(path) as temporary:
        temporary.write_text(text)
    return path
