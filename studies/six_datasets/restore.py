"""Makes a benchmark's folder from its results, so that the same command continues it, perhaps on another machine.

The benchmark then trains and fills again what missing runs need: generators, banks, and teachers of pseudo-labels.

python studies/six_datasets/restore.py studies/six_datasets/hippocampus BENCHMARK
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from nnunet_synth.benchmark.design import DESIGN_FILE
from nnunet_synth.benchmark.results import KEY, RUNS_FILE, SCORES_FILE, read_benchmark
from nnunet_synth.benchmark.scoring import COLUMNS, read_rows, write_rows
from nnunet_synth.benchmark.task_runner import TaskRecord, record_path, scores_path
from nnunet_synth.benchmark.tasks import Task, make_tasks


def key_of(task: Task) -> tuple[str, ...]:
    """The columns of a run in both tables."""
    return task.target, str(task.size), str(task.training_set), str(task.run)


def finished(tasks: dict[str, Task], done: set[tuple[str, ...]]) -> set[str]:
    """Names of the tasks that no missing run needs; `tasks` has each after those that it needs."""
    wanted: set[str] = set()
    for name, task in reversed(tasks.items()):
        if name in wanted or (task.kind == "run" and key_of(task) not in done):
            wanted |= {name, *task.needs}
    return {*tasks} - wanted


def main() -> None:
    """Copy design and tables, and record each finished task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help=f"folder with {DESIGN_FILE}, {RUNS_FILE} and {SCORES_FILE}")
    parser.add_argument("benchmark", type=Path, help="folder to make")
    arguments = parser.parse_args()
    if arguments.benchmark.exists():
        parser.error(f"{arguments.benchmark} exists already. Name a new folder.")
    folder, benchmark = arguments.benchmark, read_benchmark(arguments.results)
    (folder / "tasks").mkdir(parents=True)
    for name in (DESIGN_FILE, RUNS_FILE, SCORES_FILE):
        shutil.copyfile(arguments.results / name, folder / name)
    runs = benchmark.runs.set_index([*KEY])
    done = {*runs.index[runs["state"] == "done"]}
    scores: dict[tuple[str, ...], list[dict]] = {key: [] for key in done}
    for row in read_rows(folder / SCORES_FILE):
        scores[tuple(row[column] for column in KEY)].append({column: row[column] for column in COLUMNS})
    tasks = make_tasks(benchmark.design)
    for name in finished(tasks, done):
        seconds = 0.0
        if tasks[name].kind == "run":
            seconds = float(runs.loc[key_of(tasks[name]), "seconds_nnunet"])
            write_rows(scores_path(folder, name), COLUMNS, scores[key_of(tasks[name])])
        TaskRecord(state="done", seconds=seconds).save(record_path(folder, name))


if __name__ == "__main__":
    main()
