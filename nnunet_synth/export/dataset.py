"""Exports a bank as an nnU-Net raw dataset: the real cases of its fold, and its samples as further cases."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord, Scans
from nnunet_synth.bank.provenance import BankProvenance, provenance
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard, ExportSpec, find_unfinished, make_folder
from nnunet_synth.export.image_files import FileFormat, read_format, write_case
from nnunet_synth.export.intensities import clip_to_type, denormalize, fit_into, learn_inverses
from nnunet_synth.export.raw_dataset import RawDataset, copy_case, find_raw_dataset
from nnunet_synth.export.sanitize import CARD_KEY, without_files
from nnunet_synth.training.leak_guard import refuse_leaks
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed, open_preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import lock_folder, scratch_folder
from stylegan2_cond.io import explained_write, write_atomically
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar

SPLITS_FILE = "splits_final.json"  # nnU-Net's planner copies it from the raw dataset's folder
PARTS = ("imagesTr", "labelsTr")
BACKGROUND = 0
_NNUNETS_FOLDS = 5


@dataclass(frozen=True)
class Inputs:
    """Everything that an export is made from."""

    bank: Path
    record: BankRecord
    provenance: BankProvenance
    preprocessed: Preprocessed
    fold: Fold
    raw: RawDataset
    style: FileFormat

    @property
    def backward(self) -> Sequence[int]:
        """The axis of preprocessed cases that each axis of raw cases is."""
        return self.preprocessed.plans_manager.transpose_backward

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of raw samples, in mm; in 2-D, nnU-Net keeps the distance of slices."""
        own = self.preprocessed.configuration.spacing
        between = self.preprocessed.plans_manager.original_median_spacing_after_transp[: 3 - len(own)]
        return tuple(float([*between, *own][axis]) for axis in self.backward)


def export_dataset(
    bank: Path,
    target: Path,
    *,
    dataset_id: int | None = None,
    synthetic_only: bool = False,
    links: bool = False,
    stack: int | None = None,
) -> tuple[Path, DatasetCard]:
    """Write `target/DatasetYYY_<name>Synth`, or continue an export of the same bank with the same options.

    Args:
        bank: folder of a complete bank.
        target: takes the place of `$nnUNet_raw`.
        dataset_id: of the new dataset; a free id if None.
        synthetic_only: leave the real cases out.
        links: link real cases instead of copying them.
        stack: slices per case, for 2-D samples; if None, as many as a volume has (1 in datasets of 2-D images).

    Returns:
        The dataset's folder (`dataset.json`, `synthetic.json`, and splits if it has real cases), and its card.

    Raises:
        UserError: a damaged or incomplete bank, a bank of other preprocessing, missing raw files, a taken id, a format
            that cannot be written, a full disk.
        Stopped: after Ctrl-C.
    """
    if (target / RECORD_FILE).exists():
        raise UserError(f"-o {target} is a bank. Name nnUNet_raw, or a folder like it.")
    inputs = _open(bank)
    spec = ExportSpec(
        made_from=inputs.preprocessed.dataset_name,
        record_sha256=inputs.provenance.record_sha256,
        samples_per_case=_samples_per_case(inputs, stack),
        real=0 if synthetic_only else len(inputs.raw.cases),
        links=links,
    )
    try:
        raw = target / spec.made_from
        with lock_folder(raw, inside=False), explained_write(raw):
            folder, card = find_unfinished(target, spec, dataset_id) or _begin(inputs, spec, target, dataset_id)
            return folder, card if card.complete else _write(folder, card, inputs)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; complete cases in {target} are kept. Repeat the command to continue.") from None


def extended_folds(
    folds: Sequence[dict[str, list[str]]], exported: Collection[str], seen: Collection[str], synthetic: Sequence[str]
) -> list[dict[str, list[str]]]:
    """The same folds with the same numbers, and synthetic cases in training parts only.

    Args:
        folds: of the real cases.
        exported: real cases of the new dataset. A fold with other cases becomes empty: if it were missing, nnU-Net
            would split at random instead, synthetic cases included.
        seen: cases that the generator was trained on.
        synthetic: names; added to the training part of each fold whose validation part has no case in `seen`.
    """
    extended = []
    for fold in folds:
        if not set(fold["train"]) | set(fold["val"]) <= set(exported):
            extended.append({"train": [], "val": []})
            continue
        unseen = bool(fold["val"]) and not set(fold["val"]) & set(seen)
        extended.append({"train": [*fold["train"], *(synthetic if unseen else ())], "val": [*fold["val"]]})
    return extended


