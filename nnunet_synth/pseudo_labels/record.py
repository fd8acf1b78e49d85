"""The record of a bank of pseudo-labelled scans: begun, or continued if the request is the same."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from nnunet_synth.bank.filters import NOT_WANTED, parse_filters_off
from nnunet_synth.bank.format import BankRecord, FilterRecord, PseudoLabels, UnseenCase
from nnunet_synth.bank.resume import open_record
from nnunet_synth.pseudo_labels.calibration import label_unseen_cases, learn_limits
from nnunet_synth.pseudo_labels.confidence import CONFIDENCE, FILTERS, target_classes
from nnunet_synth.pseudo_labels.request import DEFAULT_LEAST, PseudoLabelRequest
from nnunet_synth.pseudo_labels.teachers import Teachers
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


def load_or_create(
    folder: Path, source: Source, teachers: Teachers, request: PseudoLabelRequest, previous: BankRecord | None
) -> BankRecord:
    """The record of the bank in `folder`, or a new one.

    Args:
        folder: of the bank.
        source: of the labelled cases.
        teachers: that label the scans.
        request: what the bank is to hold.
        previous: the bank of the round before, whose limits hold again; None in the first round.

    Raises:
        UserError: an unknown filter, or the folder holds another bank, or something else.
    """
    without = parse_filters_off(request.without, FILTERS)
    old, least = open_record(folder), request.least_confidence
    if old and not isinstance(old.origin, PseudoLabels):
        raise UserError(f"Bank {folder} exists and holds generated pairs. Choose another name with --name.")
    unseen: tuple[UnseenCase, ...] = ()
    if least is None and CONFIDENCE not in without:
        known = previous or old
        unseen = known.origin.unseen_cases if known else label_unseen_cases(teachers)
    classes = target_classes(teachers.preprocessed.label_manager)
    limits = {CONFIDENCE: learn_limits(unseen, classes, DEFAULT_LEAST if least is None else least)}
    new = BankRecord(
        name=request.name,
        source=source,
        origin=PseudoLabels(
            teachers=tuple(member.record for member in teachers.members),
            round=previous.origin.round + 1 if previous else 1,
            transductive=request.transductive,
            unseen_cases=unseen,
        ),
        filters={
            name: FilterRecord(off=NOT_WANTED) if name in without else FilterRecord(limits=limits.get(name, {}))
            for name in FILTERS
        },
        requested=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    )
    if old:
        _refuse_other(folder, old, new)
    return old or new


def _refuse_other(folder: Path, old: BankRecord, new: BankRecord) -> None:
    """Raise an error if a bank cannot be continued as the new one."""
    if old.origin.transductive != new.origin.transductive:
        begun, repeat = ("with", "add") if old.origin.transductive else ("without", "leave out")
        raise UserError(
            f"Bank {folder} was begun {begun} --transductive. To continue it, {repeat} the option; for another bank, "
            f"choose another name with --name."
        )

    def settings(record: BankRecord) -> dict[str, tuple]:
        return {name: (one.off, one.limits) for name, one in record.filters.items()}

    for what, then, now in (
        ("training cases", old.source, new.source),
        ("teachers", *([one.sha256 for one in record.origin.teachers] for record in (old, new))),
        ("filters", settings(old), settings(new)),
    ):
        if then != now:
            raise UserError(f"Bank {folder} exists with other {what}. Choose another name with --name.")
