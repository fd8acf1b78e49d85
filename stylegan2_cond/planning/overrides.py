"""Keys of a plan that a user sets, checked like the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, ValidationError, create_model

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explain
from stylegan2_cond.planning.plan import MOST_KIMG, Plan

BY_HAND = "set by hand"
WITH_OPTION = ("variant", "patch_size", "kimg", "seed")
DERIVED = ("format_version", "source", "spacing", "factors", "codec", "conditions", "reasons")
FREE = tuple(name for name in Plan.model_fields if name not in (*WITH_OPTION, *DERIVED))
OTHER_NAMES = {  # that the field has for some keys
    "ada_target": "augment_target",
    "ada_kimg": "augment_kimg",
    "dtype": "precision",
    "gamma": "r1_weight",
    "gradient_accumulation": "accumulate",
    "lr": "learning_rate",
    "pl_weight": "path_length_weight",
    "z_dim": "latent_dim",
    "w_dim": "style_dim",
}


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """`["r1_weight=0.5", "channels=[64,32]", "loss=relativistic"]` → values by key.

    Raises:
        UserError: a text without `=`, or a key that is unknown or not to be set.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} is no key=value. Type for example --set batch_size=8")
        values[_known(key.strip())] = _value(value.strip())
    return values


def check_overrides(values: Mapping[str, object], *, stages: int | None = None) -> dict[str, object]:
    """The same values as a plan holds them, tuples where it has tuples.

    Args:
        values: by key.
        stages: of the pyramid, which `channels` must be given for.

    Raises:
        UserError: a key that is unknown or not to be set, or a value that it can't have; all of them at once.
    """
    fields = {key: (Plan.model_fields[_known(key)].annotation, Plan.model_fields[key]) for key in values}
    model = create_model("Overrides", __config__=ConfigDict(allow_inf_nan=False), **fields)
    try:
        checked = model.model_validate_json(json.dumps(dict(values)), strict=True)
    except ValidationError as error:
        raise UserError(f"--set: {explain(error, Plan)}") from None
    found = {key: getattr(checked, key) for key in values}
    channels = found.get("channels", (1,) * (stages or 0))
    if stages is not None and len(channels) != stages:
        raise UserError(f"--set channels={list(channels)}: the pyramid has {stages} stages, each needs a number.")
    start, end = found.get("condition_kimg", (0, 0))
    if not 0 <= start <= end:
        raise UserError(f"--set condition_kimg={[start, end]}: conditions gain strength from the first to the second.")
    return found


def check_kimg(kimg: float | None) -> None:
    """How long a training may be asked to take.

    Raises:
        UserError: not a number of thousands of images that a training can reach.
    """
    if kimg is not None and not 0 < kimg <= MOST_KIMG:
        raise UserError(f"--kimg {kimg} must be above 0 and at most {MOST_KIMG:,.0f} (thousands of images).")


def check_batch(batch_size: int, accumulate: int) -> None:
    """A batch that can be computed in so many parts.

    Raises:
        UserError: its parts would differ in length.
    """
    if batch_size % accumulate:
        raise UserError(
            f"--set: a batch_size of {batch_size} can't be computed in {accumulate} equal parts (accumulate)."
        )


def _known(key: str) -> str:
    if key in FREE:
        return key
    if key in WITH_OPTION:
        raise UserError(f"'{key}' has an option of its own: --{key.replace('_', '-')}")
    if key in DERIVED:
        raise UserError(f"'{key}' is derived from the data and can't be set. Keys that can: {', '.join(FREE)}.")
    lower = key.lower().replace("-", "_")
    nearest = OTHER_NAMES.get(lower) or next(iter(difflib.get_close_matches(lower, FREE, n=1, cutoff=0.4)), None)
    hint = f"Did you mean '{nearest}'? " if nearest else ""
    raise UserError(f"A plan has no key '{key}'. {hint}Keys that can be set: {', '.join(FREE)}.")


def _value(text: str) -> object:
    """A number, list, true, false or null as in JSON; a list may lack its brackets; anything else is a word."""
    plain = {"none": "null", "true": "true", "false": "false"}.get(text.lower(), text)
    for attempt in (plain, f"[{text}]" if "," in text else plain):
        try:
            return json.loads(attempt, parse_constant=str)  # Infinity and NaN are no numbers of JSON
        except (ValueError, RecursionError):  # also: thousands of digits, or of brackets
            continue
    return text
