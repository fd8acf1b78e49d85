"""What a benchmark compares on which cases: drawn once from a seed, written down, and held to."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from typing_extensions import Self

from nnunet_synth.benchmark.arms import Arm
from nnunet_synth.benchmark.budget import Effort
from nnunet_synth.benchmark.subjects import whole_subjects
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document

DESIGN_FILE = "design.json"
LEAST_TEST_CASES = 5  # that may be asked for
FEWEST_BY_DEFAULT = 6  # with fewer, no paired test over cases could find anything: 2 · 0.5⁵ > 0.05
FEW_TEST_CASES = 10
DEFAULT_TEST_CASES = 40
LARGEST_TEST_SHARE = 1 / 3  # of all cases, unless the user says more or the cases are few
SIZES = {True: ("4", "8", "16"), False: ("4", "8", "16", "32", "all")}  # by `quick`
ALL = "all"
WITHOUT_SPACING = ("NaturalImage2DIO",)  # nnU-Net's readers that take the side of a pixel for 1

# What may grow in a folder that is there already; a cell that is done stays what it was.
_MAY_GROW = ("arms", "sizes", "repeats", "folds")
_OF_THE_MACHINE = ("machine", "release", "format_version")


class TrainingSet(BaseModel):
    """The training cases of one size in one repeat; its place in the list is the number of nnU-Net's fold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int
    repeat: int
    cases: tuple[str, ...]


class Design(Document):
    """`design.json`.

    Attributes:
        quick: nnU-Net is narrower and its training shorter, for a machine without a GPU.
        sizes: numbers of training cases.
        test_cases: that no arm trains on.
        pool: the cases that training sets are drawn from.
        subjects: of each case, where several cases are of one subject; then no subject is on both sides.
        folds: the training sets. Within a repeat the smaller ones are part of the larger ones.
        labels: names of the classes or regions, by the `label` of `scores.csv`.
        effort: of nnU-Net and the generators; the same for all arms.
        network: features per stage and batch size of nnU-Net.
        unit: of distances; images such as PNG have no spacing.
        epochs, iterations: of nnU-Net's training; all iterations together.
    """

    remedy: ClassVar[str] = "Start a new benchmark in another folder (-o)."
    dataset: str
    configuration: str
    plans: str
    quick: bool
    seed: int
    sizes: tuple[int, ...]
    repeats: int
    arms: tuple[Arm, ...]
    test_cases: tuple[str, ...]
    pool: tuple[str, ...]
    subjects: dict[str, str] | None
    folds: tuple[TrainingSet, ...]
    labels: dict[str, str]
    effort: Effort
    network: dict[str, int | tuple[int, ...]]
    unit: Literal["mm", "pixels"] = "mm"
    epochs: int
    iterations: int
    machine: dict[str, int | str]
    release: str

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(arm.baseline for arm in self.arms) != 1 or len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("arms must have one baseline, and names of their own")
        planned = {(size, repeat) for size in self.sizes for repeat in range(self.repeats)}
        if {(fold.size, fold.repeat) for fold in self.folds} != planned or len(self.folds) != len(planned):
            raise ValueError("folds must be one for each size and repeat")
        if any({*fold.cases} & {*self.test_cases} for fold in self.folds):
            raise ValueError("a fold trains on a test case")
        return self

    @property
    def baseline(self) -> Arm:
        """nnU-Net alone."""
        return next(arm for arm in self.arms if arm.baseline)

    def fold(self, size: int, repeat: int) -> int:
        """The number of nnU-Net's fold that holds a training set."""
        return next(i for i, fold in enumerate(self.folds) if (fold.size, fold.repeat) == (size, repeat))


