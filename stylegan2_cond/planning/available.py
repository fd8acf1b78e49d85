"""Memory that a device can give now."""

from __future__ import annotations

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
OWN_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")  # Linux' control groups, version 2: the limits of containers and of a cluster's jobs
GPU_SHARE = 0.92  # of a GPU's free memory; the rest is for gaps between blocks, and libraries' workspaces


def free_bytes(device: torch.device) -> int | None:
    """What training may take of a device now; None where it can't be told."""
    return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_bytes()


def available_bytes() -> int | None:
    """What this machine, and the container or job that we are in, give without swapping; None where none tells."""
    return min((number for number in (_of_machine(), *_of_cgroups()) if number is not None), default=None)


def _of_machine() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_cgroups() -> list[int | None]:
    """Of our control group and of each that it is part of."""
    try:
        own = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    folder = CGROUPS / own.strip("/")
    return [_of_cgroup(part) for part in (folder, *folder.parents) if part.is_relative_to(CGROUPS)]


def _of_cgroup(folder: Path) -> int | None:
    """The limit less what is used, file caches that can be dropped not counted; None without a limit."""
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no number
        return None
    return max(0, limit - used + int(kept.get("inactive_file", 0)))
