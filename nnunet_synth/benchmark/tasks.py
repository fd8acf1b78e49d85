"""The tasks of a benchmark: generators, banks and cells, what each needs, and the commands that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.budget import SUFFIX
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.workspace import model_folder, plans_name
from stylegan2_cond.metrics.memorization import FEWEST_CASES
from stylegan2_cond.snapshot import find_best, find_snapshots

JUDGED_BY = ("kid", "coverage")
FEATURES = "random"  # the same for every fold; an nnU-Net's would differ between them


@dataclass(frozen=True)
class Task:
    """One job.

    Attributes:
        kind: `generator` trains one and judges it; `bank` fills one; `cell` trains nnU-Net and scores its predictions.
        what: the generator's variant, the bank's name, or the arm's.
        size, repeat: of the training set.
        needs: names of the tasks that must be done before.
    """

    kind: Literal["generator", "bank", "cell"]
    what: str
    size: int
    repeat: int
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.what}_{self.size}_{self.repeat}"

    def __str__(self) -> str:
        return f"{self.kind} {self.what}, {self.size} cases, repeat {self.repeat + 1}"


def tasks_of(design: Design) -> dict[str, Task]:
    """All tasks by name, each after those that it needs; whole repeats one after the other, small sizes first."""
    tasks: dict[str, Task] = {}
    for repeat in range(design.repeats):
        for size in design.sizes:
            for task in _tasks_of_fold(design, size, repeat):
                tasks.setdefault(task.name, task)
    return tasks


def _tasks_of_fold(design: Design, size: int, repeat: int) -> Iterator[Task]:
    """nnU-Net without pairs first: a bank's filter `fit` asks that of the baseline."""
    plain = {arm.name: Task("cell", arm.name, size, repeat) for arm in design.arms if not arm.variant}
    yield from plain.values()
    alone = next(plain[arm.name].name for arm in design.arms if arm.baseline)
    for arm in design.arms:
        if arm.bank:
            generators = [Task("generator", variant, size, repeat) for variant in arm.generators]
            needs = (alone, *(task.name for task in generators))
            bank = Task("bank", arm.bank, size, repeat, needs)
            yield from (*generators, bank, Task("cell", arm.name, size, repeat, (bank.name,)))


def arm_of(task: Task, design: Design) -> Arm:
    """The arm of a cell; for a bank, the first arm that uses it."""
    return next(arm for arm in design.arms if task.what == (arm.name if task.kind == "cell" else arm.bank))


def generator_folder(folder: Path, design: Design, variant: str, fold: int) -> Path:
    """Where a generator of the benchmark is trained."""
    model = f"StyleGAN2Cond_{variant}__{design.plans}__{design.configuration}"
    return folder / "nnUNet_results" / design.dataset / model / f"fold_{fold}"


def commands(task: Task, design: Design, folder: Path, device: str) -> Iterator[list[str]]:
    """The commands of a task, one after the other; a later one may depend on what an earlier one has left."""
    fold = design.fold(task.size, task.repeat)
    data = [design.dataset, design.configuration, str(fold)]
    if task.kind == "generator":
        yield from _generator(task, design, generator_folder(folder, design, task.what, fold), data, device)
    elif task.kind == "bank":
        yield _bank(arm_of(task, design), task, design, folder, data, device)
    else:
        yield _cell(arm_of(task, design), design, folder, data, device)


def _generator(task: Task, design: Design, run: Path, data: list[str], device: str) -> Iterator[list[str]]:
    kimg = ["--kimg", f"{design.effort.kimg:g}"] if design.effort.kimg else []
    seed = ["--seed", str(design.seed + task.repeat)]
    plans = ["-p", design.plans, "--variant", task.what]
    yield ["stylegan2-cond", "train", *data, *plans, *kimg, *seed, "--device", device]
    if task.what == "mask":
        return
    enough = len(design.folds[design.fold(task.size, task.repeat)].cases) >= FEWEST_CASES
    metrics = [part for name in (*JUDGED_BY, *["copies"] * enough) for part in ("--metric", name)]
    samples = ["-n", str(design.effort.judged)] if design.effort.judged else []
    judged = str(find_best(run))
    yield ["stylegan2-cond", "evaluate", judged, *metrics, *samples, "--features", FEATURES, "--device", device]


def _bank(arm: Arm, task: Task, design: Design, folder: Path, data: list[str], device: str) -> list[str]:
    drawn_from = []
    if arm.snapshots > 1 or "+" in arm.variant:
        for variant in arm.variant.split("+"):
            run = generator_folder(folder, design, variant, int(data[2]))
            chosen = find_snapshots(run)[-arm.snapshots :] if arm.snapshots > 1 else [find_best(run)]
            drawn_from += [part for snapshot in chosen for part in ("--snapshot", str(snapshot))]
    else:
        drawn_from = ["--variant", arm.variant]
    options = ["--nnunet", str(model_folder(folder, design, design.baseline))]
    options += ["--masks", arm.masks] if arm.masks else []
    options += [part for filter_ in arm.without for part in ("--without", filter_)]
    options += ["--balanced"] if arm.balanced else []
    options += ["--margin", f"{arm.margin:g}"] if arm.margin is not None else []
    samples = ["-n", str(arm.samples or design.effort.samples), "--name", arm.bank, "--seed", str(design.seed)]
    return ["nnunet-synth", "bank", *data, *samples, "-p", design.plans, *drawn_from, *options, "--device", device]


def _cell(arm: Arm, design: Design, folder: Path, data: list[str], device: str) -> list[str]:
    begun = (model_folder(folder, design, arm) / f"fold_{data[2]}").glob("checkpoint_*.pth")
    going_on = ["--c"] if any(begun) else []
    trainer = ["-p", plans_name(design, arm), "-tr", arm.trainer_name + SUFFIX]
    return ["nnUNetv2_train", *data, *trainer, "-device", device, *going_on]
