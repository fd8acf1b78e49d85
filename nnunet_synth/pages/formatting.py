"""Numbers and words as the pages write them: NaN is a dash, and negative numbers have a minus sign, not a hyphen."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "–"


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A fixed number of decimals; zero has no sign."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A fixed number of significant digits: `0.0123`, `−1.5`."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else NOTHING


def points(dice: float, *, sign: bool = True) -> str:
    """A difference of Dice in points, hundredths: `+1.9`."""
    return number(100 * dice, 1, sign=sign)


def interval(low: float, high: float, digits: int = 1, *, scale: float = 1) -> str:
    """`−0.6 to 1.2`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{number(scale * low, digits)} to {number(scale * high, digits)}"


def probability(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    if not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def percent(share: float) -> str:
    """`12 %`, `0.4 %`."""
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"


def listing(words: Sequence[object]) -> str:
    """`4, 8 and 16`."""
    *most, final = map(str, words)
    return f"{', '.join(most)} and {final}" if most else final


def count(number: int, noun: str) -> str:
    """`1 file`, `1,024 files`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def file_size(size: float) -> str:
    """Bytes as `9.05 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"


def duration(seconds: float) -> str:
    """`43 s`, `12 min`, `3.5 h`."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
