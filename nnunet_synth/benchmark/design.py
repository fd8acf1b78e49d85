"""What a benchmark compares on which cases: chosen once by a seed, saved, and kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from nnunet_synth.benchmark.arms import TRAINING_CASES, Arm
from nnunet_synth.benchmark.budget import Budget, choose_budget, network_size
from nnunet_synth.benchmark.case_selection import choose_sizes, choose_test_cases, deal_training_sets, find_subjects
from nnunet_synth.benchmark.options import BenchmarkOptions
from nnunet_synth.benchmark.protocol import Effect, Protocol
from nnunet_synth.pages.formatting import count, listing
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

DESIGN_FILE = "design.json"
FIRST_ORACLE_FOLD = 1000  # far enough from the training sets' own folds that these can be added later
_READERS_WITHOUT_SPACING = ("NaturalImage2DIO",)  # of nnU-Net; a pixel's side counts as 1
BASELINE_RUNS = 3
_MAY_GROW = ("arms", "sizes", "training_sets", "runs")  # in an existing folder; a finished run stays what it was
_MAY_DIFFER = ("looked", "stopped", "machine", "release", "format_version")


class TrainingSet(BaseModel):
    """The training cases of a run.

    Attributes:
        size: number of cases.
        number: from 0 on, among those of the size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int
    number: int
    cases: tuple[str, ...]


class Stop(BaseModel):
    """A decision at a look, after which an arm gets no more training sets of a size.

    Attributes:
        sets: number of training sets at the look.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    arm: str
    size: int
    sets: int
    effect: Effect


class Design(Document):
    """`design.json`.

    Attributes:
        sizes: numbers of training cases.
        test_cases: the cases that all runs are tested on and none trains on.
        pool: the cases that training sets are chosen from.
        subjects: by case, where a subject has several cases; then no subject is both trained and tested on.
        training_sets: by size and number; nnU-Net's fold of a set is its place in this list, and where an arm trains on
            the unlabelled cases as well, `FIRST_ORACLE_FOLD` more.
        runs, baseline_runs: with each training set, of an arm and of nnU-Net alone.
        protocol: the analysis and its stopping rule.
        looked: number of training sets at the last look; 0 before the first.
        stopped: what was decided at the looks.
        labels: names of the classes or regions, by the `label` of `scores.csv`.
        budget: the same for all arms.
        network: features per stage and batch size of nnU-Net.
        unit: of distances; images such as PNG have no spacing.
    """

    remedy: ClassVar[str] = "Start a new benchmark in another folder (-o)."
    format_version: int = 3
    dataset: str
    configuration: str
    plans: str
    seed: int
    sizes: tuple[int, ...] = Field(min_length=1)
    arms: tuple[Arm, ...]
    test_cases: tuple[str, ...]
    pool: tuple[str, ...]
    subjects: dict[str, str] | None
    training_sets: tuple[TrainingSet, ...]
    runs: int = Field(ge=1)
    baseline_runs: int = Field(default=BASELINE_RUNS, ge=1)
    protocol: Protocol = Protocol()
    looked: int = 0
    stopped: tuple[Stop, ...] = ()
    labels: dict[str, str]
    budget: Budget
    network: dict[str, int | tuple[int, ...]]
    unit: Literal["mm", "pixels"] = "mm"
    machine: dict[str, int | str]
    release: str

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if sum(arm.baseline for arm in self.arms) != 1 or len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("arms must have one baseline, and different names")
        numbers = [(size, number) for size in self.sizes for number in range(self.sets_of(size))]
        if not all(map(self.sets_of, self.sizes)) or numbers != sorted((s.size, s.number) for s in self.training_sets):
            raise ValueError("training_sets must be numbered from 0 on for each size")
        if any({*one.cases} & {*self.test_cases} for one in self.training_sets):
            raise ValueError("a training set has a test case")
        return self

    @property
    def baseline(self) -> Arm:
        """nnU-Net alone."""
        return next(arm for arm in self.arms if arm.baseline)

    @property
    def quick(self) -> bool:
        """Whether nnU-Net is narrower and its training shorter, for a machine without a GPU."""
        return self.budget.quick

    def sets_of(self, size: int) -> int:
        """Number of training sets of a size."""
        return sum(one.size == size for one in self.training_sets)

    def runs_of(self, arm: Arm) -> int:
        """Number of runs of an arm with each training set."""
        return 1 if arm.ensemble else self.baseline_runs if arm.baseline else self.runs

    def stop_of(self, arm: str, size: int) -> Stop | None:
        """The decision on an arm at a size; None as long as there is none."""
        return next((stop for stop in self.stopped if (stop.arm, stop.size) == (arm, size)), None)

    def arms_of(self, training_set: TrainingSet) -> tuple[Arm, ...]:
        """The arms that run with a training set: those not decided before, and none if that leaves nnU-Net alone."""
        stops = {arm.name: self.stop_of(arm.name, training_set.size) for arm in self.arms}
        left = [arm for arm in self.arms if not (stop := stops[arm.name]) or training_set.number < stop.sets]
        return () if self.stopped and left == [self.baseline] else tuple(left)

    def overlaps(self, size: int) -> bool:
        """Whether a case is in several training sets of a size."""
        cases = [case for one in self.training_sets if one.size == size for case in one.cases]
        return len({*cases}) < len(cases)

    def describe_sets(self) -> str:
        """`12 training sets of 4 cases and 12 training sets of 8 cases`."""
        return listing([f"{count(self.sets_of(size), 'training set')} of {count(size, 'case')}" for size in self.sizes])

    def notes(self) -> list[str]:
        """What few cases mean for the training sets, and which arms were stopped."""
        notes, pool = [], len(self.pool)
        for size in self.sizes:
            sets, look = self.sets_of(size), self.protocol.looks[0]
            if self.overlaps(size):
                notes.append(
                    f"{pool} cases are too few for {sets} disjoint training sets of {size}, so the sets overlap: each "
                    f"case is in about {size * sets / pool:.1f} of them. They stand for these cases."
                )
            if sets < look:
                few = f"{count(sets, 'training set')} of {count(size, 'case')}"
                notes.append(f"No verdict is possible from {few}; it takes {look} or more.")
        titles = {arm.name: arm.title for arm in self.arms}
        return notes + [
            f"“{titles[stop.arm]}” with {count(stop.size, 'training case')} was decided by {stop.sets} training sets "
            f"({stop.effect.value}), and stopped there."
            for stop in self.stopped
        ]

    def fold(self, size: int, number: int, arm: Arm | None = None) -> int:
        """nnU-Net's fold of a training set, or of an arm's runs, which may train on the unlabelled cases as well."""
        place = next(i for i, one in enumerate(self.training_sets) if (one.size, one.number) == (size, number))
        return place + FIRST_ORACLE_FOLD * (arm is not None and arm.unlabelled == TRAINING_CASES)

    def unlabelled(self, fold: int) -> tuple[str, ...]:
        """The cases of the pool that are not in the training set of a fold, which count as unlabelled."""
        return tuple(sorted({*self.pool} - {*self.training_sets[fold].cases}))

    def training_cases(self, fold: int) -> tuple[str, ...]:
        """The training cases of one of nnU-Net's folds."""
        return self.training_sets[fold].cases if fold < FIRST_ORACLE_FOLD else self.pool


