"""What the export commands print: what was written, what to know about it, and what to type next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard
from nnunet_synth.export.model import ExportedModel
from nnunet_synth.export.model_card import CARD_FILE as MODEL_CARD_FILE
from nnunet_synth.export.model_card import ModelCard
from nnunet_synth.export.submission.write import Submission
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL

_INVERSE = {"exact": "converted back", "typical": "converted back as in a typical case", "none": "not converted back"}


def describe_dataset(folder: Path, card: DatasetCard) -> str:
    """Numbers of cases, how intensities were converted back, what each fold trains on, and nnU-Net's commands."""
    each = f" of {card.samples_per_case} slices each" if card.samples_per_case > 1 else ""
    real = f"{card.real} real cases{' (links)' if card.links else ''}, " if card.real else ""
    cases = f"{real}{len(card.synthetic)} synthetic cases{each}; {CARD_FILE} lists them and says where they come from."
    return "\n".join([f"Dataset: {folder}", cases, *_intensities(card), *_folds(card), *_commands(card)])


def describe_model(exported: ExportedModel) -> str:
    """Where the model is, what synthetic data it saw, and nnU-Net's command."""
    card = exported.card
    lines = [f"Model: {exported.folder}", f"Card: {exported.folder / MODEL_CARD_FILE}"]
    lines += [f"Fold {name}: {fold.summary}" for name, fold in card.folds.items()]
    if exported.missing:
        lines.append(
            f"Missing, so nnUNetv2_export_model_to_zip refuses these folds: {', '.join(exported.missing)}. Finish "
            f"training (nnUNetv2_train … --c, or --val for the validation alone) and export again."
        )
    lines.append(
        f"Elsewhere: nnUNet_results={exported.folder.parents[1]} nnUNetv2_predict -i IMAGES -o FOLDER -d "
        f"{card.dataset_name} -c {card.configuration} -tr {card.trainer} -p {card.plans_name} -f {' '.join(card.folds)}"
    )
    return "\n".join(lines)


def describe_submission(submission: Submission) -> str:
    """Where a submission is, what is in it, what a case takes, and what to type next."""
    members = submission.members
    models = [f"Model: {name}, {', '.join(model.folds)}" for name, model in members.models.items()]
    return "\n".join(
        [
            f"Submission: {submission.folder}",
            *models,
            *members.notes,
            f"The case in {submission.folder / 'test'} took {submission.measured}.",
            f"Complete what {submission.folder / 'README.md'} leaves open. It declares all data.",
            f"Next, where Docker is: {submission.folder / 'do_test_run.sh'}, then {submission.folder / 'do_save.sh'}",
        ]
    )


def describe_zip(path: Path, cards: Sequence[ModelCard]) -> str:
    """Where a zip is, what synthetic data its models saw, and nnU-Net's command."""
    lines = [f"Zip: {path}"]
    lines += [
        f"{card.configuration}, fold {name}: {fold.summary}" for card in cards for name, fold in card.folds.items()
    ]
    return "\n".join([*lines, f"Elsewhere: nnUNetv2_install_pretrained_model_from_zip {path.name}"])


def _intensities(card: DatasetCard) -> list[str]:
    """One line for all channels that are alike."""
    names: dict[str, list[str]] = {}
    for channel in card.channels:
        line = f"({channel.scheme}): {_INVERSE[channel.inverse]}. {channel.note}"
        names.setdefault(line, []).append(channel.name)
    lines = [f"{', '.join(alike)} {line}" for line, alike in names.items()]
    if (worst := max(card.clipped)) > 0:
        lines.append(f"Up to {100 * worst:.2g} % of a channel's values did not fit into the files ({card.stored_as}).")
    return lines


def _folds(card: DatasetCard) -> list[str]:
    source = card.bank.source
    if not card.real:
        return ["Without real cases there is no fold to validate on, so there is no splits_final.json."]
    if source.fold == FOLD_ALL:
        return ["The generator saw all cases, so no fold trains on synthetic cases; only fold all does."]
    training = len(source.training_cases)
    share = len(card.synthetic) / (len(card.synthetic) + training)
    return [
        f"Fold {source.fold} trains on {training} real and the synthetic cases, and validates on real cases; other "
        f"folds have real cases only. nnU-Net samples cases evenly: {100 * share:.0f} % of the draws are synthetic.",
        "Use only folds in splits_final.json: for any other, nnU-Net splits at random, synthetic cases included.",
    ]


def _commands(card: DatasetCard) -> list[str]:
    """nnU-Net's commands that train with the plans of the original dataset."""
    source, new = card.bank.source, int(card.dataset[7:10])
    fold = source.fold if card.real else FOLD_ALL
    return [
        f"To train with the plans of {card.made_from} (new plans would depend on the synthetic cases):",
        f"  nnUNetv2_plan_and_preprocess -d {new} --no_pp --verify_dataset_integrity",
        f"  nnUNetv2_move_plans_between_datasets -s {card.made_from} -t {card.dataset} -sp {source.plans_name} "
        f"-tp {source.plans_name}",
        f"  nnUNetv2_preprocess -d {new} -c {source.configuration} -plans_name {source.plans_name}",
        f"  nnUNetv2_train {new} {source.configuration} {fold} -p {source.plans_name}",
    ]
