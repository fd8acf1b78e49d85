"""`synthetic_data.json` in a fold's folder: which synthetic data a model was trained with, and from which epoch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from nnunet_synth.bank.provenance import BankProvenance, provenance
from nnunet_synth.training.settings import SynthSettings
from stylegan2_cond.data.nnunet_folders import SYNTHETIC_DATA_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document
from stylegan2_cond.progress_bar import write_line


class Use(BaseModel):
    """What training used from one epoch until the next `Use`.

    Attributes:
        first_epoch: counted from 0.
        banks: none if the ratio was 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    first_epoch: int
    settings: SynthSettings
    banks: tuple[BankProvenance, ...]


class TrainingRecord(Document):
    """All synthetic data in the training of one fold; a training continued with other settings has several uses."""

    remedy: ClassVar[str] = "It records the synthetic data that the fold's model saw. Train the fold again."
    format_version: int = 4
    trainer: str
    uses: tuple[Use, ...] = Field(min_length=1)
    release: str


def record_use(folder: Path, trainer: str, epoch: int, settings: SynthSettings, banks: Sequence[Path]) -> None:
    """Record what training uses from `epoch` on, after what the record says of earlier epochs.

    Args:
        folder: of the fold, with nnU-Net's checkpoints.
        trainer: name of its class.
        epoch: the next one; earlier entries for it or later epochs are dropped, since the weights do not contain them.
        settings: of the training.
        banks: folders of the banks; none with ratio 0.

    Raises:
        UserError: the file cannot be written.
    """
    path = folder / SYNTHETIC_DATA_FILE
    before: tuple[Use, ...] = ()
    if epoch > 0 and path.exists():
        try:
            before = tuple(use for use in TrainingRecord.load(path).uses if use.first_epoch < epoch)
        except UserError as error:
            write_line(f"Earlier epochs stay unrecorded: {error}")
    use = Use(first_epoch=epoch, settings=settings, banks=tuple(map(provenance, banks)))
    if not before or before[-1].model_copy(update={"first_epoch": epoch}) != use:
        before = (*before, use)
    TrainingRecord(trainer=trainer, uses=before, release=version("nnunet-synth")).save(path)
