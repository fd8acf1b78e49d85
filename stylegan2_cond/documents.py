"""JSON files as checked models, and files that are either whole or not there."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import math
import os
import shutil
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from stylegan2_cond.errors import UserError

DISK_IS_FULL = 64 * 1024  # bytes left


class Document(BaseModel):
    """A JSON file with a `format_version`; unknown keys and wrong types are errors that name file, key and remedy."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    remedy: ClassVar[str] = "Mend the file, or delete it and run the command that writes it again."
    format_version: int = 1

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read and check `path`.

        Raises:
            UserError: the file is missing, is no JSON, is of another format version, or a key or type is wrong.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist. {cls.remedy}") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}). {cls.remedy}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid JSON, perhaps cut off ({error}). {cls.remedy}") from None
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != cls.model_fields["format_version"].default:
            raise UserError(
                f"{path} has format_version {version!r}, this release reads "
                f"{cls.model_fields['format_version'].default}. Use the release that wrote it. {cls.remedy}"
            )
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, cls)} {cls.remedy}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write the document to `path`, whole or not at all."""
        with write_atomically(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every problem of a validation in one line each, unknown keys with the nearest key that exists."""
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            *inside, own = problem["loc"]
            nearest = difflib.get_close_matches(str(own), _keys(model, inside), n=1)
            problems.append(f"unknown key '{key}'" + (f" (did you mean '{nearest[0]}'?)." if nearest else "."))
        else:
            said = problem["msg"].removeprefix("Value error, ")  # what a validator of ours says
            problems.append(f"key '{key}': {said}, got {str(problem.get('input'))[:80]}.")
    return " ".join(problems)


def _keys(part: object, inside: Sequence[int | str]) -> list[str]:
    """The keys of the part of a document that `inside` leads to; none where that is no model."""
    for step in inside:
        fields = getattr(part, "model_fields", {})
        part = fields[step].annotation if step in fields else next(iter(typing.get_args(part)), None)
    return list(getattr(part, "model_fields", ()))


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it when the block ends well, remove it when it does not.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses to remove even what is not there
            temporary.unlink()


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn errors of writing `path` into such as a user can read, where a user can mend them."""
    try:
        yield
    except Exception as error:
        if (readable := as_user_error(error, path)) is error:
            raise
        raise readable from error


def as_user_error(error: Exception, path: Path) -> Exception:
    """Say what a failed write means; errors that a user can't mend come back unchanged.

    torch, safetensors and blosc2 report a full disk by errors of their own, so the disk itself is asked as well.
    """
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or _free_bytes(path) < DISK_IS_FULL
    if full and not isinstance(error, UserError):
        return UserError(f"No space left while writing {path}. Free some space and run the same command again.")
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"No permission to write {path}. Choose a folder that you may write to.")
    return error


def _free_bytes(path: Path) -> float:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return math.inf
