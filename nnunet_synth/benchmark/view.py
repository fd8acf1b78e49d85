"""How far a benchmark is, for a terminal as one table that changes, for a log as one line per event."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nnunet_synth.benchmark.estimate import Estimate
from nnunet_synth.benchmark.task_runner import TaskRecord
from nnunet_synth.benchmark.tasks import Task

MARKS = {"missing": ("·", "dim"), "running": ("▶", "cyan"), "done": ("✓", "green"), "failed": ("✗", "bold red")}
ESTIMATE_SECONDS = 5  # between two looks at what is left


class View:
    """Use as a context; outside of it nothing is drawn."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._estimated, self._left = 0.0, ""

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False)

    def tell(self, task: Task, record: TaskRecord) -> None:
        """Print what became of a task: failures always, all else where there is no table."""
        if record.state == "failed":
            self.say(f"✗ {task}: {record.error}")
        elif self._live is None:
            self.say(f"{MARKS[record.state][0]} {task}" + (f": {record.seconds:.0f} s" * (record.state == "done")))

    def show(
        self, tasks: Mapping[str, Task], records: Mapping[str, TaskRecord], estimated: Callable[[], Estimate]
    ) -> None:
        """Draw the table anew."""
        if self._live is None:
            return
        if time.monotonic() - self._estimated > ESTIMATE_SECONDS:
            self._estimated, self._left = time.monotonic(), str(estimated())
        self._live.update(Group(table(tasks, records), Text(self._left)), refresh=True)


def table(tasks: Mapping[str, Task], records: Mapping[str, TaskRecord]) -> Table:
    """One row per generator, bank and arm, one column per size, one mark per repeat."""
    drawn = Table(box=None, pad_edge=False)
    sizes = sorted({task.size for task in tasks.values()})
    for title in ("", *(f"{size} cases" for size in sizes)):
        drawn.add_column(title)
    order = {"generator": 0, "bank": 1, "cell": 2}
    rows: dict[tuple[str, str], dict[int, list[str]]] = {}
    for name, task in sorted(tasks.items(), key=lambda item: (order[item[1].kind], item[1].repeat)):
        rows.setdefault((task.kind, task.what), {}).setdefault(task.size, []).append(records[name].state)
    for (kind, what), states in rows.items():
        marks = [Text.assemble(*(MARKS[state] for state in states.get(size, []))) for size in sizes]
        drawn.add_row(what if kind == "cell" else Text(f"{kind} {what}", style="dim"), *marks)
    return drawn
