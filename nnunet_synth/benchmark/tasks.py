"""The tasks of a benchmark: generators, banks and runs, what each depends on, and the commands that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_synth.bank.request import REGISTERED
from nnunet_synth.benchmark.arms import GENERATOR, PLANTED, PSEUDO_LABELS, WITH_SCANS, Arm
from nnunet_synth.benchmark.budget import SUFFIX
from nnunet_synth.benchmark.design import Design
from nnunet_synth.benchmark.workspace import generator_folder, model_folder, plans_name
from stylegan2_cond.metrics.memorization import FEWEST_CASES
from stylegan2_cond.snapshot import find_best, find_snapshots

GENERATOR_METRICS = ("kid", "coverage")
SCANS = Arm(name=PSEUDO_LABELS, unlabelled=PSEUDO_LABELS)  # whose bank generators learn from
FEATURES = "random"  # the same for all training sets; an nnU-Net's would differ between them


@dataclass(frozen=True)
class Task:
    """One job.

    Attributes:
        kind: `generator` trains and evaluates one; `bank` fills one; `run` trains nnU-Net and scores its predictions.
        target: the generator's variant, with an ending if it learns from scans; the bank's name; or the arm's name.
        size, training_set: size and number of the training set.
        needs: names of the tasks that must be done before.
        run: number of a run, among those of an arm and a training set.
    """

    kind: Literal["generator", "bank", "run"]
    target: str
    size: int
    training_set: int
    needs: tuple[str, ...] = ()
    run: int = 0

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.kind}_{self.target}_{self.size}_{self.training_set}" + f"_{self.run}" * (self.run > 0)

    def __str__(self) -> str:
        text = f"{self.kind} {self.target}, {self.size} cases, training set {self.training_set}"
        return text + f", run {self.run}" * (self.run > 0)


def make_tasks(design: Design) -> dict[str, Task]:
    """All tasks by name, each after those that it needs; by number of the training set, then by size."""
    tasks: list[Task] = []
    for one in sorted(design.training_sets, key=lambda one: (one.number, one.size)):
        size, number, arms = one.size, one.number, design.arms_of(one)
        # Runs without a bank first: the filter `fit` and pseudo-labels ask the baseline's nnU-Net. Ensembles follow.
        baselines = tuple(run.name for run in _runs(design, design.baseline, size, number))
        for arm in sorted(arms, key=lambda arm: arm.ensemble):
            if not arm.sources:
                tasks += _runs(design, arm, size, number, baselines if arm.ensemble else ())
        for arm in arms:
            banks = [_bank_tasks(design, source, size, number) for source in arm.sources]
            tasks += [task for needed in banks for task in needed]
            if banks:
                tasks += _runs(design, arm, size, number, tuple(needed[-1].name for needed in banks))
    return {task.name: task for task in tasks}


def _bank_tasks(design: Design, arm: Arm, size: int, number: int) -> list[Task]:
    """The tasks of an arm's bank, which is the last of them."""
    baseline, *others = _runs(design, design.baseline, size, number)
    scans = Task("bank", PSEUDO_LABELS, size, number, (baseline.name,))
    taught, shaping = [scans] * (arm.unlabelled == GENERATOR), [scans] * (arm.masks == REGISTERED)
    generators = [Task("generator", name, size, number, tuple(one.name for one in taught)) for name in arm.generators]
    teachers = (baseline, *others * arm.all_teachers)
    needs = () if arm.unlabelled in PLANTED else (*teachers, *generators, *shaping)
    bank = Task("bank", arm.bank, size, number, tuple(task.name for task in needs))
    return [*(taught or shaping), *generators, bank]


def _runs(design: Design, arm: Arm, size: int, number: int, needs: tuple[str, ...] = ()) -> list[Task]:
    return [Task("run", arm.name, size, number, needs, run) for run in range(design.runs_of(arm))]


def arm_of(task: Task, design: Design) -> Arm:
    """The arm of a run; for a bank, the first arm that uses it."""
    if task.kind == "run":
        return next(arm for arm in design.arms if arm.name == task.target)
    sources = (source for arm in design.arms for source in arm.sources)
    return next(arm for arm in (*sources, SCANS) if arm.bank == task.target)


