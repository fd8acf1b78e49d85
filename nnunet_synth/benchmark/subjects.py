"""Which cases are of one subject: a subject on both sides of a test would make the test worth nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stylegan2_cond.errors import UserError

EACH_CASE = "each"  # case is a subject of its own
_LAST_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")


def whole_subjects(names: Sequence[str], pattern: str | None) -> dict[str, str]:
    """The subject of each case.

    Args:
        names: of all cases.
        pattern: a regular expression that finds the subject in a name (its first group, if it has one); `each` if every
            case is a subject of its own; None to look whether names tell otherwise.

    Raises:
        UserError: the pattern does not fit a name, or the names look as if several cases were of one subject.
    """
    if pattern is None:
        _refuse_doubtful(names)
    if pattern is None or pattern == EACH_CASE:
        return {name: name for name in names}
    try:
        found = {name: re.search(pattern, name) for name in names}
    except re.error as error:
        raise UserError(f"--subjects '{pattern}' is no regular expression ({error}).") from None
    if unfit := [name for name, match in found.items() if match is None]:
        raise UserError(f"--subjects '{pattern}' finds nothing in the name of case {unfit[0]}.")
    return {name: match.group(1) if match.re.groups else match.group() for name, match in found.items()}


def _refuse_doubtful(names: Sequence[str]) -> None:
    """`patient07_z035`, `patient07_z043` …: without their last number, names tell fewer than half as many subjects."""
    stems = Counter(_LAST_NUMBER.sub("", name, count=1) for name in names)
    several = {stem: count for stem, count in stems.items() if count > 1 and re.search("[0-9]", stem)}
    if sum(several.values()) <= len(names) / 2:
        return
    stem = min(several)
    alike = [name for name in names if _LAST_NUMBER.sub("", name, count=1) == stem][:2]
    raise UserError(
        f"Cases like {alike[0]} and {alike[1]} look as if they were of one subject, and a subject must not be both "
        f"trained and tested on. Say how names tell the subject, e.g. --subjects '^[^0-9]*[0-9]+', or --subjects "
        f"{EACH_CASE} if each case is a subject of its own."
    )
