"""The models, folds and postprocessing of a submission, as `nnUNetv2_find_best_configuration` recommends if it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

from nnunet_synth.export.model import TrainedModel, read_trained
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL
from stylegan2_cond.data.nnunet_files import open_plans
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import read_json

CHECKPOINT = "checkpoint_final.pth"
_INFORMATION = "inference_information.json"
_READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO")
_AGAIN = "Write it again: nnUNetv2_find_best_configuration …"


@dataclass(frozen=True)
class Members:
    """What predicts: the mean probability of these models.

    Attributes:
        models: by the name of their folder, each with the final checkpoints of the folds to use.
        postprocessing: arguments of nnU-Net's function that keeps the largest component, for each time it is applied.
        notes: what of the given models and of nnU-Net's recommendation is used, and what is not.
    """

    models: dict[str, TrainedModel]
    postprocessing: tuple[dict, ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> TrainedModel:
        """The model whose plans and dataset.json stand for all."""
        return next(iter(self.models.values()))


class _Recommendation(NamedTuple):
    models: tuple[str, ...]
    folds: tuple[str, ...]
    postprocessing: tuple[dict, ...]
    dice: tuple[float, float]  # mean in cross-validation, before and after postprocessing


def choose_members(folders: Sequence[Path]) -> Members:
    """The members of a submission, out of folders of trained models of one dataset.

    Raises:
        UserError: a folder is not a trained model, has no finished fold, is a cascade, or was trained on other data
            than the first or on files that no challenge delivers; or the recommendation can't be read or followed.
    """
    given = {folder.resolve().name: read_trained(folder) for folder in folders}
    if len(given) < len(folders):
        raise UserError("A model is given twice. Name each folder once.")
    first = next(iter(given.values()))
    for model in given.values():
        _require_supported(model, first)
    path = first.folder.resolve().parent / _INFORMATION
    if path.exists():
        best = _read_recommendation(path)
        if set(best.models) <= given.keys():
            chosen = {name: _with_folds(given[name], best.folds) for name in best.models}
            names = f"{' and '.join(best.models)}, folds {', '.join(best.folds)}"
            before, after = best.dice
            note = (
                f"As {path.name} recommends: {names}, with its postprocessing. Mean Dice in cross-validation: "
                f"{before:.3f} before postprocessing, {after:.3f} after it."
            )
            return Members(chosen, best.postprocessing, (note,))
        note = f"{path.name} recommends {' and '.join(best.models)}, so it is not followed: no postprocessing."
    else:
        note = f"nnUNetv2_find_best_configuration was not run (there is no {path.name}), so there is no postprocessing."
    chosen = {name: _with_folds(model, _finished_folds(model)) for name, model in given.items()}
    notes = [note]
    for name, model in given.items():
        if unused := sorted(model.folds.keys() - chosen[name].folds.keys()):
            why = f"no {CHECKPOINT}, or {FOLD_ALL} besides others"
            notes.append(f"Left out of {name}: {', '.join(unused)} ({why}).")
    return Members(chosen, (), tuple(notes))


def _require_supported(model: TrainedModel, first: TrainedModel) -> None:
    plans, dataset_json = (model.settings[name] for name in ("plans.json", "dataset.json"))
    for key in ("labels", "regions_class_order", "channel_names"):
        if dataset_json.get(key) != first.settings["dataset.json"].get(key):
            raise UserError(
                f"{model.folder} and {first.folder} differ in '{key}' of dataset.json: they form no ensemble."
            )
    configuration = open_plans(plans, model.folder / "plans.json", "").get_configuration(model.configuration)
    if configuration.previous_stage_name is not None:
        raise UserError(
            f"{model.folder} is the second stage of a cascade, which a submission does not support. Submit "
            f"3d_fullres, 3d_lowres, 2d, or an ensemble of them."
        )
    if (reader := plans["image_reader_writer"]) not in _READERS:
        raise UserError(
            f"{model.folder} was trained on files of nnU-Net's reader {reader}, which .mha files of a challenge can't "
            f"stand for. Supported are {', '.join(_READERS)}: NIfTI, .mha, .nrrd, and 2-D PNG, .bmp and .tif."
        )


def _finished_folds(model: TrainedModel) -> tuple[str, ...]:
    finished = [fold.removeprefix("fold_") for fold, paths in model.folds.items() if paths[0].name == CHECKPOINT]
    if not finished:
        raise UserError(f"{model.folder} has no finished fold ({CHECKPOINT}). Finish one: nnUNetv2_train … --c")
    return tuple(fold for fold in finished if fold != FOLD_ALL) or (FOLD_ALL,)


def _with_folds(model: TrainedModel, folds: Sequence[str]) -> TrainedModel:
    """The model with these folds only, and of these the final checkpoint."""
    paths = {f"fold_{fold}": model.folder / f"fold_{fold}" / CHECKPOINT for fold in folds}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise UserError(f"{_INFORMATION} recommends {missing[0]}, which does not exist. {_AGAIN}")
    return replace(model, folds={fold: (path,) for fold, path in paths.items()})


def _read_recommendation(path: Path) -> _Recommendation:
    """What nnU-Net left in a dataset's folder of results, which may have been moved since."""
    content = read_json(path, _AGAIN)
    try:
        best = content["best_model_or_ensemble"]
        names = [
            convert_trainer_plans_config_to_identifier(one["trainer"], one["plans_identifier"], one["configuration"])
            for one in best["selected_model_or_models"]
        ]
        folder = path.parent.joinpath(*Path(best["postprocessing_file"]).parts[-3:-1])
        applied = read_json(folder / "postprocessing.json", _AGAIN)
        functions, options = applied["postprocessing_fns"], applied["postprocessing_kwargs"]
        folds = tuple(map(str, content["folds"]))
        dice = float(best["result_on_crossval_pre_pp"]), float(best["result_on_crossval_post_pp"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} or its postprocessing.json is not as nnU-Net writes it ({error!r}). {_AGAIN}"
        ) from None
    if unknown := set(functions) - {remove_all_but_largest_component_from_segmentation.__name__}:
        raise UserError(f"{folder} has a postprocessing, {unknown.pop()}, that a submission does not support.")
    return _Recommendation(tuple(names), folds, tuple(options), dice)
