"""All that is found out about a bank, before any of it is put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.inspection.naming import name_channels, name_classes
from nnunet_synth.bank.inspection.neighbours import Neighbours, find_neighbours
from nnunet_synth.bank.inspection.real_side import RealSide, open_real, read_real_side
from nnunet_synth.bank.inspection.statistics import Measure, Presence, measure, presence
from nnunet_synth.bank.inspection.tiles import Look
from nnunet_synth.bank.inspection.two_sides import Drawn, read_samples
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.fingerprint import RANGE_QUANTILES
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features import EVALUATION_FOLDER
from stylegan2_cond.planning import run_folder

SEED = 0  # of the voxels whose intensities are looked at


@dataclass(frozen=True)
class Findings:
    """What the page tells.

    Attributes:
        folder, record: of the bank.
        file_bytes: of all its shards together.
        drawn: samples that were looked at; None where there is none.
        real: patches of the training cases; None where they or the snapshot are gone.
        no_real: why there are none; empty where there are.
        neighbours: of the samples, among the training patches.
        presence, measures: of both sides.
        classes: names of the foreground labels.
        channels: names.
        look: how patches are drawn.
    """

    folder: Path
    record: BankRecord
    file_bytes: int
    drawn: Drawn | None
    real: RealSide | None
    no_real: str
    neighbours: Neighbours | None
    presence: Presence | None
    measures: Sequence[Measure]
    classes: Mapping[int, str]
    channels: Sequence[str]
    look: Look


def find_out(folder: Path, record: BankRecord, file_bytes: int) -> Findings:
    """Read samples and training cases, and hold the ones against the others.

    Args:
        folder: of the bank.
        record: of the bank, whose files were found whole.
        file_bytes: of them.
    """
    drawn, real, no_real, neighbours = read_samples(folder, record), None, "", None
    try:
        preprocessed, plan = open_real(record)
    except UserError as error:
        no_real, look, dataset_json = str(error), _look(drawn), None
    else:
        look, dataset_json = _look_of(plan.codec), preprocessed.dataset_json
        if drawn:
            real = read_real_side(preprocessed, plan)
            neighbours = find_neighbours(drawn.samples, real, run_folder(plan.source, plan.variant) / EVALUATION_FOLDER)
    classes, channels = name_classes(look.labels, dataset_json), name_channels(len(look.low), dataset_json)
    shown, measures = None, []
    if drawn:
        shown = presence(drawn.samples, real, list(classes))
        measures = measure(drawn.samples, real, neighbours, classes, channels, np.random.default_rng(SEED))
    return Findings(
        folder, record, file_bytes, drawn, real, no_real, neighbours, shown, measures, classes, channels, look
    )


def _look_of(codec: Codec) -> Look:
    return Look(codec.low, codec.high, codec.labels, codec.rgb)


def _look(drawn: Drawn | None) -> Look:
    """By the samples alone."""
    if drawn is None:
        return Look((), (), ())
    channels = drawn.samples.image.swapaxes(0, 1).reshape(drawn.samples.channels, -1)
    low, high = np.quantile(channels, RANGE_QUANTILES, axis=1)
    high = np.where(high > low, high, low + 1)
    return Look(low.tolist(), high.tolist(), np.unique(drawn.samples.label).tolist())
