"""What is left to do, in hours: each task as long as those of its kind and variant took, where one is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nnunet_synth.benchmark.cells import Task


@dataclass(frozen=True)
class Estimate:
    """Attributes:
    tasks: that are left, of each kind.
    seconds: that they take one after the other, of the kinds that were measured.
    jobs: at a time.
    unmeasured: kinds of which none is done.
    """

    tasks: Mapping[str, int]
    seconds: float
    jobs: int
    unmeasured: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in self.tasks.items() if count)
        if not counts:
            return "Nothing is left to do."
        hours = f"about {_duration(self.seconds / self.jobs)} at {self.jobs} job{'s' * (self.jobs != 1)} at a time"
        more = f", and more for the {' and '.join(f'{kind}s' for kind in self.unmeasured)}" if self.unmeasured else ""
        return f"{counts} left: {hours} ({_duration(self.seconds)} of jobs){more}."


def estimate(left: Sequence[Task], measured: Mapping[Task, float], jobs: int) -> Estimate:
    """How long the tasks that are left take.

    Args:
        left: tasks.
        measured: seconds of those that are done.
        jobs: that run at a time.
    """
    seconds, unmeasured = 0.0, []
    for task in left:
        alike = [time for done, time in measured.items() if (done.kind, done.what) == (task.kind, task.what)]
        alike = alike or [time for done, time in measured.items() if done.kind == task.kind]
        if alike:
            seconds += fmean(alike)
        elif task.kind not in unmeasured:
            unmeasured.append(task.kind)
    kinds = ("generator", "bank", "cell")
    counts = {kind: sum(task.kind == kind for task in left) for kind in kinds}
    return Estimate(counts, seconds, max(1, min(jobs, len(left))), tuple(unmeasured))


def seconds_by_epochs(log: str, epochs: int) -> float | None:
    """How long a training takes, by the epochs that nnU-Net's log tells of; None before there are two.

    The first epoch, in which workers start and kernels are chosen, does not count.
    """
    times = [float(seconds) for seconds in re.findall(r"Epoch time: ([0-9.]+) s", log)]
    return fmean(times[1:]) * epochs if len(times) > 1 else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
