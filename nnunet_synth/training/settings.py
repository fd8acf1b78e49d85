"""The `synth` block of a configuration in a plans file: settings that travel with the model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nnunet_synth.training.schedule import SCHEDULES
from stylegan2_cond.documents import explain
from stylegan2_cond.errors import UserError

BLOCK = "synth"


class SynthSettings(BaseModel):
    """Which pairs enter training, and how often.

    Attributes:
        bank: name of a bank of the fold; the newest, when None.
        ratio: probability that a training draw is synthetic.
        schedule: how the ratio follows the epochs; a key of `SCHEDULES`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bank: str | None = None
    ratio: float = Field(default=0.25, ge=0, le=1)
    schedule: str = "linear"

    @field_validator("schedule")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULES:
            raise ValueError(f"there are {', '.join(SCHEDULES)}")
        return name


def read_settings(configuration: dict, where: str) -> SynthSettings:
    """The settings of a configuration (as `ConfigurationManager.configuration` holds it); defaults without a block.

    Raises:
        UserError: an unknown key or a wrong value in the block.
    """
    try:
        return SynthSettings.model_validate(configuration.get(BLOCK, {}), strict=True)
    except ValidationError as error:
        raise UserError(f"The '{BLOCK}' block of {where}: {explain(error, SynthSettings)} Mend it there.") from None
