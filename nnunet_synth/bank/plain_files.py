"""Reading a shard's files, which may come from elsewhere, so that they can run no code and hold what they should."""

from __future__ import annotations

import io
import os
import pickle
import stat
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import blosc2
import numpy as np

from stylegan2_cond.errors import UserError

LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary files have longer names
_AT_ONCE = 2**22  # voxels that are decompressed together


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a folder or file inside another one: not a path, not hidden, one printable line."""
    plain = name.isprintable() and not name.startswith(".") and os.path.basename(name) == name != ""
    return plain and len(name.encode(errors="replace")) <= LONGEST_NAME


def open_plain(path: str, **mapping: str) -> blosc2.NDArray:
    """Open an array that holds its own values.

    `blosc2.open` also rebuilds what a file describes: functions, expressions, proxies, remote arrays. Some of its
    releases run code of the file for that, so the reader beneath it is called, which only maps the file.

    Raises:
        UserError: the file cannot be read, or is not a plain array.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a file")
        array = blosc2.blosc2_ext.open(path, "r", 0, dparams={"nthreads": 1}, **mapping)
        plain = isinstance(array, blosc2.NDArray) and [*array.schunk.meta] == ["b2nd"] and not len(array.schunk.vlmeta)
    except Exception as error:
        raise UserError(f"{path} cannot be read as an array ({_first_line(error)}).") from None
    if not plain:
        raise UserError(f"{path} is not a plain array: it describes something to be computed, which is never done.")
    return array


def check_array(array: blosc2.NDArray, what: str, dtype: type, shape: Sequence[int]) -> None:
    """Refuse an array of another type or shape; an axis of length 0 in `shape` may have any length from 1 on.

    Raises:
        UserError: naming `what`, the array's file.
    """
    fits = len(array.shape) == len(shape) and all(
        have == want or (want == 0 and have > 0) for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        wanted = ", ".join(str(length or "any") for length in shape)
        raise UserError(f"{what} holds {array.dtype} {array.shape}, not {np.dtype(dtype)} ({wanted}) as it should.")


def check_finite(array: blosc2.NDArray, what: str, *, may_be_nan: bool = False) -> None:
    """Refuse an image that cannot be read to its end, or has values that are not numbers, unless it may have them.

    Raises:
        UserError: naming `what`, the array's file.
    """
    finite = [np.isfinite(part).all() for part in _parts(array, what)]
    if not may_be_nan and not all(finite):
        raise UserError(f"{what} holds intensities that are NaN or infinite.")


def check_labels(array: blosc2.NDArray, what: str, labels: Collection[int] | None) -> None:
    """Refuse a mask that cannot be read to its end, or has other values than `labels`, where they are known.

    Raises:
        UserError: naming `what`, the array's file.
    """
    found = {int(one) for part in _parts(array, what) for one in np.unique(part)}
    if labels is not None and (unknown := sorted(found - set(labels))):
        raise UserError(f"{what} holds the label {unknown[0]}, which the dataset does not have.")


def load_properties(content: bytes) -> Mapping:
    """Unpickle a shard's properties: dicts, tuples, numbers, strings and numpy arrays.

    Raises:
        UserError: the content is cut off, or names anything else.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:
        raise UserError(f"The properties of a shard cannot be trusted or read ({_first_line(error)}).") from None


def check_properties(properties: object, what: str, shape: Sequence[int]) -> None:
    """Refuse properties whose `class_locations` nnU-Net's loader could not use for an array of this shape.

    Raises:
        UserError: naming `what`, the properties' file.
    """
    try:
        for voxels in properties["class_locations"].values():
            places = np.asarray(voxels)
            if len(places) and not (
                places.ndim == 2 and places.shape[1] == 4 and places.dtype.kind in "iu"
                and (places >= 0).all() and (places < np.array([1, *shape[1:]])).all()
            ):  # fmt: skip
                raise ValueError
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"{what} holds no 'class_locations' that lie inside an array of {tuple(shape)}.") from None


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy arrays; everything else that pickle could name is refused."""

    _KNOWN: ClassVar[set[tuple[str, str]]] = {
        (module, name)
        for module, name in (
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
        )
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a bank")
        return super().find_class(module, name)


def _parts(array: blosc2.NDArray, what: str):
    """All of an array `[C, z, y, x]`, some slices of a channel at a time."""
    step = max(1, _AT_ONCE // int(np.prod(array.shape[2:])))
    try:
        for channel in range(array.shape[0]):
            for first in range(0, array.shape[1], step):
                yield array[channel, first : first + step]
    except Exception as error:
        raise UserError(f"{what} cannot be read to its end ({_first_line(error)}).") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