def _open(bank: Path) -> Inputs:
    record = BankRecord.load(bank / RECORD_FILE)
    source = record.source
    preprocessed = open_preprocessed(source.dataset_name, source.configuration, source.plans_name)
    fold = preprocessed.fold(source.fold)
    here = Source.of(preprocessed, fold)
    refuse_leaks(bank, record, here, case_hashes(preprocessed, fold.validation))
    record = verify_bank(bank, preprocessed)
    if isinstance(record.origin, Scans):
        raise UserError(f"{bank} holds real scans. export-dataset writes banks of generated pairs.")
    raw = find_raw_dataset(preprocessed.dataset_name, sorted({*fold.training, *fold.validation}))
    reader = preprocessed.plans_manager.image_reader_writer_class()
    style = read_format(reader, raw.ending, raw.cases[fold.training[0]])
    return Inputs(bank, record, provenance(bank), preprocessed, fold, raw, style)


def _samples_per_case(inputs: Inputs, stack: int | None) -> int:
    volumes = len(inputs.record.origin.patch_size) == 3
    if not (volumes or inputs.style.is_2d):
        return stack or int(inputs.preprocessed.plans_manager.original_median_shape_after_transp[0])
    if stack not in (None, 1):
        kind = "samples of this bank are volumes" if volumes else "images of this dataset are 2-D"
        raise UserError(f"--stack {stack} is for slices of volumes, but the {kind}. Leave it out.")
    return 1


