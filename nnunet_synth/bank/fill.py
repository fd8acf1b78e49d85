"""From snapshots to a bank, shard by shard; the same command goes on after a stop."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from nnunet_synth.bank import MARGIN
from nnunet_synth.bank.beginning import begun_bank, refuse_other_filters
from nnunet_synth.bank.ensemble import Order, open_members
from nnunet_synth.bank.filters import FILTERS, REAL_PATCHES, Filters, Known, Range
from nnunet_synth.bank.format import RECORD_FILE, BankRecord, SnapshotReference, banks_folder, shard_name, write_shard
from nnunet_synth.bank.plain_files import is_plain_name
from nnunet_synth.bank.previews import refused_picture, save_grid, save_preview
from nnunet_synth.bank.sample_stream import Judged, Stream
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import as_user_error
from stylegan2_cond.metrics.features import EVALUATION_FOLDER
from stylegan2_cond.metrics.features_nnunet import NnUNet, open_newest, open_nnunet
from stylegan2_cond.metrics.reference_sets import ReferenceSet
from stylegan2_cond.ops import name_backend
from stylegan2_cond.planning import Plan, run_folder
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.training.quality import CLOSE, relative_coverage, snapshot_scores, verdict

SLICES_PER_SHARD = 64  # as one volume of a real case; a 3-D sample is a case of its own
CHUNK = {2: 64, 3: 8}  # samples drawn at once, by the number of axes
EXAMPLES = 16  # refused samples that are shown for each filter
ALL_FILTERS = "all"
MOST_REFUSED = 0.9  # share of the draws above which filling gives up
IF_REFUSED = "Train the generator longer, choose another --snapshot, or leave that filter open"
FEWEST_DRAWN = 64  # before that is judged


@dataclass
class Refusals:
    """What filters refused: how many in all, and the first ones of this run, to look at."""

    counts: dict[str, int]
    examples: dict[str, list[Judged]] = field(default_factory=dict)

    def note(self, sample: Judged) -> None:
        filter_ = sample.refused_by
        self.counts[filter_] = self.counts.get(filter_, 0) + 1
        if len(shown := self.examples.setdefault(filter_, [])) < EXAMPLES:
            shown.append(sample)

    def save(self, folder: Path, plan: Plan) -> None:
        """A picture for each filter that refused something; those of an earlier run stay."""
        for filter_, shown in self.examples.items():
            if not (path := refused_picture(folder, filter_)).exists():
                save_grid(path, [sample.image for sample in shown], [sample.label for sample in shown], plan)


def fill_bank(
    preprocessed: Preprocessed,
    fold_name: str,
    *,
    samples: int,
    order: Order = Order(),
    name: str | None = None,
    seed: int = 0,
    without: Sequence[str] = (),
    margin: float = MARGIN,
    nnunet: Path | None = None,
    device: str = "cpu",
) -> Path:
    """Draw samples into a bank, or go on with one that was begun with the same arguments.

    Args:
        preprocessed: dataset and configuration that the bank is for.
        fold_name: fold that the bank is for.
        samples: how many the bank is to hold.
        order: which snapshots draw, for which masks.
        name: of the bank; the variant and the images that the generator saw, when None.
        seed: of the stream of samples.
        without: filters that are left open.
        margin: how much further than the training cases samples may go, as a share of their range.
        nnunet: folder of the trained nnU-Net that the filter `fit` asks; the newest that fits, when None.
        device: that draws.

    Returns:
        The bank's folder.

    Raises:
        UserError: bad input, a snapshot of other data, a bank of that name with other contents, a full disk, or filters
            that refuse nearly all.
        Stopped: after Ctrl-C.
    """
    without = _named_filters(without)
    members, references, mask_reference = open_members(preprocessed, fold_name, order, device)
    plan = members[0].generator.plan
    _warn(plan, references, balanced=order.balanced)
    wanted = BankRecord(
        name=order.bank_name(references) if name is None else _plain_name(name),
        source=plan.source,
        snapshots=references,
        masks=order.masks_word if any(member.masks for member in members) else None,
        mask_snapshot=mask_reference,
        balanced=order.balanced,
        patch_size=plan.patch_size,
        seed=seed,
        requested=samples,
        margin=margin,
        backends=(name_backend(torch.device(device).type),),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    )
    folder = banks_folder(preprocessed.base, plan.source.data_identifier, plan.source.fold) / wanted.name
    with _alone(folder):
        record = begun_bank(folder, wanted, without)
        if record is not None and record.complete:
            return folder
        fit = "fit" not in without and (nnunet is not None or not (record and record.filters["fit"].off))
        known = partial(_known, preprocessed, plan, margin, device, nnunet, fit=fit)
        record, filters = _with_filters(folder, record, wanted, without, known)
        record.save(folder / RECORD_FILE)
        refusals = Refusals({name: filter_.refused for name, filter_ in record.filters.items()})
        stream = Stream(members, seed, order.balanced)
        try:
            record = _fill(folder, record, stream, filters, refusals, preprocessed)
        except KeyboardInterrupt:
            raise Stopped(f"Stopped; whole shards of {folder} are kept. The same command goes on.") from None
        finally:
            refusals.save(folder, plan)
        save_preview(folder, record, plan)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else fills the same bank.

    Raises:
        UserError: somebody does.
    """
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"Bank {folder} is being filled by another process. Wait for it, or choose a --name.") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise as_user_error(error, folder) from None
        raise UserError(
            f"No permission to write {folder.parent}, where banks lie, next to nnU-Net's cases. Work in a folder of "
            f"links to them: mkdir linked && cp -rs --no-preserve=mode {shlex.quote(str(folder.parents[2]))} linked && "
            f"export nnUNet_preprocessed=$PWD/linked"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _fill(
    folder: Path,
    record: BankRecord,
    stream: Stream,
    filters: Filters,
    refusals: Refusals,
    preprocessed: Preprocessed,
) -> BankRecord:
    """Write shard after shard until the bank holds all requested samples; the last record that was saved."""
    dims = len(record.patch_size)
    per_shard = SLICES_PER_SHARD if dims == 2 else 1
    judged = stream.judged(record.drawn, filters, CHUNK[dims])
    with ProgressBar(
        total=record.requested, initial=record.samples, unit="sample", desc=f"Filling {record.name}"
    ) as bar:
        while not record.complete:
            wanted = min(per_shard, record.requested - record.samples)
            entered, last = _enter(judged, wanted, refusals, folder, filters)
            clipped = sum(sample.clipped > 0 for sample in entered)
            name = shard_name(len(record.shards))
            shard = write_shard(folder, name, *_as_case(entered, dims), last + 1, preprocessed)
            record = record.model_copy(
                update={
                    "shards": (*record.shards, shard),
                    "filters": {
                        name: filter_.model_copy(
                            update={
                                "refused": refusals.counts[name],
                                "clipped": filter_.clipped + clipped * (name == Range.name),
                            }
                        )
                        for name, filter_ in record.filters.items()
                    },
                }
            )
            record.save(folder / RECORD_FILE)
            bar.update(shard.samples)
    return record


def _enter(
    judged: Iterator[Judged], wanted: int, refusals: Refusals, folder: Path, filters: Filters
) -> tuple[list[Judged], int]:
    """The next `wanted` samples that may enter, and the number of the last one that was looked at.

    Raises:
        UserError: nearly all are refused.
    """
    entered: list[Judged] = []
    for sample in judged:
        if sample.refused_by is None:
            entered.append(sample)
        else:
            refusals.note(sample)
        drawn, refused = sample.number + 1, sum(refusals.counts.values())
        if drawn >= FEWEST_DRAWN and refused > MOST_REFUSED * drawn:
            worst = max(refusals.counts, key=refusals.counts.get)
            examples = [sample.image for sample in refusals.examples.get(worst, ())]
            raise UserError(
                f"The filters refused {refused} of {drawn} samples, most of them the filter '{worst}' "
                f"({refusals.counts[worst]}): {filters.explain(worst, examples)} Look at "
                f"{refused_picture(folder, worst)}. {IF_REFUSED}: --without {worst} --name {folder.name}_open"
            )
        if len(entered) == wanted:
            return entered, sample.number
    raise AssertionError("the stream has no end")


def _as_case(entered: Sequence[Judged], dims: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Image `[C, z, y, x]`, label `[1, z, y, x]`, numbers; of 2-D samples, z counts samples."""
    image, label = np.stack([s.image for s in entered]), np.stack([s.label for s in entered])
    image = image.swapaxes(0, 1) if dims == 2 else image[0]
    return np.ascontiguousarray(image), label[None] if dims == 2 else label, [s.number for s in entered]


def _plain_name(name: str) -> str:
    if not is_plain_name(name):
        raise UserError(f"--name {name!r} is not a plain folder name. Type for example --name pair_1")
    return name


def _named_filters(names: Sequence[str]) -> set[str]:
    """The filters that are meant, `all` among the names being each of them."""
    if unknown := sorted(set(names) - {*FILTERS, ALL_FILTERS}):
        raise UserError(
            f"--without {unknown[0]}: there is no such filter. There are: {', '.join(FILTERS)}, {ALL_FILTERS}"
        )
    return set(FILTERS) if ALL_FILTERS in names else set(names)


def _warn(plan: Plan, references: Sequence[SnapshotReference], *, balanced: bool) -> None:
    """Name classes that are asked for in vain, and generators that are far from real."""
    shown = {label for combination in plan.conditions.combinations() for label in combination}
    if balanced and (never := [label for label in plan.conditions.classes if label not in shown]):
        write_line(f"--balanced: no training patch shows class {', '.join(map(str, never))}, so it is never asked for.")
    for reference in references:
        figures = snapshot_scores(Path(reference.path))
        if (covered := relative_coverage(figures)) is not None and covered < CLOSE:
            write_line(f"Snapshot {reference.path}: {verdict(figures)}")


def _with_filters(
    folder: Path, record: BankRecord | None, wanted: BankRecord, without: set[str], known: Callable[[], Known]
) -> tuple[BankRecord, Filters]:
    """The begun bank, or the wanted one, and its filters."""
    filters = Filters.learn(known, without)
    record = record or wanted.model_copy(update={"filters": filters.records()})
    refuse_other_filters(folder, record, filters)
    return record, filters


def _known(
    preprocessed: Preprocessed, plan: Plan, margin: float, device: str, folder: Path | None, *, fit: bool
) -> Known:
    """What filters learn from; with `fit`, the nnU-Net in `folder`, or else the newest of the fold, if any.

    Raises:
        UserError: the nnU-Net in `folder` cannot be used.
    """
    nnunet = None
    if fit and folder is not None:
        nnunet = NnUNet(open_nnunet(folder, plan.source), device)
    elif fit:
        try:
            nnunet = open_newest(plan.source, device)
        except UserError as error:
            tqdm.write(f"The filter 'fit' is off. {error}", file=sys.stderr)
    count = REAL_PATCHES[len(plan.patch_size)]
    reference = ReferenceSet(preprocessed, plan, count)
    keep = run_folder(plan.source, plan.variant) / EVALUATION_FOLDER
    return Known(reference.real, reference.cover.patches, plan.codec.labels, nnunet, margin, keep)
