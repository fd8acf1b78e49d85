"""What the export commands print: what there is now, what to know of it, and what to type next."""

from __future__ import annotations

from pathlib import Path

from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard
from nnunet_synth.export.model import Exported
from nnunet_synth.export.model_card import CARD_FILE as MODEL_CARD_FILE
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL

NOTABLE = 0.001  # in normalised units; what float32 loses is far below, what 8 bits lose above
_BACK = {"exactly": "turned back", "typically": "turned back as in a typical case", "not": "not turned back"}


def tell_dataset(folder: Path, card: DatasetCard) -> str:
    """The counts, how intensities were turned back, nnU-Net's commands."""
    return "\n".join([f"Dataset: {folder}", _counts(card), *_intensities(card), *_folds(card), *_commands(card)])


def tell_model(exported: Exported) -> str:
    """Where the model is, what it saw, nnU-Net's command."""
    card = exported.card
    told = [f"Model: {exported.folder}", f"Card: {exported.folder / MODEL_CARD_FILE}"]
    told += [f"Fold {name}: {fold.summary}" for name, fold in card.folds.items()]
    if exported.missing:
        told.append(
            f"Not there, so that nnUNetv2_export_model_to_zip refuses its folds: {', '.join(exported.missing)}. Finish "
            f"training (nnUNetv2_train … --c, or --val for the validation alone) and export again."
        )
    told.append(
        f"Elsewhere: nnUNet_results={exported.folder.parents[1]} nnUNetv2_predict -i IMAGES -o FOLDER -d "
        f"{card.dataset_name} -c {card.configuration} -tr {card.trainer} -p {card.plans_name} -f {' '.join(card.folds)}"
    )
    return "\n".join(told)


def _counts(card: DatasetCard) -> str:
    each = f" of {card.samples_per_case} slices each" if card.samples_per_case > 1 else ""
    real = f"{card.real} real cases{' (links)' if card.links else ''}, " if card.real else ""
    return f"{real}{len(card.synthetic)} synthetic ones{each}; {CARD_FILE} tells which, and where they come from."


def _intensities(card: DatasetCard) -> list[str]:
    """A line for all channels that are alike."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for channel in card.channels:
        names.setdefault((channel.scheme, _BACK[channel.back], channel.note), []).append(channel.name)
    told = [f"{', '.join(alike)} ({scheme}): {back}. {note}" for (scheme, back, note), alike in names.items()]
    if (change := max(card.changed)) >= NOTABLE:
        told.append(f"By all this, nnU-Net will see values that differ from the bank's by up to {change:.2g} (RMS).")
    if (worst := max(card.clipped)) > 0:
        told.append(f"Up to {100 * worst:.2g} % of a channel's values did not fit into the files ({card.stored_as}).")
    return told


def _folds(card: DatasetCard) -> list[str]:
    source = card.bank.source
    if not card.real:
        return ["Without real cases there is no fold to validate on, so there is no splits_final.json."]
    if source.fold == FOLD_ALL:
        return ["The generator saw all cases, so no fold trains on synthetic ones; only fold all does."]
    training = len(source.training_cases)
    share = len(card.synthetic) / (len(card.synthetic) + training)
    return [
        f"Fold {source.fold} trains on {training} real and the synthetic cases, and validates on real ones; others "
        f"have real cases alone. nnU-Net draws cases evenly: {100 * share:.0f} % of the draws will be synthetic.",
        "Never ask for a fold that splits_final.json doesn't have: nnU-Net would split at random, synthetic cases too.",
    ]


def _commands(card: DatasetCard) -> list[str]:
    """nnU-Net's commands that train with the plans of the dataset that this one was made from."""
    source, new = card.bank.source, int(card.dataset[7:10])
    fold = source.fold if card.real else FOLD_ALL
    return [
        f"To train with the plans of {card.made_from} (new ones would be planned for synthetic cases as well):",
        f"  nnUNetv2_plan_and_preprocess -d {new} --no_pp --verify_dataset_integrity",
        f"  nnUNetv2_move_plans_between_datasets -s {card.made_from} -t {card.dataset} -sp {source.plans_name} "
        f"-tp {source.plans_name}",
        f"  nnUNetv2_preprocess -d {new} -c {source.configuration} -plans_name {source.plans_name}",
        f"  nnUNetv2_train {new} {source.configuration} {fold} -p {source.plans_name}",
    ]
