"""Fills a bank from snapshots, shard by shard. After a stop, the same request continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from nnunet_synth.bank.calibration import open_calibration
from nnunet_synth.bank.ensemble import Ensemble, open_ensemble
from nnunet_synth.bank.filters import FILTERS, Filters, parse_filters_off
from nnunet_synth.bank.format import BankRecord, FilterRecord, Generators, shard_name, write_shard
from nnunet_synth.bank.previews import describe_filters, refused_picture, save_grid, save_preview
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.bank.resume import lock_bank, refuse_other_limits, resume_bank
from nnunet_synth.bank.sample_stream import SampleStream, ScreenedSample
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.untrusted_files import is_plain_name
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import keep_log
from stylegan2_cond.ops import name_backend
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.training.model_selection import CLOSE, assess_quality, relative_coverage, snapshot_scores

SLICES_PER_SHARD = 64  # as one volume of a real case; a 3-D sample is a case of its own
CHUNK = {2: 64, 3: 8}  # samples generated at once, by the number of axes
EXAMPLES = 16  # refused samples in the picture of each filter
MOST_REFUSED = 0.9  # fraction of the generated samples above which filling stops
FEWEST_GENERATED = 64  # before that fraction counts
IF_REFUSED = "Train the generator longer, choose another --snapshot, or turn that filter off"


def fill_bank(preprocessed: Preprocessed, fold_name: str, request: FillRequest, device: str = "cpu") -> Path:
    """Generate samples into a bank, or continue one that was started with the same request.

    Args:
        preprocessed: dataset and configuration of the bank.
        fold_name: fold of the bank.
        request: what the bank is to hold.
        device: for generators and nnU-Net.

    Returns:
        The bank's folder.

    Raises:
        UserError: invalid input, a snapshot of other data, another bank of that name, a full disk, or filters that
            refuse nearly all samples.
        Stopped: after Ctrl-C.
    """
    without = parse_filters_off(request.without, FILTERS)
    ensemble = open_ensemble(preprocessed, fold_name, request, device)
    requested, plan = _new_record(ensemble, request, device), ensemble.plan
    folder = banks_folder(preprocessed.base, plan.source.data_identifier, plan.source.fold) / requested.name
    with lock_bank(folder), keep_log(folder):
        _warn(ensemble, request)
        record = resume_bank(folder, requested, without)
        if record is not None and record.complete:
            write_line(describe_filters(record))
            return folder
        fit = "fit" not in without and (request.nnunet is not None or not (record and record.filters["fit"].off))
        calibration = open_calibration(preprocessed, plan, request.margin, device, nnunet=request.nnunet, fit=fit)
        filters = Filters.calibrate(calibration, without)
        record = record or requested.model_copy(update={"filters": filters.records()})
        refuse_other_limits(folder, record, filters)
        record.save(folder / RECORD_FILE)
        tally = _Tally.of(record)
        stream = SampleStream(ensemble.members, request.seed, request.balanced)
        try:
            record = _write_shards(folder, record, stream, filters, tally, preprocessed)
        except KeyboardInterrupt:
            raise Stopped(f"Stopped; complete shards of {folder} are kept. The same command continues.") from None
        finally:
            tally.save_pictures(folder, plan)
        save_preview(folder, record, plan)
        write_line(describe_filters(record))
    return folder


@dataclass
class _Tally:
    """How many samples each filter refused or corrected, and the first refused ones of this run."""

    refused: Counter[str]
    corrected: Counter[str]
    examples: dict[str, list[ScreenedSample]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: BankRecord) -> _Tally:
        filters = record.filters.items()
        return cls(
            Counter({name: filter_.refused for name, filter_ in filters}),
            Counter({name: filter_.corrected for name, filter_ in filters}),
        )

    def add(self, sample: ScreenedSample) -> None:
        self.corrected.update(sample.corrected_by)
        if name := sample.refused_by:
            self.refused[name] += 1
            if len(shown := self.examples.setdefault(name, [])) < EXAMPLES:
                shown.append(sample)

    def update(self, filters: dict[str, FilterRecord]) -> dict[str, FilterRecord]:
        """The same records with the counts of today."""
        return {
            name: filter_.model_copy(update={"refused": self.refused[name], "corrected": self.corrected[name]})
            for name, filter_ in filters.items()
        }

    def save_pictures(self, folder: Path, plan: Plan) -> None:
        """Save a picture for each filter that refused samples; pictures of an earlier run stay."""
        for name, shown in self.examples.items():
            if not (path := refused_picture(folder, name)).exists():
                images = [sample.image for sample in shown]
                if not all(map(len, images)):  # the masks of some were refused before they had images
                    images = [image[:0] for image in images]
                save_grid(path, images, [sample.label for sample in shown], plan)


def _write_shards(
    folder: Path,
    record: BankRecord,
    stream: SampleStream,
    filters: Filters,
    tally: _Tally,
    preprocessed: Preprocessed,
) -> BankRecord:
    """Write shards until the bank is complete, and save the record after each; returns the last record."""
    dims = len(record.origin.patch_size)
    per_shard = SLICES_PER_SHARD if dims == 2 else 1
    screened = stream.screened(record.generated, filters, CHUNK[dims])
    title = f"Filling {record.name}"
    with ProgressBar(total=record.requested, initial=record.samples, unit="sample", desc=title) as bar:
        while not record.complete:
            count = min(per_shard, record.requested - record.samples)
            entering, last = _next_samples(screened, count, tally, folder, filters)
            name = shard_name(len(record.shards))
            shard = write_shard(folder, name, *_as_case(entering, dims), last + 1, preprocessed)
            filled = {"shards": (*record.shards, shard), "filters": tally.update(record.filters)}
            record = record.model_copy(update=filled)
            record.save(folder / RECORD_FILE)
            bar.update(shard.samples)
    return record


def _next_samples(
    screened: Iterator[ScreenedSample], count: int, tally: _Tally, folder: Path, filters: Filters
) -> tuple[list[ScreenedSample], int]:
    """The next `count` samples that no filter refuses, and the number of the last sample that was screened.

    Raises:
        UserError: nearly all are refused.
    """
    entering: list[ScreenedSample] = []
    for sample in screened:
        tally.add(sample)
        if sample.refused_by is None:
            entering.append(sample)
        generated, refused = sample.number + 1, tally.refused.total()
        if generated >= FEWEST_GENERATED and refused > MOST_REFUSED * generated:
            worst = max(tally.refused, key=tally.refused.get)
            examples = [sample.image for sample in tally.examples.get(worst, ()) if len(sample.image)]
            raise UserError(
                f"The filters refused {refused} of {generated} samples, most of them the filter '{worst}' "
                f"({tally.refused[worst]}): {filters.explain(worst, examples)} Look at "
                f"{refused_picture(folder, worst)}. {IF_REFUSED}: --without {worst} --name {folder.name}_open"
            )
        if len(entering) == count:
            return entering, sample.number
    raise AssertionError("the stream is endless")


def _as_case(samples: Sequence[ScreenedSample], dims: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Image `[C, z, y, x]`, label `[1, z, y, x]` and numbers; for 2-D samples, z counts samples."""
    image, label = np.stack([s.image for s in samples]), np.stack([s.label for s in samples])
    image = image.swapaxes(0, 1) if dims == 2 else image[0]
    return np.ascontiguousarray(image), label[None] if dims == 2 else label, [s.number for s in samples]


