"""Numbers as a report writes them; NaN is a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "–"


def points(dice: float, *, sign: bool = True) -> str:
    """A difference of Dice in points, hundredths: `+1.9`."""
    return number(100 * dice, 1, sign=sign)


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """With a true minus, and none before a zero."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{round(value, digits) + 0.0:+.{digits}f}" if sign else f"{round(value, digits) + 0.0:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(low: float, high: float, digits: int = 1, *, scale: float = 1, sign: bool = False) -> str:
    """`−0.6 to 1.2`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{number(scale * low, digits, sign=sign)} to {number(scale * high, digits, sign=sign)}"


def probability(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    if not math.isfinite(p):
        return NOTHING
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """`4, 8 and 16`."""
    *most, final = words
    return f"{', '.join(most)} {last} {final}" if most else final


def duration(seconds: float) -> str:
    """`43 s`, `12 min`, `3.5 h`."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
