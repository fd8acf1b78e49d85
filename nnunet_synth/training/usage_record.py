"""`synthetic_data.json` in a fold's folder: what synthetic data a model saw, from which epoch on."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from nnunet_synth.bank.provenance import BankProvenance, provenance
from nnunet_synth.training.settings import SynthSettings
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document
from stylegan2_cond.metrics.features_nnunet import SYNTHETIC_DATA_FILE

TRAINING_RECORD_FILE = SYNTHETIC_DATA_FILE


class Use(BaseModel):
    """What was mixed in from an epoch on, until the next use.

    Attributes:
        first_epoch: counted from 0.
        bank: None where the ratio was 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    first_epoch: int
    settings: SynthSettings
    bank: BankProvenance | None


class TrainingRecord(Document):
    """All that was mixed into the training of one fold; more than one use where a training went on with another."""

    remedy: ClassVar[str] = "It says which synthetic data the fold's model saw. Train the fold again, which writes it."
    format_version: int = 3
    trainer: str
    uses: tuple[Use, ...] = Field(min_length=1)
    release: str


def record_use(folder: Path, trainer: str, epoch: int, settings: SynthSettings, bank: Path | None) -> None:
    """Write down what training mixes in from `epoch` on; what earlier epochs saw stays written.

    Args:
        folder: of the fold, where nnU-Net keeps its checkpoints.
        trainer: name of its class.
        epoch: that comes next. What was written of it or later ones has left no trace in the weights.
        settings: that training obeys.
        bank: folder of the bank, None with ratio 0.

    Raises:
        UserError: the file can't be written.
    """
    path = folder / TRAINING_RECORD_FILE
    before: tuple[Use, ...] = ()
    if epoch > 0:
        with contextlib.suppress(UserError):  # no record, or none that can be read: nothing to go on with
            before = tuple(use for use in TrainingRecord.load(path).uses if use.first_epoch < epoch)
    use = Use(first_epoch=epoch, settings=settings, bank=None if bank is None else provenance(bank))
    if not before or before[-1].model_copy(update={"first_epoch": epoch}) != use:
        before = (*before, use)
    TrainingRecord(trainer=trainer, uses=before, release=version("nnunet-synth")).save(path)
