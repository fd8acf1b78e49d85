"""Writes files under temporary names, by one process at a time, and renames them once they are complete."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import explained_write

PARTS = ("imagesTr", "labelsTr")


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a lock next to `folder`, so that no other export writes it.

    Raises:
        UserError: another export holds the lock, or the parent folder is not writable.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
        except Timeout:
            raise UserError(f"Another export is writing {folder}. Wait for it to end.") from None


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end unless it was renamed, as are those of exports that were killed.

    Raises:
        UserError: the disk is full, or `parent` is not writable.
    """
    prefix = f".{name}_"
    with explained_write(parent / name):
        for leftover in parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        scratch.chmod(0o755)  # mkdtemp allows the owner only
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def case_folder(dataset: Path) -> Iterator[Path]:
    """A scratch folder with imagesTr and labelsTr, whose files move to `dataset` at the end.

    Labels move last, so a case with a label is complete.
    """
    with scratch_folder(dataset, "writing") as scratch:
        for part in PARTS:
            (scratch / part).mkdir()
        yield scratch
        for part in PARTS:
            (dataset / part).mkdir(exist_ok=True)
            for path in sorted((scratch / part).iterdir(), key=lambda path: path.suffix != ".json"):
                path.replace(dataset / part / path.name)
