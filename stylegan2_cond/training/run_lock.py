"""A lock on a folder, so that only one process works in it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write

LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock of a killed process is released.

    Raises:
        UserError: another process works there, or the folder cannot be written to.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=0)
    try:
        with explained_write(path):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            since = time.strftime("%Y-%m-%d %H:%M")
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
    except Timeout:
        raise UserError(f"{folder} is in use by {_holder(path)}. Wait until it ends, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"
