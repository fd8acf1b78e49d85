"""Writes a trained model, or an ensemble, as a folder like Grand Challenge's template of an algorithm."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch

from nnunet_synth.export.model import (
    TrainedModel,
    read_whole_checkpoint,
    require_nnunets_trainer,
    write_settings,
)
from nnunet_synth.export.model_card import ModelCard
from nnunet_synth.export.raw_dataset import RawCase, find_raw_dataset
from nnunet_synth.export.submission.card import declare_fold, describe_submission
from nnunet_synth.export.submission.example import Measured, run_example, write_example
from nnunet_synth.export.submission.members import Members, choose_members
from nnunet_synth.export.submission.requirements import pin_requirements
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder, scratch_folder
from stylegan2_cond.io import explained_write
from stylegan2_cond.progress_bar import ProgressBar

_SLUG = re.compile(r"images/[a-z0-9]+([-_][a-z0-9]+)*")
_SCRIPTS = ("do_build.sh", "do_test_run.sh", "do_save.sh")
_TEXTS = ("Dockerfile", ".dockerignore", "inference.py", *_SCRIPTS)
_KEPT = ("trainer_name", "network_weights", "inference_allowed_mirroring_axes")  # all that nnU-Net predicts with


@dataclass(frozen=True)
class Submission:
    """Where a submission was written, of what it consists, and what one case takes."""

    folder: Path
    members: Members
    measured: Measured


def export_submission(folders: Sequence[Path], target: Path, inputs: Sequence[str], output: str) -> Submission:
    """Write a submission to the new folder `target`, completely or not at all.

    Args:
        folders: trained models `<trainer>__<plans>__<configuration>` of one dataset.
        target: the new folder.
        inputs: `images/<slug>` of each image of a case, in the order of nnU-Net's channels.
        output: `images/<slug>` of the label map.

    Raises:
        UserError: a slug is not valid, a model cannot be submitted, the raw dataset is missing or has another number of
            channels than `inputs`, `target` exists, or inference.py fails on the example.
    """
    _require_slugs(inputs, output)
    members = choose_members(folders)
    case = _find_example(members.first, inputs)
    if target.exists():
        raise UserError(f"{target} exists. Choose another folder with -o, or delete it.")
    lock = lock_folder(target, inside=False)
    parts = len(members.models) + 2
    with (
        lock,
        explained_write(target),
        scratch_folder(target.parent, f".{target.name}_") as scratch,
        ProgressBar(total=parts, desc="Writing weights", unit="part") as bar,
    ):
        cards = {}
        for name, model in members.models.items():
            cards[name] = _write_weights(model, scratch / "model" / name)
            bar.update()
        if members.postprocessing:
            (scratch / "model" / "postprocessing.json").write_text(json.dumps(members.postprocessing, indent=4))
        bar.set_description("Writing model.tar.gz")
        _write_archive(scratch / "model", scratch / "model.tar.gz")
        bar.update()
        bar.set_description("Predicting a case")
        facts = {
            "inputs": inputs,
            "output": output,
            "tag": re.sub(r"[^a-z0-9]+", "-", members.first.dataset_name.lower()).strip("-"),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        }
        _write_texts(scratch, _TEXTS, facts)
        (scratch / "requirements.txt").write_text("\n".join(pin_requirements("nnunetv2")) + "\n")
        measured = run_example(scratch, write_example(case, inputs, scratch))
        bar.update()
        _write_texts(scratch, ("README.md",), facts | describe_submission(members, cards, measured))
        scratch.rename(target)
    return Submission(target, members, measured)


def _require_slugs(inputs: Sequence[str], output: str) -> None:
    for slug in (*inputs, output):
        if not _SLUG.fullmatch(slug):
            plain = re.sub(r"[^a-z0-9]+", "-", slug.lower().removeprefix("images/")).strip("-") or "<slug>"
            raise UserError(
                f"'{slug}' is not a place as a challenge names it, images/<slug> with lower-case letters, digits and "
                f"hyphens. Did you mean images/{plain}?"
            )
    if len(set(inputs)) < len(inputs):
        raise UserError("An --input is given twice. Each channel has its own.")


def _find_example(model: TrainedModel, inputs: Sequence[str]) -> RawCase:
    raw = find_raw_dataset(model.dataset_name)
    (case,) = raw.cases.values()
    if len(case.images) != len(inputs):
        channels = raw.dataset_json.get("channel_names") or raw.dataset_json.get("modality") or {}
        raise UserError(
            f"A case of {model.dataset_name} has {len(case.images)} files (channels {', '.join(channels.values())}), "
            f"but --input was given {len(inputs)} times. Give it once for each file, in this order."
        )
    return case


def _write_weights(model: TrainedModel, folder: Path) -> ModelCard:
    """What nnU-Net needs to predict, without optimizer, log, and anything of this machine; returns the card."""
    cards = {}
    for fold, (path,) in model.folds.items():
        checkpoint = read_whole_checkpoint(path)
        require_nnunets_trainer(
            trainer := checkpoint["trainer_name"],
            f"Write a model that it can use, and submit that: nnunet-synth export-model {model.folder} -o FOLDER "
            f"--trainer nnUNetTrainer",
        )
        kept = {key: checkpoint.get(key) for key in _KEPT}
        (folder / fold).mkdir(parents=True)
        torch.save(kept | {"init_args": {"configuration": model.configuration}}, folder / fold / path.name)
        epochs = {path.name: int(checkpoint["current_epoch"])}
        number = fold.removeprefix("fold_")
        cards[number] = declare_fold(model, number, trainer, epochs)
    return write_settings(model, folder, trainer, cards)


def _write_archive(folder: Path, path: Path) -> None:
    """A folder's content as a gzipped archive that every user may read, without names and numbers of users."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(path, "w:gz", compresslevel=1) as archive:  # weights hardly shrink
        archive.add(folder, ".", filter=anonymous)


def _write_texts(folder: Path, names: Sequence[str], facts: dict) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    for name in names:
        (folder / name).write_text(
            environment.get_template(f"{name.removeprefix('.')}.jinja").render(facts), encoding="utf-8"
        )
        if name in _SCRIPTS:
            (folder / name).chmod(0o755)