def make_design(preprocessed: Preprocessed, arms: Sequence[Arm], options: BenchmarkOptions) -> Design:
    """Choose the test cases and the training sets.

    Raises:
        UserError: too few cases, or sizes, test cases or subjects that do not fit the data.
    """
    names, dataset = preprocessed.case_names(), preprocessed.dataset_name
    subject_of = find_subjects(names, options.subjects)
    test_rng = np.random.default_rng([options.seed, 0])
    test = choose_test_cases(names, subject_of, options.test_cases, test_rng, dataset)
    held_out = {subject_of[case] for case in test}
    pool = tuple(name for name in names if subject_of[name] not in held_out)
    if not pool:
        raise UserError(
            f"{len(test)} test cases of {len(held_out)} subjects leave none of the {len(names)} cases of {dataset} to "
            f"train on. Ask for fewer with --test-cases, or say with --subjects which cases belong to one subject."
        )
    sizes = choose_sizes(len(pool), options.sizes, dataset)
    _require_unlabelled(arms, sizes, pool)
    budget = choose_budget(options)
    plans = preprocessed.plans_manager.plans
    return Design(
        dataset=dataset,
        configuration=preprocessed.configuration_name,
        plans=preprocessed.plans_name,
        seed=options.seed,
        sizes=sizes,
        arms=tuple(arms),
        test_cases=test,
        pool=pool,
        subjects=subject_of if len(set(subject_of.values())) < len(names) else None,
        training_sets=make_training_sets(pool, subject_of, sizes, options.training_sets, options.seed),
        runs=options.runs,
        labels=_labels(preprocessed),
        budget=budget,
        network=network_size(plans, preprocessed.configuration_name, budget),
        unit="pixels" if plans.get("image_reader_writer") in _READERS_WITHOUT_SPACING else "mm",
        machine={"cores": os.cpu_count() or 1, "torch": version("torch"), "device": options.device.split(":")[0]},
        release=version("nnunet-synth"),
    )


