"""Limits of the confidence, learnt from labelled cases as teachers that had not seen them labelled them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from nnunet_synth.bank.format import UnseenCase
from nnunet_synth.pseudo_labels.confidence import TargetClass, confidences, dice, target_classes
from nnunet_synth.pseudo_labels.scans import Scan, UnreadableScan, read_scan
from nnunet_synth.pseudo_labels.teachers import Teachers
from stylegan2_cond.errors import UserError
from stylegan2_cond.progress_bar import ProgressBar

FEWEST_CASES = 5  # that show a class; with fewer, its limit is the default
MOST_CASES = 50  # more would hardly change a limit
LESS_SURE = 0.05  # fraction of cases like the labelled ones of which teachers may be less sure


def label_unseen_cases(teachers: Teachers) -> tuple[UnseenCase, ...]:
    """Confidence and Dice of the labelled cases, each labelled by the teachers that were validated on it.

    Raises:
        UserError: a case cannot be read.
    """
    preprocessed, found = teachers.preprocessed, []
    manager, classes = preprocessed.label_manager, target_classes(preprocessed.label_manager)
    names = sorted(set().union(*(member.unseen for member in teachers.members)))
    if not names:
        return ()
    for name in ProgressBar(
        names[:: -(-len(names) // MOST_CASES)], desc="Labelling the labelled cases", unit="case", delay=2
    ):
        try:
            case = read_scan(teachers.configurations, Scan(name))
        except UnreadableScan as error:
            raise UserError(f"The training case {name} {error}") from None
        members = tuple(member for member in teachers.members if name in member.unseen)
        prediction = replace(teachers, members=members).predict(case)
        label, truth = teachers.label(prediction), case[preprocessed.configuration_name].label
        confidence = confidences(prediction, label, classes)
        if manager.has_ignore_label:
            label[truth == manager.ignore_label] = 0
        scores = {one.name: dice(one.mask(label), one.mask(truth)) for one in classes if one.name in confidence}
        found.append(UnseenCase(name=name, confidence=confidence, dice=scores))
    return tuple(found)


def learn_limits(cases: Sequence[UnseenCase], classes: Sequence[TargetClass], default: float) -> dict[str, float]:
    """The least confidence of each class, by name.

    It is that which one further case in twenty would not reach (Student's t), but not less than the default, which
    keeps out the labels of weak teachers; and the default where few cases show the class.
    """
    limits = {one.name: default for one in classes}
    for name in limits:
        sure = [case.confidence[name] for case in cases if name in case.confidence]
        if (count := len(sure)) >= FEWEST_CASES:
            spread = np.std(sure, ddof=1) * (1 + 1 / count) ** 0.5
            limits[name] = max(default, float(np.mean(sure) - stats.t.isf(LESS_SURE, count - 1) * spread))
    return limits
