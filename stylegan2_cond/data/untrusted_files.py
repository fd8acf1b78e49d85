"""Reads the files of a shard, which may come from elsewhere: they cannot run code, and their contents are checked."""

from __future__ import annotations

import io
import os
import pickle
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import blosc2
import numpy as np
from pydantic import AfterValidator

from stylegan2_cond.errors import UserError, first_line

LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary files have longer names
_PART_VOXELS = 2**22  # decompressed at once


def is_plain_name(name: str) -> bool:
    """Whether a name can be that of a file or folder: not a path or pattern, not hidden, printable, not too long."""
    plain = (
        name.isprintable()
        and not set(name) & set("*?[")
        and not name.startswith(".")
        and os.path.basename(name) == name != ""
    )
    return plain and len(name.encode(errors="replace")) <= LONGEST_NAME


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("must be a plain name, not a path")
    return name


PlainName = Annotated[str, AfterValidator(_plain)]


def open_plain(path: str, **mapping: str) -> blosc2.NDArray:
    """Open an array without `blosc2.open`.

    `blosc2.open` also rebuilds functions, expressions, proxies and remote arrays that a file describes, and some
    releases run code from the file to do so. The reader below it only maps the file.

    Raises:
        UserError: the file cannot be read, or is not a plain array.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a file")
        array = blosc2.blosc2_ext.open(path, "r", 0, dparams={"nthreads": 1}, **mapping)
        plain = isinstance(array, blosc2.NDArray) and [*array.schunk.meta] == ["b2nd"] and not len(array.schunk.vlmeta)
    except Exception as error:
        raise UserError(f"{path} cannot be read as an array ({first_line(error)}).") from None
    if not plain:
        raise UserError(f"{path} is not a plain array but describes a computation, which is never run.")
    return array


def check_array(array: blosc2.NDArray, what: str, dtype: type, shape: Sequence[int]) -> None:
    """Check type and shape; an axis of length 0 in `shape` may have any length.

    Raises:
        UserError: the array in file `what` has another type or shape.
    """
    fits = len(array.shape) == len(shape) and all(
        have == want or (want == 0 and have > 0) for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        wanted = ", ".join(str(length or "any") for length in shape)
        raise UserError(f"{what} holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} ({wanted}).")


def check_finite(array: blosc2.NDArray, what: str, *, may_be_nan: bool = False) -> None:
    """Read an image to its end and check that all values are finite, unless they may be NaN.

    Raises:
        UserError: the array in file `what` is damaged or has values that are not finite.
    """
    finite = [np.isfinite(part).all() for part in _parts(array, what)]
    if not may_be_nan and not all(finite):
        raise UserError(f"{what} holds intensities that are NaN or infinite.")


def check_labels(array: blosc2.NDArray, what: str, labels: Collection[int] | None) -> None:
    """Read a mask to its end and check that all values are in `labels`, unless those are None.

    Raises:
        UserError: the array in file `what` is damaged or has an unknown label.
    """
    found = {int(one) for part in _parts(array, what) for one in np.unique(part)}
    if labels is not None and (unknown := sorted(found - set(labels))):
        raise UserError(f"{what} holds the label {unknown[0]}, which the dataset does not have.")


def load_properties(content: bytes) -> Mapping:
    """Unpickle a shard's properties, which may hold dicts, tuples, numbers, strings and numpy arrays.

    Raises:
        UserError: the content is truncated, or names anything else.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:
        raise UserError(f"The properties of a shard cannot be trusted or read ({first_line(error)}).") from None


def check_properties(properties: object, what: str, shape: Sequence[int]) -> None:
    """Check that nnU-Net's loader can use the `class_locations` for an array of this shape.

    Raises:
        UserError: those in file `what` do not fit.
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
        raise UserError(f"{what} has no 'class_locations' inside an array of shape {tuple(shape)}.") from None


class _PlainUnpickler(pickle.Unpickler):
    """Loads numpy arrays and refuses every other class or function."""

    _KNOWN: ClassVar[set[tuple[str, str]]] = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a bank")
        return super().find_class(module, name)


def _parts(array: blosc2.NDArray, what: str) -> Iterator[np.ndarray]:
    """An array `[C, z, y, x]`, a few slices of a channel at a time."""
    step = max(1, _PART_VOXELS // int(np.prod(array.shape[2:])))
    try:
        for channel in range(array.shape[0]):
            for first in range(0, array.shape[1], step):
                yield array[channel, first : first + step]
    except Exception as error:
        raise UserError(f"{what} cannot be read to its end ({first_line(error)}).") from None
