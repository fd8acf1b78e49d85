"""The `synth` block of a configuration in a plans file: settings that travel with the model."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nnunet_synth.bank.untrusted_files import PlainName, is_plain_name
from nnunet_synth.training.schedule import DEFAULT_SCHEDULE, SCHEDULES
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explain, write_atomically

BLOCK = "synth"


class SynthSettings(BaseModel):
    """Which synthetic pairs enter training, and how often.

    Attributes:
        bank: name of a bank of the fold; None for the newest.
        ratio: probability that a training draw is synthetic.
        schedule: how the ratio changes over the epochs; a key of `SCHEDULES`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bank: PlainName | None = None
    ratio: float = Field(default=0.25, ge=0, le=1)
    schedule: str = DEFAULT_SCHEDULE

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
        return SynthSettings.model_validate(configuration.get(BLOCK, {}), strict=True)
    except ValidationError as error:
        raise UserError(f"The '{BLOCK}' block of {where}: {explain(error, SynthSettings)} Fix it there.") from None


def make_settings(*, bank: str | None, ratio: float, schedule: str) -> SynthSettings:
    """Settings from command-line options.

    Raises:
        UserError: an unknown schedule, a ratio outside 0 to 1, or a bank that is not a plain name.
    """
    try:
        return SynthSettings(bank=bank, ratio=ratio, schedule=schedule)
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
    plans["configurations"][preprocessed.configuration_name][BLOCK] = settings.model_dump(exclude_none=True)
    path = preprocessed.base / f"{name}.json"
    text = json.dumps(plans, indent=4)
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} exists with different contents. Choose another name with -o, or delete it.")
    with write_atomically(path) as temporary:
        temporary.write_text(text)
    return path