def _require_unlabelled(arms: Sequence[Arm], sizes: Sequence[int], pool: Sequence[str]) -> None:
    needing = [arm.name for arm in arms if arm.needs_scans]
    if needing and max(sizes) >= len(pool):
        raise UserError(
            f"All {len(pool)} cases besides the test cases are training cases at the largest size, so none is left as "
            f"an unlabelled case for the arm {needing[0]}. Ask for smaller --sizes, for fewer --test-cases, or for "
            f"other arms with --arm."
        )


def make_training_sets(
    pool: Sequence[str], subject_of: Mapping[str, str], sizes: Sequence[int], sets_per_size: int, seed: int
) -> tuple[TrainingSet, ...]:
    """So many training sets of each size, or as many different ones as there are."""
    return tuple(
        TrainingSet(size=size, number=number, cases=cases)
        for size in sizes
        for number, cases in enumerate(islice(deal_training_sets(pool, subject_of, size, seed), sets_per_size))
    )


def load_or_create(requested: Design, folder: Path) -> Design:
    """The design of a folder: saved if there is none; else the saved one, with what the requested one adds.

    Arms, sizes, training sets and runs may be added; everything else must be as it was.

    Raises:
        UserError: what differs, or the folder contains something else.
    """
    path = folder / DESIGN_FILE
    if not path.exists():
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"{folder} is not empty and not a benchmark. Choose another folder with -o.")
        requested.save(path)
        return requested
    saved = Design.load(path)
    if differing := _differences(saved, requested):
        raise UserError(
            f"{folder} is a benchmark of another design: {'; '.join(differing)}. Repeat the original options, or "
            f"choose another folder with -o."
        )
    grown = _grow(saved, requested)
    if grown != saved:
        grown.save(path)
    return grown


def _grow(saved: Design, requested: Design) -> Design:
    """The saved design, and after it what was added, so that each training set keeps its fold."""
    sizes = tuple(sorted({*saved.sizes, *requested.sizes}))
    sets_per_size = max(one.number + 1 for one in (*saved.training_sets, *requested.training_sets))
    subject_of = saved.subjects or {case: case for case in saved.pool}
    known = {(one.size, one.number) for one in saved.training_sets}
    arms = (*saved.arms, *(arm for arm in requested.arms if arm not in saved.arms))
    _require_unlabelled(arms, sizes, saved.pool)
    sets = make_training_sets(saved.pool, subject_of, sizes, sets_per_size, saved.seed)
    return saved.model_copy(
        update={
            "arms": arms,
            "sizes": sizes,
            "runs": max(saved.runs, requested.runs),
            "training_sets": (*saved.training_sets, *(one for one in sets if (one.size, one.number) not in known)),
        }
    )


def _differences(saved: Design, requested: Design) -> list[str]:
    """In words, what may not differ and does."""
    before, now = ({**dict(one), **dict(one.budget), **dict(one.budget.length)} for one in (saved, requested))
    compared = sorted(before.keys() - {*_MAY_GROW, *_MAY_DIFFER, "budget", "length"})
    found = [
        f"{key} is {shorten(str(before[key]), 60)} there, now {shorten(str(now[key]), 60)}"
        for key in compared
        if before[key] != now[key]
    ]
    arms = {arm.name: arm for arm in saved.arms}
    found += [f"arm {arm.name} has other settings" for arm in requested.arms if arms.get(arm.name, arm) != arm]
    sets = {(one.size, one.number): one for one in saved.training_sets}
    found += [
        f"training set {one.number} of size {one.size} has other cases"
        for one in requested.training_sets
        if sets.get((one.size, one.number), one) != one
    ]
    return found


def _labels(preprocessed: Preprocessed) -> dict[str, str]:
    """`{"1": "anterior"}`, regions as `"1+2"`: the classes that nnU-Net evaluates."""
    manager = preprocessed.label_manager
    names = {label_key(value): name for name, value in preprocessed.dataset_json["labels"].items()}
    classes = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    return {label_key(label): names.get(label_key(label), label_key(label)) for label in classes}


def label_key(label: int | Sequence[int]) -> str:
    """`1` → `"1"`, `(1, 2)` → `"1+2"`."""
    return "+".join(map(str, label)) if isinstance(label, (tuple, list)) else str(label)
