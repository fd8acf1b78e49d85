"""Keeping freed memory, so that large tensors do not come fresh from the kernel at every step."""

from __future__ import annotations

import contextlib
import ctypes

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_FROM_HEAP = 2**30  # bytes; larger blocks are mapped one by one still


def keep_freed_memory() -> bool:
    """Let this process reuse large blocks instead of giving them back to the kernel; False where that can't be told.

    By default glibc maps every block above 32 MiB afresh, and the kernel clears it page by page: two thirds of the time
    that `bias_act` and its backward pass take on `[8, 64, 256, 256]` on a CPU. Memory that was used once stays with the
    process; its peak is about the same.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_TRIM_THRESHOLD, _LARGEST))
    return False
