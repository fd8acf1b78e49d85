"""Calls of a compiled library of kernels, by plain pointers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from stylegan2_cond.ops.build import NO_GPU, find_or_build

NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # see csrc/number.h
INT, LONG, REAL, POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
_EPILOGUE = (POINTER,) * 4 + (REAL,) * 2
_SIGNATURES = {  # see csrc/interface.h; the stream, which ends each, is left out
    "bias_act": (INT, INT, LONG, LONG, LONG, POINTER, POINTER, *_EPILOGUE),
    "bias_act_grad": (INT, INT, *(LONG,) * 4, *(POINTER,) * 6, *(REAL,) * 2),
    "bias_act_grad_grad": (INT, INT, *(LONG,) * 4, *(POINTER,) * 9, *(REAL,) * 2),
    "resample": (INT, INT, LONG, LONG, *(POINTER,) * 8, *_EPILOGUE),
}


class Library:
    """Kernels for one type of device.

    Args:
        path: path of the shared library.

    Raises:
        OSError: the library cannot be loaded.
    """

    def __init__(self, path: Path):
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.stylegan2_cond_error.restype = ctypes.c_char_p
        for name, signature in _SIGNATURES.items():
            getattr(self._library, f"stylegan2_cond_{name}").argtypes = (*signature, POINTER)

    def call(self, name: str, like: torch.Tensor, *arguments: object) -> None:
        """Run a kernel on the current stream of a tensor's device; tensors are passed as pointers.

        Raises:
            RuntimeError: the kernel could not be launched.
        """
        plain = [argument.data_ptr() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
        if like.device.type == "cuda":
            with torch.cuda.device(like.device):
                stream = torch.cuda.current_stream().cuda_stream
                code = getattr(self._library, f"stylegan2_cond_{name}")(*plain, stream)
        else:
            code = getattr(self._library, f"stylegan2_cond_{name}")(*plain, None)
        if code:
            raise RuntimeError(f"{name} failed: {self._library.stylegan2_cond_error(code).decode()}")


def array(kind: type, values: Sequence[int]) -> ctypes.Array:
    """An array of C's, of the type `INT`, `LONG` or `POINTER`."""
    return (kind * len(values))(*values)


@cache
def find_library(device: str) -> Library | str:
    """The kernels for a type of device, built if needed, or the reason why there are none."""
    if device == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    built = find_or_build(device)
    if isinstance(built, str):
        return built
    try:
        return Library(built)
    except OSError as error:
        return f"{built} cannot be loaded: {error}"
