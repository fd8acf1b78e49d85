"""Masks of the training cases, deformed by registration towards the scans of a bank of real scans."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord, MaskScans, ScanReference, Scans, Shard, class_locations, find_banks
from nnunet_synth.bank.verify import verify_files
from stylegan2_cond.data.case_hashes import case_hashes, hash_image
from stylegan2_cond.data.nnunet_dataset import Case, Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.registration import Registration, register
from stylegan2_cond.data.scans import LabelledScan, ScanBank
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import write_atomically
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import RealMasks

FOLDER = "registered_masks"  # in the folder of the scans' bank; safe to delete
MOST_PAIRS = 100  # of a case and a scan
LEAST_CORRELATION = 0.7  # of a scan and the deformed image, around the mask
VERSION = 1  # of the registration; another one registers again
FAILED = Registration(np.empty(0), -1.0)


@dataclass(frozen=True)
class _Pair:
    """A training case and the scan that it is deformed towards."""

    case: str
    scan: LabelledScan
    shard: Shard

    @property
    def name(self) -> str:
        return f"{self.case}/{self.scan.name}"  # neither has a slash


@dataclass(frozen=True)
class _DeformedCases:
    """Cases with the deformed labels, by the name of the pair, and without images."""

    preprocessed: Preprocessed
    labels: Mapping[str, np.ndarray]

    def load(self, name: str) -> Case:
        label = self.labels[name][None]
        return Case(name, np.empty((0, *label.shape[1:]), np.float32), label, class_locations(label, self.preprocessed))

    def unreadable(self, name: str, error: Exception) -> UserError:
        return self.preprocessed.unreadable(name, error)


def open_registered_masks(preprocessed: Preprocessed, plan: Plan, bank: str | None) -> tuple[RealMasks, MaskScans]:
    """Masks of the plan's training cases, deformed towards the scans of a bank, and a record of these scans.

    Each scan is paired with one training case, then each with a second one, and so on, up to `MOST_PAIRS`. Scans that
    are validation or test cases are left out. A registration is kept in the bank of the scans, and done once.

    Args:
        preprocessed: the folder with the training cases.
        plan: of the generator that the masks are for.
        bank: name of the bank in the plan's fold; None for the newest bank of scans.

    Raises:
        UserError: no such bank exists, it was made from other data, or no registration is good enough.
        Stopped: after Ctrl-C.
    """
    fold = preprocessed.fold(plan.source.fold)
    scans = ScanBank.open(preprocessed, fold, bank or _newest_bank(preprocessed, plan))
    folder, record = scans.folder, BankRecord.load(scans.folder / RECORD_FILE)
    entered = zip(scans.scans, record.shards, strict=True)
    usable = [(scan, shard) for scan, shard in entered if not scan.evaluation_case]
    names = plan.source.training_cases
    turns = product(range(len(names)), enumerate(usable))
    pairs = [_Pair(names[(turn + place) % len(names)], *one) for turn, (place, one) in islice(turns, MOST_PAIRS)]
    done = _registrations(scans, record, pairs, preprocessed, plan)
    good = [pair for pair in pairs if done[pair.name].correlation >= LEAST_CORRELATION]
    if not good:
        best = max((one.correlation for one in done.values()), default=0.0)
        raise UserError(
            f"--masks registered: none of {len(pairs)} registrations of training cases with scans of {folder} is good "
            f"enough; the largest correlation of both images is {best:.2f}, and must be {LEAST_CORRELATION:g}. Choose "
            f"--masks blended, or scans that look more like the training cases: nnunet-synth pseudo-label … -i FOLDER"
        )
    references = {pair.scan.name: pair.scan.image_sha256 for pair in good}
    masks = MaskScans(
        bank=record.name,
        scans=tuple(ScanReference(name=name, image_sha256=image) for name, image in references.items()),
        pairs=len(pairs),
        dropped=len(pairs) - len(good),
    )
    cases = _DeformedCases(preprocessed, {pair.name: done[pair.name].label for pair in good})
    share = plan.foreground_share
    patches = PatchSampler(cases, list(cases.labels), plan.patch_size, foreground_share=share, seed=plan.seed)
    return RealMasks(patches, plan, "real"), masks


def _newest_bank(preprocessed: Preprocessed, plan: Plan) -> str:
    """Name of the fold's newest complete bank of real scans."""
    source = plan.source
    parent = banks_folder(preprocessed.base, source.data_identifier, source.fold)
    found = (
        folder
        for folder in reversed(find_banks(parent))
        if isinstance(BankRecord.load(folder / RECORD_FILE).origin, Scans)
    )
    if (newest := next(found, None)) is None:
        raise UserError(
            f"--masks registered: {parent} has no complete bank of real scans. Make one: nnunet-synth pseudo-label "
            f"{source.dataset_name} {source.configuration} {source.fold} -i FOLDER, or choose --masks blended, which "
            f"needs no scans."
        )
    return newest.name


def _registrations(
    scans: ScanBank, record: BankRecord, pairs: Sequence[_Pair], preprocessed: Preprocessed, plan: Plan
) -> dict[str, Registration]:
    """The registration of each pair, by its name; those that were done before are read from their files."""
    names = sorted({pair.case for pair in pairs})
    cases = {name: preprocessed.load(name) for name in names}
    images = case_hashes(preprocessed, names)
    labels = {name: hash_image(case.label) for name, case in cases.items()}
    thickness = preprocessed.plans_manager.original_median_spacing_after_transp[0]
    spacing = (thickness, *plan.spacing)[-3:]  # a bank of slices does not record how far apart they are
    files = {}
    for pair in pairs:
        contents = [images[pair.case], labels[pair.case], *sorted(pair.shard.files.values())]
        key = hashlib.sha256(f"{VERSION} {contents} {spacing}".encode())
        files[pair.name] = scans.folder / FOLDER / f"{key.hexdigest()}.npz"
    done = {pair.name: _load(files[pair.name], pair.shard.shape) for pair in pairs}
    missing = [pair for pair in pairs if done[pair.name] is None]
    if missing:
        verify_files(scans.folder, record, preprocessed)
    try:
        for pair in ProgressBar(missing, desc="Registering cases with scans", unit="pair", disable=not missing):
            case, scan = cases[pair.case], scans.load(pair.scan.name)
            found = register(scan.image[0], scan.label[0], case.image[0], case.label[0], spacing) or FAILED
            with write_atomically(files[pair.name]) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, label=found.label, correlation=found.correlation)
            done[pair.name] = found
    except KeyboardInterrupt:
        raise Stopped(
            f"Stopped; registrations in {scans.folder / FOLDER} are kept. The same command continues."
        ) from None
    return done


def _load(path: Path, shape: Sequence[int]) -> Registration | None:
    """A registration that was done before; None where there is none, or its file is damaged."""
    try:
        with np.load(path) as file:
            found = Registration(file["label"], float(file["correlation"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fits = found.label.shape == tuple(shape) and found.label.dtype.kind == "i"
    return found if fits or found.correlation == FAILED.correlation else None
