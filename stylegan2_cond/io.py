"""JSON files as validated models, and atomic writes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import math
import os
import re
import reprlib
import shutil
import socket
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from typing_extensions import Self

from stylegan2_cond.errors import UserError

DISK_IS_FULL = 64 * 1024  # bytes left
OUTDATED_SECONDS = 24 * 3600  # after which another machine's temporary file counts as a leftover
_LIST_OF_NUMBERS = re.compile(r"\[\n\s+[-+.\de]+(?:,\n\s+(?:[-+.\de]+|null))*\n\s+\]")  # goes in one line of a file
_SHORT = reprlib.Repr()
_SHORT.maxother = 80


class Document(BaseModel):
    """A JSON file with a `format_version`; unknown keys and wrong types are errors that name file, key and remedy.

    All its numbers are finite, since JSON has no others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sealed: ClassVar[bool] = False  # whether the file holds a checksum of the rest
    remedy: ClassVar[str] = "Fix the file, or delete it and run the command that writes it again."
    format_version: int = 1

    @model_validator(mode="after")
    def _is_finite(self) -> Self:
        if broken := next(_not_finite(self.model_dump(warnings=False)), None):
            raise ValueError(f"{broken[0]} must be a finite number, not {broken[1]}")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read and check `path`.

        Raises:
            UserError: the file cannot be read, has another format version, or a key or type is wrong.
        """
        content = read_json(path, cls.remedy)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != cls.model_fields["format_version"].default:
            raise UserError(
                f"{path} has format_version {version!r}, this release reads "
                f"{cls.model_fields['format_version'].default}. Use the release that wrote it. {cls.remedy}"
            )
        if cls.sealed and content.pop("checksum", None) != checksum(content):
            raise UserError(f"{path} was changed or damaged after it was written: its checksum differs. {cls.remedy}")
        return cls._checked(content, path)

    def save(self, path: str | os.PathLike) -> None:
        """Write the document to `path`, whole or not at all.

        Raises:
            UserError: a value is not finite or of a wrong type, so that the file could not be read again.
        """
        if broken := next(_not_finite(self.model_dump(warnings=False)), None):
            raise UserError(f"{path} is left as it was: key '{broken[0]}' must be a finite number, not {broken[1]}.")
        content = json.loads(self.model_dump_json(warnings=False))
        self._checked(content, path)
        with write_atomically(path) as temporary:
            sealed = content | ({"checksum": checksum(content)} if self.sealed else {})
            text = json.dumps(sealed, indent=2, ensure_ascii=False)
            text = _LIST_OF_NUMBERS.sub(lambda found: "".join(found[0].split()), text)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def _checked(cls, content: dict, path: str | os.PathLike) -> Self:
        try:
            return cls.model_validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, cls)} {cls.remedy}") from None


class Record(Document):
    """A document whose file holds a checksum of the rest, against accidental changes.

    It does not protect against deliberate ones: whoever can change the file can renew the checksum.
    """

    sealed = True


def checksum(content: Mapping[str, object]) -> str:
    """SHA-256 of a record's content but for the key `checksum`, independent of order and white space."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """The content of a JSON file of any type; NaN and Infinity are allowed, since nnU-Net writes them.

    Raises:
        UserError: the file is missing, cannot be read or is not valid JSON; `remedy` ends the message.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). {remedy}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid JSON (nested too deeply). {remedy}") from None
    except ValueError as error:  # also not UTF-8, an integer of thousands of digits, a NUL in the path
        raise UserError(f"{path!s} is not valid JSON, perhaps cut off ({error}). {remedy}") from None


