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

from nnunet_synth.bank.format import Teacher
from nnunet_synth.pseudo_labels.scans import PreprocessedScan
from nnunet_synth.training.leak_guard import seen_in_bank
from nnunet_synth.training.usage_record import TrainingRecord
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import CHECKPOINTS, SYNTHETIC_DATA_FILE
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.trained_nnunets import (
    TrainedModel,
    find_nnunets,
    load_network,
    read_checkpoint,
    read_model,
    read_suitable_model,
)
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import write_line
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


_Found = tuple[TrainedModel, tuple[str, ...], Fold | None]  # as the arguments of LoadedTeacher


class LoadedTeacher:
    """One trained nnU-Net, ready to predict.

    Args:
        model: to load.
        banks: that it was trained with, by name.
        within: the fold that it was trained on, if it lies within the training cases of the bank's fold.
        device: to predict on.

    Attributes:
        unseen: labelled cases that it was validated on.
    """

    def __init__(self, model: TrainedModel, banks: tuple[str, ...], within: Fold | None, device: str):
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
            fold=within and within.name,
        )
        self.unseen = frozenset(within.validation if within else ())

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

    @property
    def configurations(self) -> dict[str, Preprocessed]:
        """Those that a scan is preprocessed for, the bank's first."""
        names = {self.preprocessed.configuration_name, *(member.record.configuration for member in self.members)}
        return {name: one for name, one in configurations(self.preprocessed).items() if name in names}

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

    Those of folds within the fold's training cases are teachers too: of fold all, those of nnU-Net's cross-validation.

    Args:
        preprocessed: configuration of the bank.
        fold: whose training cases the teachers have learnt from.
        source: of that fold.
        folders: `<trainer>__<plans>__<configuration>`; none for all in `$nnUNet_results`, of any configuration.
        device: to predict on.

    Raises:
        UserError: there is none, or one is damaged, of other plans or labels, or has seen validation cases.
    """
    sources = {None: source} | {one: _within(source, preprocessed, one) for one in preprocessed.folds_within(fold)}
    if folders:
        found = [one for folder in folders for one in _named(preprocessed, fold, sources, folder)]
    else:
        found = _all_of(preprocessed, sources)
    return Teachers(preprocessed, tuple(LoadedTeacher(*one, device) for one in found))


def configurations(preprocessed: Preprocessed) -> dict[str, Preprocessed]:
    """The configurations that a teacher may have, by name; the second stage of a cascade would need the first."""
    plans = preprocessed.plans_manager
    found = {
        name: Preprocessed(preprocessed.dataset_name, plans, name, preprocessed.dataset_json)
        for name in plans.available_configurations
    }
    return {name: one for name, one in found.items() if one.configuration.previous_stage_name is None}


def _all_of(preprocessed: Preprocessed, sources: Mapping[Fold | None, Source]) -> list[_Found]:
    source = sources[None]
    everything = source.fold == FOLD_ALL  # of whose nnU-Nets nothing shows what they were trained on
    found = [
        (within, find_nnunets(_of(theirs, one)))
        for within, theirs in sources.items()
        for one in configurations(preprocessed).values()
        if within or not everything
    ]
    finished = CHECKPOINTS[0]
    models = [(model, within) for within, one in found for model in one.models]
    skipped = [reason.rstrip(".") for _, one in found for reason in (*one.damaged, *one.unsuitable)]
    skipped += [
        f"the training in {model.folder} has not ended, it has no {finished}"
        for model, _ in models
        if model.checkpoint.name != finished
    ]
    ready = [(model, (), within) for model, within in models if model.checkpoint.name == finished]
    if not ready:
        others = "".join(f" Skipped: {reason}." for reason in skipped)
        raise UserError(
            f"There is no teacher: no nnU-Net was trained on the labelled cases of fold {source.fold} alone.{others} "
            f"Train one: nnUNetv2_train {source.dataset_name} {source.configuration} {0 if everything else source.fold}"
        )
    for reason in skipped:
        write_line(f"Not a teacher: {reason}", sys.stderr)
    return ready


def _named(preprocessed: Preprocessed, fold: Fold, sources: Mapping[Fold | None, Source], folder: Path) -> list[_Found]:
    name = folder.resolve().name.rpartition("__")[2]
    known = configurations(preprocessed)
    if name not in known:
        raise UserError(
            f"--teacher {folder}: the folder's name must be <trainer>__<plans>__<configuration>, with one of the "
            f"configurations {', '.join(known)} of {preprocessed.plans_name}."
        )
    theirs = {within: _of(source, known[name]) for within, source in sources.items()}
    held = [within for within, source in theirs.items() if read_model(folder, source)]
    return [
        (model, _banks(preprocessed, fold, model), within)
        for within in held or [None]
        if (model := read_suitable_model(folder, theirs[within]))
    ]


def _banks(preprocessed: Preprocessed, fold: Fold, model: TrainedModel) -> tuple[str, ...]:
    """The banks that a model was trained with, by name."""
    record = model.checkpoint.parent / SYNTHETIC_DATA_FILE
    banks = [bank for use in TrainingRecord.load(record).uses for bank in use.banks] if record.exists() else []
    for bank in banks:
        if seen := seen_in_bank(bank, case_hashes(preprocessed, fold.validation)):
            raise UserError(
                f"--teacher {model.folder} was trained with bank '{bank.name}', which comes from {len(seen)} "
                f"validation cases of fold {fold.name}, {seen[0]} among them. Choose another one."
            )
    return tuple(dict.fromkeys(bank.name for bank in banks))


def _within(source: Source, preprocessed: Preprocessed, fold: Fold) -> Source:
    """For a fold within the source's training cases, whose models must have been validated on no other cases."""
    others = set(preprocessed.case_names()) - set(fold.validation)
    return source.model_copy(update={"fold": fold.name, "training_cases": tuple(others)})


def _of(source: Source, preprocessed: Preprocessed) -> Source:
    """The same fold in another configuration; its images are not hashed."""
    return source.model_copy(
        update={
            "configuration": preprocessed.configuration_name,
            "data_identifier": preprocessed.configuration.data_identifier,
            "preprocessing": preprocessed.preprocessing_hash,
        }
    )
