"""Free memory of devices, and settings of the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # imported only where needed, since it takes seconds

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
CUDA_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the old name, which all releases read, first
_FROM_HEAP = 2**30  # bytes; larger blocks are still mapped one by one

MEMINFO = Path("/proc/meminfo")
OWN_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")  # control groups, version 2: limits of containers and cluster jobs
NO_MEMORY = (  # PyTorch's messages; cuBLAS and cuDNN also fail in these ways if no memory is left for their workspaces
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "STATUS_NOT_INITIALIZED",
    "STATUS_INTERNAL_ERROR",
    "unable to find an engine to execute this computation",
)
CACHE_SHARE = 0.25  # of free memory
CACHE_BYTES = 2 * 2**30  # if free memory is unknown
WINDOWS_FILES = 512  # without its maxstdio
GPU_SHARE = 0.92  # of a GPU's free memory; the rest is for gaps between blocks, and libraries' workspaces


def keep_freed_memory() -> bool:
    """Let this process reuse large blocks instead of returning them to the kernel; False if that is not possible.

    By default, glibc maps every block above 32 MiB anew, and the kernel clears it page by page: two thirds of the time
    of `bias_act` and its backward pass on `[8, 64, 256, 256]` on a CPU. Freed memory stays with the process; its peak
    is about the same.

    On a GPU, PyTorch keeps freed memory itself. Unless the user has set something else, its blocks may grow, since
    alternating steps would leave gaps between blocks of a fixed size. Call it before CUDA is used.
    """
    if not any(name in os.environ for name in CUDA_SETTINGS):
        os.environ[CUDA_SETTINGS[0]] = "expandable_segments:True"
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Windows has no library without a name
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_TRIM_THRESHOLD, _LARGEST))
    return False


def free_bytes(device: torch.device) -> int | None:
    """Memory that training may take on a device now, in bytes; None if unknown."""
    if device.type != "cuda":
        return available_bytes()
    import torch

    return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])


def available_bytes() -> int | None:
    """Memory that the machine, and the container or job of this process, can give without swapping; None if unknown."""
    available, groups = [], []
    with contextlib.suppress(OSError):
        lines = MEMINFO.read_text().splitlines()
        available += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError):
        lines = OWN_CGROUP.read_text().splitlines()
        groups += [CGROUPS / line[3:].strip("/") for line in lines if line.startswith("0::")]
    for folder in (part for group in groups for part in (group, *group.parents) if part.is_relative_to(CGROUPS)):
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number: there is no limit
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            available.append(max(0, limit - used + int(kept.get("inactive_file", 0))))  # file caches can be dropped
    return min(available, default=None)


def cache_bytes(free: int | None) -> int:
    """Bytes of cases to keep in memory, if so much is free."""
    return CACHE_BYTES if free is None else int(CACHE_SHARE * free)


def open_files_limit() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # on Windows
        return WINDOWS_FILES
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**63  # -1 means no limit


def peak_bytes() -> int:
    """Peak memory of this process, in bytes; 0 if unknown."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's, before the fork
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, numpy or Python means that memory ran out."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    )