def make_design(
    preprocessed: Preprocessed,
    arms: Sequence[Arm],
    *,
    sizes: Sequence[str] | None,
    repeats: int,
    test_cases: str | None,
    subjects: str | None,
    effort: Effort,
    network: Mapping[str, int | tuple[int, ...]],
    device: str,
    seed: int = 0,
) -> Design:
    """Draw the test cases and the nested training sets.

    Args:
        preprocessed: the data.
        arms: one of them the baseline.
        sizes: numbers of training cases, or `all`; the default ones, as far as the data go, if None.
        repeats: training sets of each size.
        test_cases: how many, or a file that names them; drawn if None.
        subjects: how the names of cases tell their subject, as `whole_subjects` explains.

    Raises:
        UserError: too few cases, or sizes, test cases or subjects that do not fit the data.
    """
    names, dataset = preprocessed.case_names(), preprocessed.dataset_name
    subject_of = whole_subjects(names, subjects)
    asked = _read_sizes(sizes) if sizes is not None else None
    test = _test_cases(names, subject_of, test_cases, np.random.default_rng([seed, 0]), dataset)
    held_out = {subject_of[case] for case in test}
    pool = [name for name in names if subject_of[name] not in held_out]
    if not pool:
        raise UserError(
            f"{len(test)} test cases of {len(held_out)} subjects leave none of the {len(names)} cases of {dataset} to "
            f"train on. Ask for fewer with --test-cases, or say with --subjects which cases are of one subject."
        )
    numbers = _sizes_in(pool, asked, dataset) if asked is not None else _default_sizes(len(pool), quick=effort.quick)
    return Design(
        dataset=dataset,
        configuration=preprocessed.configuration_name,
        plans=preprocessed.plans_name,
        quick=effort.quick,
        seed=seed,
        sizes=numbers,
        repeats=repeats,
        arms=tuple(arms),
        test_cases=test,
        pool=tuple(pool),
        subjects=subject_of if len(set(subject_of.values())) < len(names) else None,
        folds=training_sets(pool, subject_of, numbers, repeats, seed),
        labels=_labels(preprocessed),
        effort=effort,
        network=dict(network),
        unit="pixels" if preprocessed.plans_manager.plans.get("image_reader_writer") in WITHOUT_SPACING else "mm",
        epochs=effort.epochs,
        iterations=effort.epochs * effort.iterations,
        machine={"cores": os.cpu_count() or 1, "torch": version("torch"), "device": device},
        release=version("nnunet-synth"),
    )


def training_sets(
    pool: Sequence[str], subject_of: Mapping[str, str], sizes: Sequence[int], repeats: int, seed: int
) -> tuple[TrainingSet, ...]:
    """Each repeat shuffles the pool's subjects anew; each size takes the first cases, so smaller sets are in larger.

    A repeat's order depends on the seed and its own number alone, so sizes and repeats can be added later.
    """
    sets = []
    for repeat in range(repeats):
        subjects = sorted({subject_of[name] for name in pool})
        shuffled = np.random.default_rng([seed, 1 + repeat]).permutation(subjects)
        cases = [name for subject in shuffled for name in sorted(pool) if subject_of[name] == subject]
        sets += [TrainingSet(size=size, repeat=repeat, cases=tuple(sorted(cases[:size]))) for size in sizes]
    return tuple(sets)


