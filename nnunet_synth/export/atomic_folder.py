"""Files are written beside where they go, by one process at a time, and get their names once they are whole."""

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
    """Be the only export that writes `folder`, by a lock beside it.

    Raises:
        UserError: another one writes it already, or its parent can't be written to.
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
            raise UserError(f"Another export writes {folder} at this moment. Wait for it.") from None


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent`, gone at the end unless it was renamed; what a kill left there before is removed.

    Raises:
        UserError: the disk is full, or `parent` can't be written to.
    """
    prefix = f".{name}_"
    with explained_write(parent / name):
        for left in parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        scratch.chmod(0o755)  # mkdtemp's is for one user alone
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def case_folder(dataset: Path) -> Iterator[Path]:
    """A scratch folder with imagesTr and labelsTr, whose files move to those of `dataset` at the end, labels last.

    So a case whose label is there is whole.
    """
    with scratch_folder(dataset, "writing") as scratch:
        for part in PARTS:
            (scratch / part).mkdir()
        yield scratch
        for part in PARTS:
            (dataset / part).mkdir(exist_ok=True)
            for path in sorted((scratch / part).iterdir(), key=lambda path: path.suffix != ".json"):
                path.replace(dataset / part / path.name)
