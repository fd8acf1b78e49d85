"""The card of an exported model: the synthetic data that each fold was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from nnunet_synth.bank.format import PseudoLabels, TrueLabels
from nnunet_synth.bank.provenance import BankProvenance
from nnunet_synth.training.usage_record import TrainingRecord, Use
from stylegan2_cond.data.nnunet_folders import SYNTHETIC_DATA_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

CARD_FILE = "synthetic_data.json"


class FoldCard(BaseModel):
    """One fold.

    Attributes:
        checkpoints: number of epochs by file name.
        summary: the synthetic data of this fold, in a sentence.
        uses: None if there is no record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    checkpoints: dict[str, int]
    summary: str
    uses: tuple[Use, ...] | None


class ModelCard(Document):
    """`synthetic_data.json`.

    Attributes:
        trainer: nnU-Net's own trainer, which the exported model names.
        trained_by: the trainer that was used.
    """

    remedy: ClassVar[str] = "Export the model again: nnunet-synth export-model …"
    format_version: int = 4
    dataset_name: str
    plans_name: str
    configuration: str
    trainer: str
    trained_by: str
    folds: dict[str, FoldCard]
    release: str


def describe_fold(folder: Path, checkpoints: dict[str, int]) -> FoldCard:
    """The card of a trained fold, from the record of its trainer if there is one."""
    path = folder / SYNTHETIC_DATA_FILE
    try:
        uses = TrainingRecord.load(path).uses
        summary = " ".join(map(_summary, uses))
        if uses[0].first_epoch > 0:
            summary = f"Epochs before {uses[0].first_epoch} were not recorded. {summary}"
    except UserError:
        uses, state = None, "cannot be read" if path.exists() else "does not exist"
        summary = f"Unknown: {folder.name}/{path.name}, which this release's trainers write, {state}."
    return FoldCard(checkpoints=checkpoints, summary=summary, uses=uses)


def _summary(use: Use) -> str:
    since = f"From epoch {use.first_epoch} on: " if use.first_epoch else ""
    if not use.banks:
        return f"{since}No synthetic data (ratio 0)."
    settings = use.settings.with_default_ratio(scans=False)  # of records that left it out
    ratios = [ratio for _, ratio in settings.shares]
    parts = [f"a fraction of {ratio:g} from {_describe(bank)}" for ratio, bank in zip(ratios, use.banks, strict=True)]
    cutmix = f" CutMix between real patches and those of banks: {settings.cutmix:g}." * bool(settings.cutmix)
    return f"{since}Of the training draws ({settings.schedule}), {'; '.join(parts)}.{cutmix}"


def _describe(bank: BankProvenance) -> str:
    origin = bank.origin
    if isinstance(origin, TrueLabels):
        return f"bank '{bank.name}': {bank.samples} scans of {bank.source.dataset_name} with the dataset's own labels"
    if isinstance(origin, PseudoLabels):
        weights = " and ".join(teacher.sha256[:12] for teacher in origin.teachers)
        held = len(origin.evaluation_scans)
        transductive = f" ({held} of them validation or test cases)" * bool(held)
        made = f"{bank.samples} unlabelled scans{transductive}, labelled by nnU-Nets (weights {weights})"
    else:
        weights = " and ".join(snapshot.weights_sha256[:12] for snapshot in origin.snapshots)
        made = f"{bank.samples} samples, seed {origin.seed}, from generators (weights {weights})"
    return (
        f"bank '{bank.name}': {made} trained on {bank.source.describe_cases()} of {bank.source.dataset_name}, "
        f"fold {bank.source.fold}"
    )
