"""A plan as a table: one line for each setting, with its reason."""

from __future__ import annotations

import textwrap

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.planning.plan import Plan


def table(plan: Plan, width: int = 120) -> str:
    """Key, value and reason in lines of at most `width` characters; keys without effect are left out."""
    hidden = {"format_version", "source", "reasons"}
    hidden |= set() if plan.r1_weight else {"r1_interval"}
    hidden |= set() if plan.given_mask else {"feature_weight", "l1_weight"}
    hidden |= {"augment_kimg"} if plan.augment_target is None else set()
    hidden |= set() if plan.codec.image_channels else {"apart_share"}
    hidden |= set() if plan.source.scans else {"trust_masks"}
    hidden |= {"hours"} if plan.hours is None else set()
    hidden |= set() if plan.cuda_graphs else {"cuda_graphs"}
    rows = [
        (key, format_value(getattr(plan, key)), plan.reasons.get(key, ""))
        for key in type(plan).model_fields
        if key not in hidden
    ]
    first, second = (max(len(row[column]) for row in rows) for column in range(2))
    indent = " " * (first + second + 4)
    return "\n".join(
        textwrap.fill(
            f"{key:<{first}}  {value:<{second}}  {reason}".rstrip(),
            width,
            subsequent_indent=indent,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        for key, value, reason in rows
    )


def format_value(value: object) -> str:
    """A value as `--set` takes it if it is a number or word; else a short description."""
    if isinstance(value, Codec):
        return f"{_count(value.image_channels, 'channel')}, {_count(len(value.labels), 'label')}"
    if isinstance(value, Conditions):
        return _count(len(value.classes), "class", "classes") + ", position" * value.has_position
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join("×".join(map(str, stage)) for stage in value)
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower()


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
