"""Labels scans with trained nnU-Nets and writes them as shards of a bank. After a stop, the same request continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nnunet_synth.bank.filters import parse_filters_off
from nnunet_synth.bank.format import BankRecord, FilterRecord, shard_name, write_shard
from nnunet_synth.bank.resume import lock_bank
from nnunet_synth.pseudo_labels.confidence import (
    ANATOMY,
    CONFIDENCE,
    FILTERS,
    Anatomy,
    TargetClass,
    confidences,
    target_classes,
)
from nnunet_synth.pseudo_labels.duplicates import EvaluationCases, thumbnail
from nnunet_synth.pseudo_labels.record import load_or_create
from nnunet_synth.pseudo_labels.request import PseudoLabelRequest
from nnunet_synth.pseudo_labels.scans import (
    PreprocessedScan,
    Scan,
    UnreadableScan,
    find_scans,
    find_test_scans,
    read_case,
    read_scan,
)
from nnunet_synth.pseudo_labels.teachers import Teachers, open_teachers
from stylegan2_cond.data.case_hashes import hash_image
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, OUTSIDE, Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.scans import LabelledScan
from stylegan2_cond.data.untrusted_files import is_plain_name
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import keep_log
from stylegan2_cond.planning import Source
from stylegan2_cond.progress_bar import ProgressBar, write_line

LEAK = "leak"
IF_ALL_REFUSED = "To see what it refuses, turn it off"


@dataclass(frozen=True)
class PseudoLabelResult:
    """A bank of pseudo-labelled scans.

    Attributes:
        folder: of the bank.
        record: of the bank.
        unreadable: scans that could not be used, with the reason.
    """

    folder: Path
    record: BankRecord
    unreadable: dict[str, str]


def pseudo_label(
    preprocessed: Preprocessed,
    fold_name: str,
    request: PseudoLabelRequest,
    device: str = "cpu",
    previous: BankRecord | None = None,
) -> PseudoLabelResult:
    """Label scans into a bank, or continue one that was started with the same request.

    Args:
        preprocessed: dataset and configuration of the bank.
        fold_name: fold of the bank.
        request: what the bank is to hold.
        device: for nnU-Net.
        previous: the bank of the round before, with which the teacher was trained, and whose limits hold again; None
            for teachers that learnt from labelled cases alone.

    Raises:
        UserError: invalid input, no teacher, another bank of that name, a full disk, a validation or test case among
            the scans, or filters that refuse all scans.
        Stopped: after Ctrl-C.
    """
    if not is_plain_name(request.name):
        raise UserError(f"--name {request.name!r} is not a plain folder name. Type for example --name pseudo")
    fold = preprocessed.fold(fold_name)
    scans = find_scans(preprocessed, fold, request.source)
    source = Source.of(preprocessed, fold)
    teachers = open_teachers(preprocessed, fold, source, request.teachers, device)
    folder = banks_folder(preprocessed.base, source.data_identifier, fold.name) / request.name
    with lock_bank(folder), keep_log(folder):
        record = load_or_create(folder, source, teachers, request, previous)
        names = {scan.name for scan in (*record.origin.scans, *scans)}
        record = record.model_copy(update={"requested": len(names)})
        record.save(folder / RECORD_FILE)
        try:
            result = _label_all(folder, record, scans, _Screening(preprocessed, fold, teachers, request, record))
        except KeyboardInterrupt:
            raise Stopped(f"Stopped; labelled scans of {folder} are kept. The same command continues.") from None
        if not result.record.shards:
            raise UserError(_explain_refusals(result))
        write_line(describe(result))
    return result


def _explain_refusals(result: PseudoLabelResult) -> str:
    """Why no scan entered."""
    reasons = [f"{scan.name} ({scan.refused})" for scan in result.record.origin.scans]
    reasons += [f"{name} (it {reason})" for name, reason in result.unreadable.items()]
    counts = Counter((scan.refused or "").partition(":")[0] for scan in result.record.origin.scans)
    most = counts.most_common(1)[0][0] if counts else ""
    remedy = f"{IF_ALL_REFUSED}: --without {most} --name open" if most in FILTERS else ""
    return f"None of {len(reasons)} scans entered {result.folder}: {'; '.join(reasons[:5])}. {remedy}".rstrip()


class _Screening:
    """What decides whether a labelled scan enters."""

    def __init__(
        self,
        preprocessed: Preprocessed,
        fold: Fold,
        teachers: Teachers,
        request: PseudoLabelRequest,
        record: BankRecord,
    ):
        self.preprocessed, self.teachers, self.request = preprocessed, teachers, request
        self.without = parse_filters_off(request.without, FILTERS)
        self.limits = record.filters[CONFIDENCE].limits
        self.classes = target_classes(preprocessed.label_manager)
        self.orientations: set[str] = set()
        self.anatomy = Anatomy.of(self._labelled_cases(fold), self.classes)
        self.evaluation = EvaluationCases.of(self._evaluation_cases(fold))

    def _labelled_cases(self, fold: Fold) -> Iterator[tuple[np.ndarray, tuple[float, ...]]]:
        """Label and spacing of each training case; remembers the orientations."""
        for name in ProgressBar(fold.training, desc="Reading the labelled cases", unit="case", delay=2):
            try:
                case = read_case(self.preprocessed, name)
            except UnreadableScan as error:
                raise UserError(f"The training case {name} {error}") from None
            self.orientations.add(case.orientation)
            yield case.label, case.spacing

    def _evaluation_cases(self, fold: Fold) -> dict[str, tuple[str, torch.Tensor]]:
        """SHA-256 and thumbnail of each validation and test case."""
        validation = () if fold.name == FOLD_ALL else fold.validation
        scans = [("validation", Scan(name)) for name in validation]
        scans += [("test", scan) for scan in find_test_scans(self.preprocessed)]
        here = {self.preprocessed.configuration_name: self.preprocessed}
        found = {}
        for kind, scan in ProgressBar(scans, desc="Reading validation and test cases", unit="case", delay=2):
            try:
                image = read_scan(here, scan)[self.preprocessed.configuration_name].image
            except UnreadableScan as error:
                write_line(f"The {kind} case {scan.name} {error}, so that scans cannot be compared with it.")
                continue
            found[f"{kind} case {scan.name}"] = hash_image(image), thumbnail(image)
        return found

    def label(self, scan: Scan) -> tuple[LabelledScan, np.ndarray, np.ndarray]:
        """The verdict on a scan, its image `[C, z, y, x]`, and its label `[1, z, y, x]`.

        Raises:
            UnreadableScan: it cannot be used.
        """
        read = read_scan(self.teachers.configurations, scan)
        target = read[self.preprocessed.configuration_name]
        if target.orientation not in self.orientations:
            raise UnreadableScan(
                f"is oriented along {target.orientation or 'no axes that its file tells'}, the labelled cases along "
                f"{' or '.join(sorted(self.orientations))}. Reorient it"
            )
        image_sha256 = hash_image(target.image)
        evaluation_case = self.evaluation.find(image_sha256, thumbnail(target.image))
        verdict = LabelledScan(name=scan.name, image_sha256=image_sha256, evaluation_case=evaluation_case)
        if evaluation_case and not self.request.transductive:
            refused = f"{LEAK}: it is {evaluation_case}"
            return verdict.model_copy(update={"refused": refused}), target.image, target.label[None]
        prediction = self.teachers.predict(read)
        label = self.teachers.label(prediction)
        label[(label == 0) & target.outside] = OUTSIDE
        confidence = confidences(prediction, label, self.classes)
        found = [(one, self._problem(one, label, target, confidence)) for one in self.classes]
        problems = [(one, problem) for one, problem in found if problem]
        masks = [one.mask(label) for one, _ in problems]
        update: dict = {"confidence": confidence}
        if self.preprocessed.label_manager.has_ignore_label and all(mask.any() for mask in masks):
            for mask in masks:
                label[mask] = self.preprocessed.label_manager.ignore_label
            update["ignored"] = tuple(one.name for one, _ in problems)
        elif problems:
            update["refused"] = problems[0][1]
        return verdict.model_copy(update=update), target.image, label[None]

    def _problem(
        self, one: TargetClass, label: np.ndarray, target: PreprocessedScan, confidence: dict[str, float]
    ) -> str | None:
        sure = confidence.get(one.name, 1.0)
        if CONFIDENCE not in self.without and sure < (least := self.limits[one.name]):
            return f"{CONFIDENCE}: {one.name} has {sure:.3f}, less than {least:.3g}"
        if ANATOMY not in self.without and (problem := self.anatomy.problem(one.name, one.mask(label), target.spacing)):
            return f"{ANATOMY}: {problem}"
        return None


def _label_all(folder: Path, record: BankRecord, scans: Sequence[Scan], screening: _Screening) -> PseudoLabelResult:
    """Label the scans that the record does not have yet, and write the record after each."""
    known, unreadable = {scan.name for scan in record.origin.scans}, {}
    missing = [scan for scan in scans if scan.name not in known]
    for scan in ProgressBar(missing, desc=f"Labelling {record.name}", unit="scan"):
        try:
            verdict, image, label = screening.label(scan)
        except UnreadableScan as error:
            unreadable[scan.name] = str(error)
            write_line(f"Scan {scan.name} {error}; it is left out.")
            continue
        changes = {}
        if verdict.refused is None:
            shards = len(record.shards)
            shard = write_shard(folder, shard_name(shards), image, label, [shards], shards + 1, screening.preprocessed)
            changes["shards"] = (*record.shards, shard)
        changes["origin"] = record.origin.model_copy(update={"scans": (*record.origin.scans, verdict)})
        changes["filters"] = _count(record.filters, verdict)
        record = record.model_copy(update=changes)
        record.save(folder / RECORD_FILE)
    record = record.model_copy(update={"requested": len(record.origin.scans)})
    record.save(folder / RECORD_FILE)
    return PseudoLabelResult(folder, record, unreadable)


def _count(filters: dict[str, FilterRecord], verdict: LabelledScan) -> dict[str, FilterRecord]:
    """The filters with one more refusal, if one of them refused the scan."""
    name = (verdict.refused or "").partition(":")[0]
    if name not in filters:
        return filters
    return filters | {name: filters[name].model_copy(update={"refused": filters[name].refused + 1})}


def describe(result: PseudoLabelResult) -> str:
    """What entered and what did not, in lines."""
    record = result.record
    refused = Counter((scan.refused or "").partition(":")[0] for scan in record.origin.scans if scan.refused)
    lines = [f"{record.samples} of {len(record.origin.scans)} scans entered."]
    lines += [f"Refused: {', '.join(f'{name} {count}' for name, count in refused.items())}."] * bool(refused)
    if ignored := sum(bool(scan.ignored) for scan in record.origin.scans):
        lines.append(f"Classes became ignored voxels in {ignored} scans.")
    if unseen := record.origin.unseen_cases:
        limits = ", ".join(f"{name} {least:.3g}" for name, least in record.filters[CONFIDENCE].limits.items())
        scores = np.mean([dice for case in unseen for dice in case.dice.values()])
        lines.append(
            f"Least confidence: {limits}, from {len(unseen)} labelled cases that teachers had not seen (mean Dice "
            f"{scores:.3f})."
        )
    if held := len(record.origin.evaluation_scans):
        lines.append(f"{held} of them are validation or test cases (--transductive), which every record says.")
    if result.unreadable:
        lines.append(f"{len(result.unreadable)} scans cannot be used: {', '.join(sorted(result.unreadable)[:10])}.")
    return " ".join(lines)
