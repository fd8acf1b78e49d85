"""Keeping freed memory, so that large tensors do not come fresh from the kernel at every step."""

from __future__ import annotations

import contextlib
import ctypes
import os

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
CUDA_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the old name, which all releases read, first
_FROM_HEAP = 2**30  # bytes; larger blocks are mapped one by one still


def keep_freed_memory() -> bool:
    """Let this process reuse large blocks instead of giving them back to the kernel; False where that can't be told.

    By default glibc maps every block above 32 MiB afresh, and the kernel clears it page by page: two thirds of the time
    that `bias_act` and its backward pass take on `[8, 64, 256, 256]` on a CPU. Memory that was used once stays with the
    process; its peak is about the same.

    On a GPU, PyTorch keeps freed memory itself. Unless the user has other settings for it, its blocks may grow, since
    steps of two kinds would leave gaps between blocks of a fixed size. It must be called before CUDA is used.
    """
    if not any(name in os.environ for name in CUDA_SETTINGS):
        os.environ[CUDA_SETTINGS[0]] = "expandable_segments:True"
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Windows has no library without a name
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_TRIM_THRESHOLD, _LARGEST))
    return False