def settle(asked: Design, folder: Path) -> Design:
    """The design of a folder: what was asked for, or what lies there and was asked for again, perhaps with more.

    Arms, sizes and repeats may be added; everything else must be as it was.

    Raises:
        UserError: what differs, or a folder that holds other things.
    """
    path = folder / DESIGN_FILE
    if not path.exists():
        if folder.exists() and any(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
            raise UserError(f"{folder} holds other things. Choose another folder with -o.")
        asked.save(path)
        return asked
    there = Design.load(path)
    if differing := _differences(there, asked):
        raise UserError(
            f"{folder} holds a benchmark of another design: {'; '.join(differing)}. Type what was typed then, or "
            f"choose another folder with -o."
        )
    grown = _grow(there, asked)
    if grown != there:
        grown.save(path)
    return grown


def _grow(there: Design, asked: Design) -> Design:
    """What is there, and after it what was added; so the number of each fold stays."""
    sizes, repeats = tuple(sorted({*there.sizes, *asked.sizes})), max(there.repeats, asked.repeats)
    known = {(fold.size, fold.repeat) for fold in there.folds}
    subject_of = there.subjects or {case: case for case in there.pool}
    sets = training_sets(there.pool, subject_of, sizes, repeats, there.seed)
    return there.model_copy(
        update={
            "arms": (*there.arms, *(arm for arm in asked.arms if arm not in there.arms)),
            "sizes": sizes,
            "repeats": repeats,
            "folds": (*there.folds, *(fold for fold in sets if (fold.size, fold.repeat) not in known)),
        }
    )


def _differences(there: Design, asked: Design) -> list[str]:
    """In words, what is asked for otherwise than it is there."""
    found = list(dict.fromkeys(_fields_unlike(there, asked, without=(*_MAY_GROW, *_OF_THE_MACHINE))))
    arms = {arm.name: arm for arm in there.arms}
    found += [f"arm {arm.name} is another" for arm in asked.arms if arms.get(arm.name, arm) != arm]
    folds = {(fold.size, fold.repeat): fold for fold in there.folds}
    found += [
        f"the training cases of size {fold.size}, repeat {fold.repeat}, are others"
        for fold in asked.folds
        if folds.get((fold.size, fold.repeat), fold) != fold
    ]
    return found


def _fields_unlike(there: BaseModel, asked: BaseModel, without: Collection[str] = ()) -> list[str]:
    found = []
    for key in sorted(type(there).model_fields.keys() - set(without)):
        one, other = getattr(there, key), getattr(asked, key)
        if isinstance(one, BaseModel) and isinstance(other, BaseModel):
            found += _fields_unlike(one, other)
        elif one != other:
            found.append(f"{key} is {_short(one)} there, now {_short(other)}")
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _test_cases(
    names: Sequence[str], subject_of: Mapping[str, str], asked: str | None, random: np.random.Generator, dataset: str
) -> tuple[str, ...]:
    """The cases of a file, or cases of subjects drawn until there are enough."""
    if asked is not None and not (asked.isdecimal() and len(asked) < 10):
        return _named_cases(names, Path(asked))
    wanted = int(asked) if asked is not None else _default_test_cases(len(names), dataset)
    if wanted >= len(names):
        raise UserError(f"--test-cases {wanted} of {len(names)} cases leave none to train on. Ask for fewer.")
    if wanted < LEAST_TEST_CASES:
        raise UserError(
            f"--test-cases {wanted} is too few for a test: with fewer than {LEAST_TEST_CASES}, no difference can be "
            f"told from chance. There are {len(names)} cases."
        )
    test: list[str] = []
    for subject in random.permutation(sorted(set(subject_of.values()))):
        if len(test) >= wanted:
            break
        test += [name for name in names if subject_of[name] == subject]
    return tuple(sorted(test))


def _default_test_cases(cases: int, dataset: str) -> int:
    """A third of the cases, at least `FEWEST_BY_DEFAULT` and at most `DEFAULT_TEST_CASES`."""
    if cases <= FEWEST_BY_DEFAULT:
        raise UserError(
            f"A benchmark needs at least {FEWEST_BY_DEFAULT + 1} cases, {FEWEST_BY_DEFAULT} of them to test on; "
            f"{dataset} has {cases}. With so few, whether synthetic pairs help can't be measured."
        )
    return max(FEWEST_BY_DEFAULT, min(DEFAULT_TEST_CASES, int(cases * LARGEST_TEST_SHARE)))


def _named_cases(names: Sequence[str], path: Path) -> tuple[str, ...]:
    try:
        cases = sorted({*path.read_text(encoding="utf-8").split()})
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--test-cases {path} is neither a number nor a readable file ({error}). Name a file with one case a line."
        ) from None
    if unknown := [case for case in cases if case not in set(names)]:
        raise UserError(f"{path} names {unknown[0]}, which is no preprocessed case. There are e.g. {names[0]}.")
    if len(cases) < LEAST_TEST_CASES:
        raise UserError(f"{path} names {len(cases)} cases; a test needs {LEAST_TEST_CASES} or more.")
    return tuple(cases)


def _read_sizes(asked: Sequence[str]) -> list[str | int]:
    """Numbers from 1 on, and `all`."""
    try:
        sizes = [ALL if size.strip() == ALL else int(size) for size in asked]
    except ValueError:
        raise UserError(
            f"--sizes {','.join(asked)} is not a list of numbers. Type for example --sizes 4,8,16,all"
        ) from None
    if wrong := [size for size in sizes if size != ALL and size < 1]:
        raise UserError(
            f"--sizes asks for {wrong[0]} training cases; it takes 1 or more. Type for example --sizes 4,{ALL}"
        )
    return sizes


def _sizes_in(pool: Sequence[str], asked: Sequence[str | int], dataset: str) -> tuple[int, ...]:
    numbers = sorted({len(pool) if size == ALL else size for size in asked})
    if numbers[-1] > len(pool):
        raise UserError(
            f"--sizes asks for {numbers[-1]} training cases; {dataset} has {len(pool)} beside the test cases. Type for "
            f"example --sizes {min(4, len(pool))},{ALL}, or ask for fewer --test-cases."
        )
    return tuple(numbers)


def _default_sizes(pool: int, *, quick: bool) -> tuple[int, ...]:
    """The default sizes; in the place of those that the data do not have, all that there are."""
    return tuple(sorted({pool if size == ALL else min(int(size), pool) for size in SIZES[quick]}))


def _labels(preprocessed: Preprocessed) -> dict[str, str]:
    """`{"1": "anterior"}`, regions as `"1+2"`: the classes that nnU-Net evaluates."""
    manager = preprocessed.label_manager
    names = {label_key(value): name for name, value in preprocessed.dataset_json["labels"].items()}
    classes = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    return {label_key(label): names.get(label_key(label), label_key(label)) for label in classes}


def label_key(label: int | Sequence[int]) -> str:
    """`1` → `"1"`, `(1, 2)` → `"1+2"`."""
    return "+".join(map(str, label)) if isinstance(label, (tuple, list)) else str(label)
