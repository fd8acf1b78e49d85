"""From a bank to an nnU-Net raw dataset: the real cases of its fold, and its samples as cases beside them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import RECORD_FILE, BankRecord
from nnunet_synth.bank.provenance import BankProvenance, provenance
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.export.atomic_folder import case_folder, only_writer
from nnunet_synth.export.dataset_card import CARD_FILE, DatasetCard, Wish
from nnunet_synth.export.dataset_folder import find_begun, new_folder
from nnunet_synth.export.image_files import Layout, read_layout, write_case
from nnunet_synth.export.intensities import fit_into, learn_channels, preprocessed_values, storable, turn_back
from nnunet_synth.export.raw_dataset import RawDataset, find_raw, put_case
from nnunet_synth.export.samples import sample_cases, value_range
from nnunet_synth.export.sanitize import CARD_KEY, without_files
from nnunet_synth.export.splits import extended_folds, real_folds
from nnunet_synth.training.leak_guard import refuse_leaks
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import Fold, Preprocessed, open_preprocessed
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar

SPLITS_FILE = "splits_final.json"  # nnU-Net's planner takes it from the raw dataset's folder
BACKGROUND = 0


@dataclass(frozen=True)
class Origin:
    """All that an export is made of."""

    bank: Path
    record: BankRecord
    provenance: BankProvenance
    preprocessed: Preprocessed
    fold: Fold
    raw: RawDataset
    layout: Layout

    @property
    def backward(self) -> Sequence[int]:
        """The axis of preprocessed cases that each axis of raw ones is."""
        return self.preprocessed.plans_manager.transpose_backward

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of raw samples; in 2-D, nnU-Net leaves the distance of slices as it is."""
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
    """Write `target/DatasetYYY_<name>Synth`, or go on with one that was begun with the same bank and options.

    Args:
        bank: folder of a complete bank.
        target: stands for `$nnUNet_raw`.
        dataset_id: of the new dataset; a free one, when None.
        synthetic_only: leave the real cases out.
        links: link real cases instead of copying them.
        stack: slices to a case, for 2-D samples; as many as a volume has (1 in datasets of 2-D images), when None.

    Returns:
        The dataset's folder (`dataset.json`, `synthetic.json`, and splits if it has real cases), and its card.

    Raises:
        UserError: a damaged or incomplete bank, a bank of other preprocessing, raw files missing, an id that is taken,
            a format that can't be written, a full disk.
        Stopped: after Ctrl-C.
    """
    origin = _open(bank)
    wish = Wish(
        made_from=origin.preprocessed.dataset_name,
        record_sha256=origin.provenance.record_sha256,
        samples_per_case=_samples_per_case(origin, stack),
        real=0 if synthetic_only else len(origin.raw.cases),
        links=links,
    )
    try:
        with only_writer(target / wish.made_from):
            folder, card = find_begun(target, wish, dataset_id) or _begin(origin, wish, target, dataset_id)
            return folder, card if card.complete else _write(folder, card, origin)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; whole cases in {target} are kept. The same command goes on.") from None


def _open(bank: Path) -> Origin:
    record = BankRecord.load(bank / RECORD_FILE)
    source = record.source
    preprocessed = open_preprocessed(source.dataset_name, source.configuration, source.plans_name)
    fold = preprocessed.fold(source.fold)
    here = Source.of(preprocessed, fold)
    refuse_leaks(bank, record, here, case_hashes(preprocessed, fold.validation))
    record = verify_bank(bank, preprocessed)
    raw = find_raw(preprocessed, sorted({*fold.training, *fold.validation}))
    reader = preprocessed.plans_manager.image_reader_writer_class()
    layout = read_layout(reader, raw.ending, raw.cases[fold.training[0]])
    return Origin(bank, record, provenance(bank), preprocessed, fold, raw, layout)


def _samples_per_case(origin: Origin, stack: int | None) -> int:
    volumes = len(origin.record.patch_size) == 3
    if (volumes or origin.layout.flat) and stack not in (None, 1):
        kind = "samples of this bank are volumes" if volumes else "images of this dataset are 2-D"
        raise UserError(f"--stack {stack} is for slices of volumes, but the {kind}. Leave it out.")
    if volumes or origin.layout.flat:
        return 1
    return stack or int(origin.preprocessed.plans_manager.original_median_shape_after_transp[0])


