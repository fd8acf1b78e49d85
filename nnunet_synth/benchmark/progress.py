"""How far a benchmark is, and how long the rest takes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nnunet_synth.benchmark.task_runner import TaskRecord
from nnunet_synth.benchmark.tasks import Task
from nnunet_synth.pages.formatting import duration
from stylegan2_cond.data.nnunet_dataset import Preprocessed

KINDS = ("generator", "bank", "run")
MARKS = {"missing": ("·", "dim"), "running": ("▶", "cyan"), "done": ("✓", "green"), "failed": ("✗", "bold red")}
ESTIMATE_SECONDS = 5  # between two estimates
STEPS, PATIENCE = 3, 20.0  # timed steps after the first; none if that took this many seconds


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        tasks: number of tasks of each kind.
        seconds: time that they take one after the other, without the unmeasured kinds.
        jobs: number of parallel jobs.
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
        hours = f"about {duration(self.seconds / self.jobs)} with {self.jobs} job{'s' * (self.jobs != 1)} in parallel"
        more = f", and more for the {' and '.join(f'{kind}s' for kind in self.unmeasured)}" if self.unmeasured else ""
        return f"{counts} left: {hours} ({duration(self.seconds)} of jobs){more}."


def estimate(left: Sequence[Task], measured: Mapping[Task, float], jobs: int) -> Estimate:
    """How long the rest takes: each task as long as those of its kind and target took, or else of its kind.

    Args:
        left: unfinished tasks.
        measured: seconds of the finished ones.
        jobs: number of parallel jobs.
    """
    seconds, unmeasured = 0.0, []
    for task in left:
        alike = [time for done, time in measured.items() if (done.kind, done.target) == (task.kind, task.target)]
        alike = alike or [time for done, time in measured.items() if done.kind == task.kind]
        if alike:
            seconds += fmean(alike)
        elif task.kind not in unmeasured:
            unmeasured.append(task.kind)
    counts = {kind: sum(task.kind == kind for task in left) for kind in KINDS}
    return Estimate(counts, seconds, max(1, min(jobs, len(left))), tuple(unmeasured))


def seconds_by_epochs(log: str, epochs: int) -> float | None:
    """Duration of a training by the epoch times in nnU-Net's log; None before there are two.

    The first epoch, in which workers start and kernels are chosen, does not count.
    """
    times = [float(seconds) for seconds in re.findall(r"Epoch time: ([0-9.]+) s", log)]
    return fmean(times[1:]) * epochs if len(times) > 1 else None


def seconds_by_steps(
    preprocessed: Preprocessed, plans: Mapping, iterations: int, threads: int, device: str
) -> float | None:
    """Duration of a training by a few steps of nnU-Net's network on random patches.

    Args:
        plans: the plans to train by.
        iterations: number of steps of the training.
        threads: number of threads.

    Returns:
        Seconds; None if a step does not fit into memory.
    """
    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(preprocessed.configuration_name)
    channels = determine_num_input_channels(manager, configuration, preprocessed.dataset_json)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            manager.get_label_manager(preprocessed.dataset_json).num_segmentation_heads,
            deep_supervision=True,
        ).to(device)
        patches = torch.randn(configuration.batch_size, channels, *configuration.patch_size, device=device)
        times = [seconds_of_step(network, patches)]
        times += [seconds_of_step(network, patches) for _ in range(STEPS if times[0] < PATIENCE else 0)]
    except (RuntimeError, MemoryError):
        return None
    finally:
        torch.set_num_threads(before)
    return iterations * min(times)


def seconds_of_step(network: torch.nn.Module, patches: torch.Tensor) -> float:
    """Wall time of one forward and backward pass of `[N, C, *patch_size]` patches."""
    began = time.perf_counter()
    with torch.autocast(patches.device.type, enabled=patches.device.type == "cuda"):
        outputs = network(patches)
    sum(output.float().square().mean() for output in outputs).backward()
    float(next(network.parameters()).grad.sum())  # waits for a GPU
    return time.perf_counter() - began


class ProgressTable:
    """A context that shows one table on a terminal, and prints one line per event into a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._estimated, self._left = -math.inf, ""

    def __enter__(self) -> ProgressTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def print(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False)

    def report(self, task: Task, record: TaskRecord) -> None:
        """Print a task's new state: failures always, all else where there is no table."""
        if record.state == "failed":
            self.print(f"✗ {task}: {record.error}")
        elif self._live is None:
            self.print(f"{MARKS[record.state][0]} {task}" + (f": {record.seconds:.0f} s" * (record.state == "done")))

    def update(
        self, tasks: Mapping[str, Task], records: Mapping[str, TaskRecord], estimated: Callable[[], Estimate]
    ) -> None:
        """Redraw the table."""
        if self._live is None:
            return
        if time.monotonic() - self._estimated > ESTIMATE_SECONDS:
            self._estimated, self._left = time.monotonic(), str(estimated())
        self._live.update(Group(make_table(tasks, records), Text(self._left)), refresh=True)


def make_table(tasks: Mapping[str, Task], records: Mapping[str, TaskRecord]) -> Table:
    """One row per generator, bank and arm, one column per size, one mark per training set."""
    table = Table(box=None, pad_edge=False)
    sizes = sorted({task.size for task in tasks.values()})
    for title in ("", *(f"{size} cases" for size in sizes)):
        table.add_column(title)
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for task in sorted(tasks.values(), key=lambda task: (KINDS.index(task.kind), task.training_set)):
        rows.setdefault((task.kind, task.target), {}).setdefault(task.size, []).append(records[task.name].state)
    for (kind, target), states in rows.items():
        marks = [Text.assemble(*(MARKS[state] for state in states.get(size, []))) for size in sizes]
        table.add_row(target if kind == "run" else Text(f"{kind} {target}", style="dim"), *marks)
    return table
