"""The nnU-Nets that label scans: found, refused where they saw validation cases, and asked for probabilities."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from nnunet_synth.bank.format import Teacher
from nnunet_synth.pseudo_labels.scans import PreprocessedScan
from nnunet_synth.training.leak_guard import seen_in_bank
from nnunet_synth.training.usage_record import TrainingRecord
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Fold, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.trained_nnunets import (
    CHECKPOINTS,
    SYNTHETIC_DATA_FILE,
    TrainedModel,
    find_nnunets,
    load_network,
    read_checkpoint,
    read_suitable_model,
)
from stylegan2_cond.planning import Source
from stylegan2_cond.snapshot import sha256


@dataclass(frozen=True)
class Prediction:
    """What teachers see in one scan.

    Attributes:
        probabilities: `[heads, z, y, x]` float32, the mean of all teachers with nnU-Net's mirroring.
        alternatives: `[z, y, x]` labels of each teacher alone, and of each without mirroring.
    """

    probabilities: torch.Tensor
    alternatives: Sequence[np.ndarray]


class LoadedTeacher:
    """One trained nnU-Net, ready to predict."""

    def __init__(self, model: TrainedModel, banks: tuple[str, ...], device: str):
        theirs = model.preprocessed
        network, _ = load_network(model)
        with redirect_stdout(StringIO()):  # nnU-Net's note on CPUs
            self.predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
        self.predictor.manual_initialization(
            network,
            theirs.plans_manager,
            theirs.configuration,
            [network.state_dict()],
            theirs.dataset_json,
            "nnUNetTrainer",
            read_checkpoint(model.checkpoint).get("inference_allowed_mirroring_axes"),
        )
        self.configuration = theirs.configuration
        self.record = Teacher(
            path=str(model.folder.resolve()),
            sha256=sha256(model.checkpoint),
            configuration=theirs.configuration_name,
            banks=banks,
        )

    def logits(self, scan: PreprocessedScan, target: PreprocessedScan, *, mirroring: bool) -> torch.Tensor:
        """`[heads, z, y, x]` on the grid of `target`.

        Args:
            scan: as preprocessed for this teacher's configuration.
            target: the same scan as preprocessed for the bank's.
            mirroring: average over nnU-Net's mirrored predictions.
        """
        self.predictor.use_mirroring = mirroring
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(scan.image)).float()
        if scan.spacing == target.spacing and logits.shape[1:] == target.image.shape[1:]:
            return logits
        resample = self.configuration.resampling_fn_probabilities
        return torch.as_tensor(resample(logits, target.image.shape[1:], scan.spacing, target.spacing)).float()


@dataclass(frozen=True)
class Teachers:
    """One or several nnU-Nets whose probabilities are averaged.

    Attributes:
        preprocessed: configuration of the bank, on whose grid they predict.
        members: of one or several configurations.
    """

    preprocessed: Preprocessed
    members: tuple[LoadedTeacher, ...]

    def predict(self, scan: Mapping[str, PreprocessedScan]) -> Prediction:
        """Probabilities for a scan that was preprocessed for each of the configurations, by name."""
        manager, target = self.preprocessed.label_manager, scan[self.preprocessed.configuration_name]
        total, alternatives = None, []
        for member in self.members:
            own = scan[member.record.configuration]
            probabilities = manager.apply_inference_nonlin(member.logits(own, target, mirroring=True))
            if len(self.members) > 1:
                alternatives.append(self._label(probabilities))
            if member.predictor.allowed_mirroring_axes:
                plain = manager.apply_inference_nonlin(member.logits(own, target, mirroring=False))
                alternatives.append(self._label(plain))
            total = probabilities if total is None else total.add_(probabilities)
        return Prediction(total.div_(len(self.members)), alternatives)

    def label(self, prediction: Prediction) -> np.ndarray:
        """`[z, y, x]` int16: the labels of a prediction, as nnU-Net converts probabilities."""
        return self._label(prediction.probabilities)

    def _label(self, probabilities: torch.Tensor) -> np.ndarray:
        return np.asarray(
            self.preprocessed.label_manager.convert_probabilities_to_segmentation(probabilities), np.int16
        )


def open_teachers(
    preprocessed: Preprocessed, fold: Fold, source: Source, folders: Sequence[Path], device: str
) -> Teachers:
    """The teachers in some folders, or all nnU-Nets of the fold that were trained on labelled cases alone.

    Args:
        preprocessed: configuration of the bank.
        fold: whose training cases the teachers have learnt from.
        source: of that fold.
        folders: `<trainer>__<plans>__<configuration>`; none for all in `$nnUNet_results`, of any configuration.
        device: to predict on.

    Raises:
        UserError: there is none, or one is damaged, of other plans or labels, or has seen validation cases.
    """
    if fold.name == FOLD_ALL and not folders:
        raise UserError("Fold all has no cases that teachers must not have seen. Name them: --teacher MODEL")
    models = [_named(preprocessed, fold, source, folder) for folder in folders] or _all_of(preprocessed, source)
    return Teachers(preprocessed, tuple(LoadedTeacher(model, banks, device) for model, banks in models))


def configurations(preprocessed: Preprocessed) -> dict[str, Preprocessed]:
    """The configurations that a teacher may have, by name; the second stage of a cascade would need the first."""
    plans = preprocessed.plans_manager
    found = {
        name: Preprocessed(preprocessed.dataset_name, plans, name, preprocessed.dataset_json)
        for name in plans.available_configurations
    }
    return {name: one for name, one in found.items() if one.configuration.previous_stage_name is None}


def _all_of(preprocessed: Preprocessed, source: Source) -> list[tuple[TrainedModel, tuple[str, ...]]]:
    found = [find_nnunets(_of(source, one)) for one in configurations(preprocessed).values()]
    finished = CHECKPOINTS[0]
    models = [model for one in found for model in one.models if model.checkpoint.name == finished]
    skipped = [reason.rstrip(".") for one in found for reason in (*one.damaged, *one.unsuitable)]
    skipped += [
        f"the training in {model.folder} has not ended, it has no {finished}"
        for one in found
        for model in one.models
        if model.checkpoint.name != finished
    ]
    if not models:
        others = "".join(f" Skipped: {reason}." for reason in skipped)
        raise UserError(
            f"There is no teacher: no nnU-Net was trained on the labelled cases of fold {source.fold} alone.{others} "
            f"Train one: nnUNetv2_train {source.dataset_name} {source.configuration} {source.fold}"
        )
    for reason in skipped:
        tqdm.write(f"Not a teacher: {reason}", file=sys.stderr)
    return [(model, ()) for model in models]


def _named(
    preprocessed: Preprocessed, fold: Fold, source: Source, folder: Path
) -> tuple[TrainedModel, tuple[str, ...]]:
    name = folder.resolve().name.rpartition("__")[2]
    known = configurations(preprocessed)
    if name not in known:
        raise UserError(
            f"--teacher {folder}: the folder's name must be <trainer>__<plans>__<configuration>, with one of the "
            f"configurations {', '.join(known)} of {preprocessed.plans_name}."
        )
    model = read_suitable_model(folder, _of(source, known[name]))
    record = model.checkpoint.parent / SYNTHETIC_DATA_FILE
    banks = [bank for use in TrainingRecord.load(record).uses for bank in use.banks] if record.exists() else []
    for bank in banks:
        if seen := seen_in_bank(bank, case_hashes(preprocessed, fold.validation)):
            raise UserError(
                f"--teacher {folder} was trained with bank '{bank.name}', which comes from {len(seen)} validation "
                f"cases of fold {fold.name}, {seen[0]} among them. Choose another one."
            )
    return model, tuple(dict.fromkeys(bank.name for bank in banks))


def _of(source: Source, preprocessed: Preprocessed) -> Source:
    """The same fold in another configuration; its images are not hashed."""
    return source.model_copy(
        update={
            "configuration": preprocessed.configuration_name,
            "data_identifier": preprocessed.configuration.data_identifier,
            "preprocessing": preprocessed.preprocessing_hash,
        }
    )
