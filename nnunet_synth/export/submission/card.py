"""The README of a submission: a model card with Grand Challenge's headings, and a declaration of all data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from pydantic import ValidationError

from nnunet_synth.bank.format import Generators, PseudoLabels
from nnunet_synth.bank.provenance import BankProvenance
from nnunet_synth.export.model import TrainedModel
from nnunet_synth.export.model_card import FoldCard, ModelCard, describe_fold
from nnunet_synth.export.sanitize import CARD_KEY
from nnunet_synth.export.submission.example import Measured
from nnunet_synth.export.submission.members import Members
from stylegan2_cond.io import read_json

_FACTS = ("description", "reference", "licence", "license", "release")  # of dataset.json
_NOT_PREDICTED = ("background", "ignore")


def declare_fold(model: TrainedModel, fold: str, trainer: str, epochs: dict[str, int]) -> FoldCard:
    """The card of a fold from its record, or from what dataset.json or the trainer say if there is none."""
    card = describe_fold(model.folder / f"fold_{fold}", epochs)
    if card.uses is not None:
        return card
    kept = model.settings["dataset.json"].get(CARD_KEY)  # as in nnU-Net's zip of an exported model
    with contextlib.suppress(ValidationError, KeyError):  # of another release, or of other folds
        return ModelCard.model_validate(kept).folds[fold]
    if kept is None and model.trained_by == trainer:
        summary = f"No synthetic data: {trainer} is nnU-Net's own, and uses the dataset's labelled cases alone."
        return card.model_copy(update={"summary": summary})
    return card


def describe_submission(members: Members, cards: Mapping[str, ModelCard], measured: Measured) -> dict[str, object]:
    """What the README says, by the names in its template."""
    dataset_json = members.first.settings["dataset.json"]
    labels = {name: value for name, value in dataset_json["labels"].items() if name not in _NOT_PREDICTED}
    values = dataset_json.get("regions_class_order") or labels.values()
    banks = {bank.record_sha256: bank for card in cards.values() for bank in _banks(card)}
    return {
        "dataset": members.first.dataset_name,
        "about": {key: dataset_json[key] for key in _FACTS if dataset_json.get(key)},
        "cases": dataset_json.get("numTraining", "an unknown number of"),
        "channels": list((dataset_json.get("channel_names") or dataset_json["modality"]).values()),
        "labels": dict(zip(labels, values, strict=True)),
        "cards": cards,
        "summaries": list(_summaries(cards)),
        "scores": {name: list(_scores(model)) for name, model in members.models.items()},
        "notes": members.notes,
        "postprocessing": members.postprocessing,
        "unlabelled": [line for bank in banks.values() if (line := _scans(bank))],
        "own": kept if isinstance(kept := dataset_json.get(CARD_KEY), str) else None,
        "measured": measured,
        "release": version("nnunet-synth"),
        "nnunet": version("nnunetv2"),
    }


def _summaries(cards: Mapping[str, ModelCard]) -> Iterator[tuple[str, str, str]]:
    """Model, folds and summary, once for all folds that are alike."""
    for name, card in cards.items():
        alike: dict[str, list[str]] = {}
        for fold, content in card.folds.items():
            alike.setdefault(content.summary, []).append(fold)
        for summary, folds in alike.items():
            yield name, f"fold{'s' * (len(folds) > 1)} {', '.join(folds)}", summary


def _banks(card: ModelCard) -> Iterator[BankProvenance]:
    for fold in card.folds.values():
        for use in fold.uses or ():
            yield from use.banks


def _scans(bank: BankProvenance) -> str | None:
    """The unlabelled scans that a bank holds, or that its generators learnt from."""
    names: set[str] = set()
    how = "with labels of nnU-Nets"
    if isinstance(bank.origin, PseudoLabels):
        names.update(scan.name for scan in bank.origin.scans if not scan.refused)
    elif isinstance(bank.origin, Generators):
        how = "from which generators learnt"
        of_masks = bank.origin.mask_scans
        names.update(bank.source.scans.cases if bank.source.scans else ())
        names.update(scan.name for scan in (of_masks.scans if of_masks else ()))
    scans = f"{len(names)} scan{'s' * (len(names) != 1)}"
    return f"bank '{bank.name}', {scans} {how}: {', '.join(sorted(names))}" if names else None


def _scores(model: TrainedModel) -> Iterator[tuple[str, int, float]]:
    """Name, number of validation cases and mean Dice of each fold that nnU-Net validated."""
    for fold in model.folds:
        path = model.folder / fold / "validation" / "summary.json"
        if fold != "fold_all" and path.is_file():
            summary = read_json(path, "Write it again: nnUNetv2_train … --val")
            yield fold.removeprefix("fold_"), len(summary["metric_per_case"]), summary["foreground_mean"]["Dice"]