def _begin(inputs: Inputs, spec: ExportSpec, target: Path, dataset_id: int | None) -> tuple[Path, DatasetCard]:
    training = [[str(path) for path in inputs.raw.cases[name].images] for name in inputs.fold.training]
    channels = learn_inverses(inputs.preprocessed, training)
    if inputs.style.dtype.kind != "f" and any(channel.inverse == "typical" for channel in channels):
        extremes = [(image.min((1, 2, 3)), image.max((1, 2, 3))) for image, _ in _cases(inputs, per_case=64)]
        lowest, highest = zip(*extremes, strict=True)
        channels = fit_into(channels, np.min(lowest, axis=0), np.max(highest, axis=0), inputs.style.dtype)
    taken = inputs.preprocessed.case_names()  # synth_00000 …, or synth2_00000 … if real cases have such names
    prefixes = itertools.chain(["synth"], (f"synth{number}" for number in itertools.count(2)))
    prefix = next(one for one in prefixes if not any(name.startswith(f"{one}_") for name in taken))
    folder = make_folder(target, spec.made_from, dataset_id)
    card = DatasetCard(
        dataset=folder.name,
        made_from=spec.made_from,
        bank=inputs.provenance,
        channels=channels,
        stored_as=inputs.style.dtype.name,
        spacing=inputs.spacing,
        samples_per_case=spec.samples_per_case,
        synthetic=tuple(f"{prefix}_{n:05d}" for n in range(-(-inputs.record.samples // spec.samples_per_case))),
        real=spec.real,
        links=spec.links,
        release=version("nnunet-synth"),
    )
    card.save(folder / CARD_FILE)
    return folder, card


def _cases(inputs: Inputs, per_case: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The bank's samples in order, as image `[C, z, y, x]` float32 in normalised units and label `[z, y, x]` int16.

    Volumes are one case each. `per_case` slices are stacked into a case; the last case may have fewer.
    """
    names = [shard.name for shard in inputs.record.shards]
    dataset = BankDataset(str(inputs.bank), names)
    shards = ((image[:], label[0]) for image, label, *_ in map(dataset.load_case, names))
    if len(inputs.record.origin.patch_size) == 3:
        yield from shards
        return
    slices = (pair for image, label in shards for pair in zip(image.swapaxes(0, 1), label, strict=True))
    while group := list(itertools.islice(slices, per_case)):
        image, label = zip(*group, strict=True)
        yield np.stack(image, axis=1), np.stack(label)


def _write(folder: Path, card: DatasetCard, inputs: Inputs) -> DatasetCard:
    """All cases that are not yet complete, then splits, dataset.json and card."""
    real = list(inputs.raw.cases.values()) if card.real else []
    clipped, voxels = np.zeros(len(card.channels)), 0

    def is_complete(name: str) -> bool:
        return (folder / "labelsTr" / f"{name}{inputs.raw.ending}").is_file()

    with ProgressBar(total=len(real) + len(card.synthetic), unit="case", desc=f"Writing {card.dataset}") as bar:
        for case in real:
            if not is_complete(case.name):
                with _case_folder(folder) as place:
                    copy_case(case, place, inputs.raw.ending, link=card.links)
            bar.update()
        for name, (image, label) in zip(card.synthetic, _cases(inputs, card.samples_per_case), strict=True):
            raw = denormalize(image, label, card.channels)
            stored, beyond = clip_to_type(raw, card.channels, inputs.style.dtype)
            clipped += beyond
            voxels += label.size
            if not is_complete(name):
                _write_sample(folder, name, stored, label, inputs)
            bar.update()
    card = card.model_copy(update={"clipped": tuple((clipped / voxels).round(6).tolist()), "complete": True})
    _finish(folder, card, inputs)
    return card


def _write_sample(folder: Path, name: str, image: np.ndarray, label: np.ndarray, inputs: Inputs) -> None:
    """image: `[C, z, y, x]` as files hold it, label `[z, y, x]`, both with the axes of preprocessed cases."""
    image = image.transpose(0, *(axis + 1 for axis in inputs.backward))
    label = np.maximum(label, BACKGROUND).transpose(inputs.backward)
    try:
        with _case_folder(folder) as place:
            write_case(place, name, image, label, inputs.spacing, inputs.style)
    except (ValueError, RuntimeError) as error:  # as SimpleITK raises
        raise UserError(f"{folder / name} was not stored correctly ({error}). Is the disk full?") from error


def _finish(folder: Path, card: DatasetCard, inputs: Inputs) -> None:
    """Splits, then `dataset.json`, without which nnU-Net finds no dataset, then the card."""
    files: dict[str, object] = {}
    if card.real:
        folds = _real_folds(inputs.preprocessed)
        seen = card.bank.source.training_cases
        files[SPLITS_FILE] = extended_folds(folds, list(inputs.raw.cases), seen, card.synthetic)
    files["dataset.json"] = without_files(inputs.raw.dataset_json) | {
        "name": card.dataset.split("_", 1)[1],
        "numTraining": card.real + len(card.synthetic),
        CARD_KEY: f"{len(card.synthetic)} of the training cases; {CARD_FILE} lists them and says where they come from",
    }
    for name, content in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=4))
    card.save(folder / CARD_FILE)


def _real_folds(preprocessed: Preprocessed) -> list[dict[str, list[str]]]:
    """nnU-Net's folds of the original dataset; five empty ones if it has too few cases to split."""
    path = preprocessed.base / SPLITS_FILE
    if not path.exists():
        try:
            preprocessed.fold(0)
        except UserError:
            return [{"train": [], "val": []} for _ in range(_NNUNETS_FOLDS)]
    return json.loads(path.read_text())


@contextlib.contextmanager
def _case_folder(dataset: Path) -> Iterator[Path]:
    """A scratch folder with imagesTr and labelsTr, whose files move to `dataset` at the end.

    Labels move last, so a case with a label is complete.
    """
    with scratch_folder(dataset, ".writing_") as scratch:
        for part in PARTS:
            (scratch / part).mkdir()
        yield scratch
        for part in PARTS:
            (dataset / part).mkdir(exist_ok=True)
            for path in sorted((scratch / part).iterdir(), key=lambda path: path.suffix != ".json"):
                path.replace(dataset / part / path.name)