def _not_finite(part: object, key: str = "") -> Iterator[tuple[str, float]]:
    """The keys and values of numbers in a document that are infinite or NaN."""
    if isinstance(part, float) and not math.isfinite(part):
        yield key, part
    inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, value in inside:
        yield from _not_finite(value, f"{key}.{name}" if key else str(name))


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems of a validation in one line; unknown keys with the nearest existing key."""
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            *inside, own = problem["loc"]
            nearest = difflib.get_close_matches(str(own), _keys(model, inside), n=1)
            problems.append(f"unknown key '{key}'" + (f" (did you mean '{nearest[0]}'?)." if nearest else "."))
        elif problem["type"] == "missing":
            problems.append(f"key '{key}' is missing.")
        else:
            said = problem["msg"].removeprefix("Value error, ")  # the prefix of our own validators
            value = problem.get("input")  # also lists nested more deeply than Python can print
            got = value[:80] if isinstance(value, str) else _SHORT.repr(value)
            problems.append(f"key '{key}': {said}, got {got}." if key else f"{said}.")
    return " ".join(" ".join(problems).split())  # a key may hold line breaks


def _keys(part: object, inside: Sequence[int | str]) -> list[str]:
    """The keys of the part of a document at `inside`; none if it is not a model."""
    for step in inside:
        fields = getattr(part, "model_fields", {})
        part = fields[step].annotation if step in fields else next(iter(typing.get_args(part)), None)
    return list(getattr(part, "model_fields", ()))


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path next to `path` that is renamed to it when the block succeeds, and removed when it fails.

    After a power cut, `path` has the old or the new content. Leftovers of killed processes are removed.

    Raises:
        UserError: the disk is full, or the path cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{socket.gethostname()}.tmp")
    try:
        with explained_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            with contextlib.suppress(OSError):  # not every file system supports it for folders
                _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses to remove even what is not there
            temporary.unlink()


def _sync(path: Path) -> None:
    """Flush what was written to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sweep(path: Path) -> None:
    """Remove the temporary files for `path` of processes that have ended."""
    start = f".{path.name}."
    for entry in os.scandir(path.parent):
        if entry.name.startswith(start) and entry.name.endswith(".tmp"):
            pid, _, host = entry.name[len(start) : -len(".tmp")].partition(".")
            with contextlib.suppress(OSError, ValueError, OverflowError):  # also where the process is another user's
                ended = time.time() - entry.stat().st_mtime > OUTDATED_SECONDS
                if host == socket.gethostname():
                    ended = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 0)
                        ended = False
                if ended:
                    os.unlink(entry.path)


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn errors of writing `path` that a user can fix into a `UserError`."""
    try:
        yield
    except Exception as error:
        if (readable := as_user_error(error, path)) is error:
            raise
        raise readable from error


def as_user_error(error: Exception, path: Path) -> Exception:
    """The error of a failed write as a `UserError`, or unchanged if the user cannot fix it.

    torch, safetensors and blosc2 report a full disk by errors of their own, so free space is checked as well.
    """
    number, free = getattr(error, "errno", None), math.inf
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or free < DISK_IS_FULL
    if full and not isinstance(error, UserError):
        return UserError(f"No space left while writing {path}. Free some space and run the same command again.")
    if _exceeds_limit(error):
        return UserError(
            f"{path} would be larger than a file may be here. Raise the limit (ulimit -f unlimited), or choose another "
            f"disk, and run the same command again."
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"No permission to write {path}. Choose a folder that you may write to.")
    if isinstance(error, (OSError, RuntimeError)) and not os.path.isdir(path.parent):
        return UserError(f"{path} cannot be written: {path.parent} is not a folder. Choose another path.")
    if number in (errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return UserError(f"{path} cannot be written ({error.strerror}). Choose another name.")
    return error


def _exceeds_limit(error: Exception) -> bool:
    """Whether a file was to grow beyond `ulimit -f` or the file system's limit, which torch and blosc2 do not name."""
    if getattr(error, "errno", None) == errno.EFBIG or "File too large" in str(error):
        return True
    try:
        import resource
    except ImportError:  # on Windows
        return False
    unnamed = isinstance(error, (OSError, RuntimeError)) and not getattr(error, "errno", None)
    return unnamed and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
