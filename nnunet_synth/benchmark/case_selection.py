"""Which cases are tested on, which are trained on, and which belong to one subject."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stylegan2_cond.errors import UserError

FEWEST_CASES = 3  # one to test on, and two training sets of one
MAX_DEFAULT_TEST_CASES = 40
DEFAULT_TEST_SHARE = 1 / 3
DEFAULT_SIZES = (4, 8)
TRIES = 100  # to find a training set that there is not yet
EACH_CASE = "each"
_LAST_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")


def find_subjects(names: Sequence[str], pattern: str | None) -> dict[str, str]:
    """The subject of each case; with a subject on both sides, a test would measure nothing.

    Args:
        names: names of all cases.
        pattern: regular expression that finds the subject in a name (its first group, if it has one); `each` if every
            case is a subject of its own; None for the same, unless the names suggest otherwise.

    Raises:
        UserError: the pattern does not match a name, or several cases seem to belong to one subject.
    """
    if pattern is None:
        _refuse_shared_subjects(names)
    if pattern is None or pattern == EACH_CASE:
        return {name: name for name in names}
    try:
        found = {name: re.search(pattern, name) for name in names}
    except re.error as error:
        raise UserError(f"--subjects '{pattern}' is not a regular expression ({error}).") from None
    if unfit := [name for name, match in found.items() if match is None]:
        raise UserError(f"--subjects '{pattern}' finds nothing in the name of case {unfit[0]}.")
    return {name: match.group(1) if match.re.groups else match.group() for name, match in found.items()}


def _refuse_shared_subjects(names: Sequence[str]) -> None:
    """`patient07_z035`, `patient07_z043` …: without their last number, names leave fewer than half as many subjects."""
    stems = Counter(_LAST_NUMBER.sub("", name, count=1) for name in names)
    shared = {stem: count for stem, count in stems.items() if count > 1 and re.search("[0-9]", stem)}
    if sum(shared.values()) <= len(names) / 2:
        return
    alike = [name for name in names if _LAST_NUMBER.sub("", name, count=1) == min(shared)][:2]
    raise UserError(
        f"Cases like {alike[0]} and {alike[1]} seem to belong to one subject, and a subject must not be both trained "
        f"and tested on. Say how names identify the subject, e.g. --subjects '^[^0-9]*[0-9]+', or type --subjects "
        f"{EACH_CASE} if each case is a subject of its own."
    )


def choose_test_cases(
    names: Sequence[str], subject_of: Mapping[str, str], requested: str | None, rng: np.random.Generator, dataset: str
) -> tuple[str, ...]:
    """The cases that a file names, or random subjects' cases until there are enough.

    Args:
        names: names of all cases.
        requested: a number, or the path of a file; a third of the cases, within limits, if None.
        dataset: its name, for messages.

    Raises:
        UserError: too few cases to test on, none left to train on, or an unknown case.
    """
    if requested is not None and not (requested.isdecimal() and len(requested) < 10):
        return _read_cases(names, Path(requested))
    if requested is None and len(names) < FEWEST_CASES:
        raise UserError(f"A benchmark needs at least {FEWEST_CASES} cases; {dataset} has {len(names)}.")
    default = max(1, min(MAX_DEFAULT_TEST_CASES, int(len(names) * DEFAULT_TEST_SHARE)))
    count = int(requested) if requested is not None else default
    if not 0 < count < len(names):
        raise UserError(f"--test-cases {count} of {len(names)} cases: type a number from 1 to {len(names) - 1}.")
    test: list[str] = []
    for subject in rng.permutation(sorted(set(subject_of.values()))):
        if len(test) >= count:
            break
        test += [name for name in names if subject_of[name] == subject]
    return tuple(sorted(test))


def _read_cases(names: Sequence[str], path: Path) -> tuple[str, ...]:
    try:
        cases = sorted({*path.read_text(encoding="utf-8").split()})
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--test-cases {path} is neither a number nor a readable file ({error}). Name a file with one case a line."
        ) from None
    if unknown := [case for case in cases if case not in set(names)]:
        raise UserError(f"{path} names {unknown[0]}, which is not a preprocessed case. There are e.g. {names[0]}.")
    if not cases:
        raise UserError(f"{path} names no case. Write one case a line.")
    return tuple(cases)


def choose_sizes(pool: int, requested: str | None, dataset: str) -> tuple[int, ...]:
    """Numbers of training cases, ascending.

    Args:
        pool: number of cases that may be trained on.
        requested: e.g. `4,8`; if None, the default sizes, each at most half of the pool.
        dataset: its name, for messages.

    Raises:
        UserError: not numbers from 1 to `pool`.
    """
    if requested is None:
        return tuple(sorted({max(1, min(size, pool // 2)) for size in DEFAULT_SIZES}))
    try:
        sizes = sorted({int(size) for size in requested.split(",")})
    except ValueError:
        raise UserError(f"--sizes {requested} is not a list of numbers. Type for example --sizes 4,8") from None
    if sizes[0] < 1 or sizes[-1] > pool:
        wrong = sizes[0] if sizes[0] < 1 else sizes[-1]
        raise UserError(
            f"--sizes asks for {wrong} training cases; {dataset} has 1 to {pool} of them besides the test cases. Type "
            f"for example --sizes {min(4, pool)}, or ask for fewer --test-cases."
        )
    return tuple(sizes)


def deal_training_sets(
    pool: Sequence[str], subject_of: Mapping[str, str], size: int, seed: int
) -> Iterator[tuple[str, ...]]:
    """Different training sets: disjoint while the pool lasts, then in further rounds that overlap with earlier ones.

    After each set, the numbers of sets that each subject is in differ by one at most. A set has whole subjects, but for
    the cases above `size`. Later sets do not change earlier ones, so more can be taken at any time.

    Args:
        size: number of cases of each set.
    """
    cases_of: dict[str, list[str]] = {}
    for case in sorted(pool):
        cases_of.setdefault(subject_of[case], []).append(case)
    subjects, rng = sorted(cases_of), np.random.default_rng([seed, 1, size])
    left, found = subjects, set()  # left: subjects that are not in a set of this round yet
    while True:
        ends = sum(len(cases_of[one]) for one in left) < size  # all that are left, and some of the next round
        rest, round_ = (left, subjects) if ends else ([], left)
        for _ in range(TRIES):
            chosen, cases = [], []
            for subject in (*rest, *rng.permutation([one for one in round_ if one not in rest]).tolist()):
                if len(cases) < size:
                    chosen.append(subject)
                    cases += cases_of[subject]
            if (training := tuple(sorted(cases[:size]))) not in found:
                break
        else:
            return
        found.add(training)
        left = [one for one in round_ if one in rest or one not in chosen]
        yield training