def _new_record(ensemble: Ensemble, request: FillRequest, device: str) -> BankRecord:
    """The record of an empty bank."""
    plan = ensemble.plan
    name = (
        request.default_name(ensemble.snapshots, plan.source.scans and plan.source.scans.bank)
        if request.name is None
        else request.name
    )
    if not is_plain_name(name):
        raise UserError(f"--name {name!r} is not a plain folder name. Type for example --name pair_1")
    return BankRecord(
        name=name,
        source=plan.source,
        origin=Generators(
            snapshots=ensemble.snapshots,
            masks=request.mask_kind if any(member.masks for member in ensemble.members) else None,
            mask_snapshot=ensemble.mask_snapshot,
            mask_scans=ensemble.mask_scans,
            balanced=request.balanced,
            patch_size=plan.patch_size,
            seed=request.seed,
            margin=request.margin,
            backends=(name_backend(torch.device(device).type),),
        ),
        requested=request.samples,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    )


def _warn(ensemble: Ensemble, request: FillRequest) -> None:
    """Name classes that cannot be requested, and generators that are far from real."""
    conditions = ensemble.plan.conditions
    shown = {label for combination in conditions.combinations() for label in combination}
    if request.balanced and (never := [label for label in conditions.classes if label not in shown]):
        write_line(f"--balanced: no training patch shows class {', '.join(map(str, never))}, so it is never requested.")
    for snapshot in ensemble.snapshots:
        scores = snapshot_scores(Path(snapshot.path))
        if (coverage := relative_coverage(scores)) is not None and coverage < CLOSE:
            write_line(f"Snapshot {snapshot.path}: {assess_quality(scores)}")
