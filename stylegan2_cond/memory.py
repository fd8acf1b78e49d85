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
    "CUDNN_STATUS_INTERNAL_ERROR",
)
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
    return min((number for number in (_of_machine(), *_of_cgroups()) if number is not None), default=None)


def _of_machine() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_cgroups() -> list[int | None]:
    """Of the control group of this process and its parents."""
    try:
        own = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    folder = CGROUPS / own.strip("/")
    return [_of_cgroup(part) for part in (folder, *folder.parents) if part.is_relative_to(CGROUPS)]


def _of_cgroup(folder: Path) -> int | None:
    """The limit minus what is used, except file caches that can be dropped; None without a limit."""
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is not a number
        return None
    return max(0, limit - used + int(kept.get("inactive_file", 0)))


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
