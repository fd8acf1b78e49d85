"""All that is found out about a bank, before any of it is put into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord
from nnunet_synth.bank.inspection.statistics import Measure, count_class_sets, measure
from nnunet_synth.bank.inspection.two_sides import (
    BankSamples,
    Neighbours,
    find_neighbours,
    open_reference,
    read_samples,
)
from stylegan2_cond.data.fingerprint import RANGE_QUANTILES
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.reference_sets import ReferenceSet

SEED = 0  # of the voxels whose intensities are compared


@dataclass(frozen=True)
class Findings:
    """What the page shows.

    Attributes:
        folder, record: of the bank.
        file_bytes: of all its shards together.
        bank: the samples that were inspected; None where there is none.
        reference: real patches; None without samples, or where the training cases or the snapshot are gone.
        no_reference: why there are none; empty where there are.
        neighbours: of the samples; None without a reference.
        class_sets: shares of the samples, real patches and further real patches that show a set of classes together.
        measures: of all sides.
        classes: names of the foreground labels.
        channels: names.
        display: how `overlay_grid` shows patches.
    """

    folder: Path
    record: BankRecord
    file_bytes: int
    bank: BankSamples | None
    reference: ReferenceSet | None
    no_reference: str
    neighbours: Neighbours | None
    class_sets: Mapping[tuple[int, ...], Sequence[float]]
    measures: Sequence[Measure]
    classes: Mapping[int, str]
    channels: Sequence[str]
    display: Mapping[str, Sequence]


def find_out(folder: Path, record: BankRecord, file_bytes: int) -> Findings:
    """Read samples and training cases, and compare them.

    Args:
        folder: of the bank.
        record: of the bank, whose files were found whole.
        file_bytes: size of these files.
    """
    bank, reference, no_reference, neighbours = read_samples(folder, record), None, "", None
    try:
        reference = open_reference(record)
    except UserError as error:
        no_reference, dataset_json, display = str(error), {}, _display_of(bank)
    else:
        codec, dataset_json = reference.plan.codec, reference.preprocessed.dataset_json
        display = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
        if bank:
            neighbours = find_neighbours(bank.samples, reference)
        else:
            reference = None
    no_reference = no_reference if bank else "There is no sample to compare."
    classes = name_classes(display["labels"], dataset_json)
    names = reference.plan.codec.channel_names if reference else ()
    channels = names or [f"channel {number}" for number in range(len(display["low"]))]
    class_sets, measures = {}, []
    if bank:
        sides = [bank.samples, reference.real, reference.again] if reference else [bank.samples]
        class_sets = count_class_sets(sides, list(classes))
        measures = measure(sides, neighbours, classes, channels, np.random.default_rng(SEED))
    return Findings(
        *(folder, record, file_bytes, bank, reference, no_reference),
        *(neighbours, class_sets, measures, classes, channels, display),
    )


def _display_of(bank: BankSamples | None) -> dict[str, Sequence]:
    """Ranges and labels of the samples themselves."""
    if bank is None:
        return {"low": (), "high": (), "labels": ()}
    channels = bank.samples.image.swapaxes(0, 1).reshape(bank.samples.channels, -1)
    low, high = np.quantile(channels, RANGE_QUANTILES, axis=1)
    labels = np.unique(bank.samples.label).tolist()
    return {"low": low.tolist(), "high": np.where(high > low, high, low + 1).tolist(), "labels": labels}


def name_classes(labels: Iterable[int], dataset_json: Mapping) -> dict[int, str]:
    """Names of the foreground labels from dataset.json; a label that only appears within regions keeps its number."""
    declared = dataset_json.get("labels", {})
    names = {label: name for name, label in declared.items() if isinstance(label, int)}
    names |= {label[0]: name for name, label in declared.items() if isinstance(label, list) and len(label) == 1}
    return {label: names.get(label, f"class {label}") for label in sorted(labels) if label > 0}