def commands(task: Task, design: Design, folder: Path, device: str) -> Iterator[list[str]]:
    """The commands of a task, in their order; a later one may depend on what an earlier one has written.

    Args:
        folder: folder of the benchmark.
        device: `cpu`, `cuda` or `mps`.
    """
    arm = arm_of(task, design) if task.kind != "generator" else None
    fold = design.fold(task.size, task.training_set, arm)
    data = [design.dataset, design.configuration, str(fold)]
    if task.kind == "generator":
        yield from _generator(task, design, generator_folder(folder, design, task.target, fold), data, device)
    elif task.kind == "bank":
        yield _bank(arm, design, folder, data, device)
    elif arm.ensemble:
        yield ["python", "-m", "nnunet_synth.benchmark.ensemble", str(folder), arm.name, str(fold), device]
    else:
        model = model_folder(folder, design, arm, task.run)
        begun = any((model / f"fold_{fold}").glob("checkpoint_*.pth"))
        trainer = ["-p", plans_name(design, arm, task.run), "-tr", arm.trainer_name + SUFFIX]
        yield ["nnUNetv2_train", *data, *trainer, "-device", device, *["--c"] * begun]


def _generator(task: Task, design: Design, run: Path, data: list[str], device: str) -> Iterator[list[str]]:
    budget = design.budget
    kimg = ["--kimg", f"{budget.kimg:g}"] if budget.kimg else []
    variant, scans, _ = task.target.partition(WITH_SCANS)
    options = ["-p", design.plans, "--variant", variant, *kimg, "--seed", str(design.seed + task.training_set)]
    options += ["--with-bank", PSEUDO_LABELS] if scans else []
    yield ["stylegan2-cond", "train", *data, *options, "--device", device]
    if variant == "mask":
        return
    metrics = [*GENERATOR_METRICS, *["copies"] * (task.size >= FEWEST_CASES)]
    options = [part for name in metrics for part in ("--metric", name)]
    options += ["-n", str(budget.evaluation_samples)] if budget.evaluation_samples else []
    yield ["stylegan2-cond", "evaluate", str(find_best(run)), *options, "--features", FEATURES, "--device", device]


def _bank(arm: Arm, design: Design, folder: Path, data: list[str], device: str) -> list[str]:
    fold, nnunet = int(data[-1]), str(model_folder(folder, design, design.baseline))
    without = [part for name in arm.without for part in ("--without", name)]
    if arm.unlabelled in PLANTED:
        return ["python", "-m", "nnunet_synth.benchmark.true_labels", str(folder), str(fold), arm.bank, arm.unlabelled]
    if arm.unlabelled == PSEUDO_LABELS:
        options = ["-i", ",".join(design.unlabelled(fold)), "--name", arm.bank, *without]
        for run in range(design.baseline_runs if arm.all_teachers else 1):
            options += ["--teacher", str(model_folder(folder, design, design.baseline, run))]
        return ["nnunet-synth", "pseudo-label", *data, "-p", design.plans, *options, "--device", device]
    options = ["-n", str(arm.samples or design.budget.bank_samples), "--name", arm.bank, "--seed", str(design.seed)]
    options += ["-p", design.plans, "--nnunet", nnunet]
    if arm.snapshots > 1 or "+" in arm.variant:
        for generator in arm.generators[: len(arm.variant.split("+"))]:
            run = generator_folder(folder, design, generator, fold)
            chosen = find_snapshots(run)[-arm.snapshots :] if arm.snapshots > 1 else [find_best(run)]
            options += [part for snapshot in chosen for part in ("--snapshot", str(snapshot))]
    else:
        options += ["--variant", arm.variant, *["--with-bank", PSEUDO_LABELS] * (arm.unlabelled == GENERATOR)]
    masks = f"{REGISTERED}:{PSEUDO_LABELS}" if arm.masks == REGISTERED else arm.masks
    options += ["--masks", masks] if masks else []
    options += without
    options += ["--balanced"] if arm.balanced else []
    options += ["--margin", f"{arm.margin:g}"] if arm.margin is not None else []
    return ["nnunet-synth", "bank", *data, *options, "--device", device]