def _begin(origin: Origin, wish: Wish, target: Path, dataset_id: int | None) -> tuple[Path, DatasetCard]:
    training = [[str(path) for path in origin.raw.cases[name].images] for name in origin.fold.training]
    channels = learn_channels(origin.preprocessed, training)
    if origin.layout.dtype.kind != "f" and any(channel.back == "typically" for channel in channels):
        channels = fit_into(channels, *value_range(origin.bank, origin.record), origin.layout.dtype)
    folder = new_folder(target, wish.made_from, dataset_id)
    card = DatasetCard(
        dataset=folder.name,
        made_from=wish.made_from,
        bank=origin.provenance,
        channels=channels,
        stored_as=origin.layout.dtype.name,
        spacing=origin.spacing,
        samples_per_case=wish.samples_per_case,
        synthetic=_names(-(-origin.record.samples // wish.samples_per_case), origin.preprocessed.case_names()),
        real=wish.real,
        links=wish.links,
        release=version("nnunet-synth"),
    )
    card.save(folder / CARD_FILE)
    return folder, card


def _names(count: int, taken: Iterable[str]) -> tuple[str, ...]:
    """`synth_00000` …, or `synth2_00000` … where real cases have such names, as those of an exported dataset do."""
    beginnings = itertools.chain(["synth"], (f"synth{number}" for number in itertools.count(2)))
    free = next(one for one in beginnings if not any(name.startswith(f"{one}_") for name in taken))
    return tuple(f"{free}_{number:05d}" for number in range(count))


def _write(folder: Path, card: DatasetCard, origin: Origin) -> DatasetCard:
    real = list(origin.raw.cases.values()) if card.real else []
    samples = sample_cases(origin.bank, origin.record, card.samples_per_case)
    tally = _Tally(len(card.channels))
    with ProgressBar(total=len(real) + len(card.synthetic), unit="case", desc=f"Writing {card.dataset}") as bar:
        for case in real:
            if not _is_whole(folder, case.name, origin):
                with case_folder(folder) as place:
                    put_case(case, place, origin.raw.ending, link=card.links)
            bar.update()
        for name, (image, label) in zip(card.synthetic, samples, strict=True):
            stored, beyond = storable(turn_back(image, label, card.channels), card.channels, origin.layout.dtype)
            tally.add(preprocessed_values(stored, label, origin.preprocessed) - image, beyond)
            if not _is_whole(folder, name, origin):
                _write_sample(folder, name, stored, label, origin)
            bar.update()
    card = card.model_copy(update={"clipped": tally.clipped, "changed": tally.changed, "complete": True})
    _finish(folder, card, origin)
    return card


class _Tally:
    """Sums over all samples, per channel."""

    def __init__(self, channels: int):
        self._beyond, self._squares, self._voxels = np.zeros(channels), np.zeros(channels), 0

    def add(self, difference: np.ndarray, beyond: np.ndarray) -> None:
        """difference: `[C, z, y, x]` of preprocessed files to the bank, beyond: `[C]` values that were clipped."""
        self._squares += np.square(difference, dtype=np.float64).sum(axis=(1, 2, 3))
        self._beyond += beyond
        self._voxels += difference[0].size

    @property
    def clipped(self) -> tuple[float, ...]:
        return tuple((self._beyond / self._voxels).round(6).tolist())

    @property
    def changed(self) -> tuple[float, ...]:
        return tuple(np.sqrt(self._squares / self._voxels).round(6).tolist())


def _is_whole(folder: Path, name: str, origin: Origin) -> bool:
    return (folder / "labelsTr" / f"{name}{origin.raw.ending}").is_file()


def _write_sample(folder: Path, name: str, image: np.ndarray, label: np.ndarray, origin: Origin) -> None:
    """image: `[C, z, y, x]` as files hold it, label `[z, y, x]`, both with the axes of preprocessed cases."""
    image = image.transpose(0, *(axis + 1 for axis in origin.backward))
    label = np.maximum(label, BACKGROUND).transpose(origin.backward)
    try:
        with case_folder(folder) as place:
            write_case(place, name, image, label, origin.spacing, origin.layout)
    except (ValueError, RuntimeError) as error:  # SimpleITK's errors are such
        raise UserError(f"{folder / name} was not stored as it was written ({error}). Is the disk full?") from error


def _finish(folder: Path, card: DatasetCard, origin: Origin) -> None:
    """Splits, card, and `dataset.json` last: without it nnU-Net knows of no dataset."""
    files: dict[str, object] = {}
    if card.real:
        seen = card.bank.source.training_cases
        files[SPLITS_FILE] = extended_folds(
            real_folds(origin.preprocessed), list(origin.raw.cases), seen, card.synthetic
        )
    files["dataset.json"] = without_files(origin.raw.dataset_json) | {
        "name": card.dataset.split("_", 1)[1],
        "numTraining": card.real + len(card.synthetic),
        CARD_KEY: f"{len(card.synthetic)} of the training cases; {CARD_FILE} tells which, and where they come from",
    }
    for name, content in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=4))
    card.save(folder / CARD_FILE)
