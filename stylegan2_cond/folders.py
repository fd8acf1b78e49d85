"""Folders that one process works in at a time, their logs, and folders for files that are not complete yet."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.io import explained_write
from stylegan2_cond.progress_bar import PRINTED

TEXT_LOG = "log.txt"


def lock_file(folder: Path, *, inside: bool = True) -> Path:
    """The lock of a folder: in it, or next to it."""
    return folder / ".lock" if inside else folder.with_name(f".{folder.name}.lock")


def is_locked(folder: Path, *, inside: bool = True) -> bool:
    """Whether a process works in a folder, as `lock_folder` has it."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    try:
        with lock_file(folder, inside=inside).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False


@contextlib.contextmanager
def lock_folder(
    folder: Path, *, inside: bool = True, timeout: float = 0, remedy: str = "Wait until it ends, or stop it."
) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock of a killed process is released.

    Args:
        folder: to work in.
        inside: whether the lock lies in the folder, which is then made; else it lies next to it until the end.
        timeout: seconds to wait for another process.
        remedy: what to do while another process works there.

    Raises:
        UserError: another process works there, or the lock cannot be written.
    """
    path = lock_file(folder, inside=inside)
    lock = FileLock(path, timeout=timeout)
    try:
        with explained_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            since = time.strftime("%Y-%m-%d %H:%M")
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError, ValueError):
            holder = path.read_text(encoding="utf-8")
        raise UserError(f"{folder} is in use by {holder or 'another process'}. {remedy}") from None
    try:
        yield
    finally:
        if not inside:
            path.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def keep_log(folder: Path) -> Iterator[None]:
    """Append what `write_line` prints, and the error that ends the work, to the log of a folder, with the time.

    Raises:
        UserError: the log cannot be written.
    """
    path = folder / TEXT_LOG
    with explained_write(path):
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.handleError = lambda record: None  # a full disk stops the work where it matters
    PRINTED.addHandler(handler)
    try:
        PRINTED.info(f"$ {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
        yield
    except (UserError, Stopped) as error:
        PRINTED.error(error)
        raise
    except Exception:
        PRINTED.exception("Failed:")
        raise
    finally:
        PRINTED.removeHandler(handler)
        with contextlib.suppress(OSError):  # the same disk, when the rest is flushed
            handler.close()
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end unless it was renamed, as are those of processes that were killed.

    Raises:
        UserError: the disk is full, or `parent` is not writable.
    """
    for leftover in parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with explained_write(parent / prefix):
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        scratch.chmod(0o755)  # mkdtemp allows the owner only
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
