"""Which cases are tested on, how many are trained on, and which belong to one subject."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stylegan2_cond.errors import UserError

MIN_TEST_CASES = 5  # that may be asked for
MIN_DEFAULT_TEST_CASES = 6  # with fewer, no paired test over cases can reach 5 %: 2 · 0.5⁵ > 0.05
MAX_DEFAULT_TEST_CASES = 40
DEFAULT_TEST_SHARE = 1 / 3
DEFAULT_SIZES = {True: ("4", "8", "16"), False: ("4", "8", "16", "32", "all")}  # by `quick`
ALL = "all"
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
    if requested is None and len(names) <= MIN_DEFAULT_TEST_CASES:
        raise UserError(
            f"A benchmark needs at least {MIN_DEFAULT_TEST_CASES + 1} cases, {MIN_DEFAULT_TEST_CASES} of them to test "
            f"on; {dataset} has {len(names)}. With so few, it cannot be measured whether synthetic pairs help."
        )
    default = max(MIN_DEFAULT_TEST_CASES, min(MAX_DEFAULT_TEST_CASES, int(len(names) * DEFAULT_TEST_SHARE)))
    count = int(requested) if requested is not None else default
    if count >= len(names):
        raise UserError(f"--test-cases {count} of {len(names)} cases leave none to train on. Ask for fewer.")
    if count < MIN_TEST_CASES:
        raise UserError(
            f"--test-cases {count} is too few: with fewer than {MIN_TEST_CASES}, no difference can be distinguished "
            f"from chance. There are {len(names)} cases."
        )
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
    if len(cases) < MIN_TEST_CASES:
        raise UserError(f"{path} names {len(cases)} cases; a test needs {MIN_TEST_CASES} or more.")
    return tuple(cases)


def parse_sizes(text: str) -> list[str | int]:
    """`4,8,all` → `[4, 8, "all"]`.

    Raises:
        UserError: neither a number from 1 on nor `all`.
    """
    try:
        sizes = [ALL if size.strip() == ALL else int(size) for size in text.split(",")]
    except ValueError:
        raise UserError(f"--sizes {text} is not a list of numbers. Type for example --sizes 4,8,16,{ALL}") from None
    if wrong := [size for size in sizes if size != ALL and size < 1]:
        raise UserError(
            f"--sizes asks for {wrong[0]} training cases; it takes 1 or more. Type for example --sizes 4,{ALL}"
        )
    return sizes


def choose_sizes(pool: int, requested: Sequence[str | int] | None, *, quick: bool, dataset: str) -> tuple[int, ...]:
    """Numbers of training cases, ascending.

    Args:
        pool: number of cases that may be trained on.
        requested: what `parse_sizes` returned; if None, the default sizes, each at most `pool`.
        dataset: its name, for messages.

    Raises:
        UserError: a requested size exceeds `pool`.
    """
    if requested is None:
        return tuple(sorted({pool if size == ALL else min(int(size), pool) for size in DEFAULT_SIZES[quick]}))
    sizes = sorted({pool if size == ALL else size for size in requested})
    if sizes[-1] > pool:
        raise UserError(
            f"--sizes asks for {sizes[-1]} training cases; {dataset} has {pool} besides the test cases. Type for "
            f"example --sizes {min(4, pool)},{ALL}, or ask for fewer --test-cases."
        )
    return tuple(sizes)
