"""Checksums of preprocessed images, which identify a case whatever its name."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

import numpy as np

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Record
from stylegan2_cond.progress_bar import ProgressBar

_CHUNK = 2**24  # voxels that are read at once
_ENDINGS = (".b2nd", ".npz")  # of nnU-Net's formats; the file that holds the image
_FileState = tuple[str, int, int]  # path, size, time of the last change in ns
_computed: dict[_FileState, str] = {}  # by this process, since the file below cannot always be written


class CaseHashes(Record):
    """`case_hashes_<data identifier>.json`: file size, time of its last change in ns, and SHA-256 of each image."""

    remedy = "Delete the file; it is written again."
    cases: dict[str, tuple[int, int, str]]


def case_hashes(preprocessed: Preprocessed, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the voxels of each case's image, independent of its name and compression.

    They are stored next to the folder of cases, if it is writable, and computed again for files that changed.

    Raises:
        UserError: a case is missing or cannot be read.
    """
    path = preprocessed.base / f"case_hashes_{preprocessed.configuration.data_identifier}.json"
    cases: dict[str, tuple[int, int, str]] = {}
    with contextlib.suppress(UserError):
        cases = CaseHashes.load(path).cases
    states = {name: _state(preprocessed, name) for name in names}
    known = {name: entry[2] for name, entry in cases.items() if entry[:2] == states.get(name, ())[1:]}
    missing = [name for name in names if name not in known]
    for name in ProgressBar(missing, desc="Hashing the cases", unit="case", leave=False, delay=3):
        if states[name] not in _computed:
            _computed[states[name]] = hash_image(preprocessed.load(name).image)
        known[name] = _computed[states[name]]
    if missing:
        new = {name: (*states[name][1:], known[name]) for name in names}
        with contextlib.suppress(UserError, OSError):
            CaseHashes(cases=cases | new).save(path)
    return {name: known[name] for name in names}


def _state(preprocessed: Preprocessed, name: str) -> _FileState:
    for path in (preprocessed.folder / f"{name}{ending}" for ending in _ENDINGS):
        if path.exists():
            status = path.stat()
            return str(path), status.st_size, status.st_mtime_ns
    raise UserError(f"Case {name} is not in {preprocessed.folder}. Preprocess it: {preprocessed.preprocess_command}")


def hash_image(image: np.ndarray) -> str:
    """SHA-256 of the voxels of an image `[C, z, y, x]`, with its shape and type."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    step = max(1, _CHUNK // int(np.prod(image.shape[2:])))
    for channel in range(image.shape[0]):
        for first in range(0, image.shape[1], step):
            digest.update(np.ascontiguousarray(image[channel, first : first + step]))
    return digest.hexdigest()
