"""The report of `stylegan2-cond doctor`: versions, compilers, devices, and the state of each backend."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from stylegan2_cond.ops.backends import NATIVE, VARIABLE, choose_backend
from stylegan2_cond.ops.build import KINDS, compiler, cuda_home, find_built, find_or_build


def diagnose(*, build: bool = False) -> tuple[list[tuple[str, str]], bool]:
    """Names and findings, and False if the CPU library could not be built.

    Args:
        build: build every backend that this machine can have, even if an earlier build failed.
    """
    found = {kind: find_or_build(kind, again=True) if build else find_built(kind) for kind in KINDS}
    names = Counter(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    gpus = ", ".join(f"{count} × {name}" for name, count in sorted(names.items()))
    ninja = shutil.which("ninja") or "none"
    with contextlib.suppress(PackageNotFoundError):
        ninja = version("ninja")
    in_use = [
        f"{choose_backend(device)} for {device} tensors"
        if isinstance(find_built(device), Path)
        else f"{NATIVE} for {device} tensors, until the {device} ops are built"
        for device in (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    ]
    lines = [
        ("python", sys.version.split()[0]),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("cuda", f"{torch.version.cuda or 'none'}, {gpus or 'no device'}"),
        ("compiler", _first_line([compiler(), "--version"])),
        ("nvcc", _first_line([str(cuda_home() / "bin" / "nvcc"), "--version"], last=True) if cuda_home() else "none"),
        ("ninja", ninja),
        (f"{NATIVE} ops", "always available"),
        *((f"{kind} ops", f"built: {state}" if isinstance(state, Path) else state) for kind, state in found.items()),
        ("in use", f"{', '.join(in_use)} ({VARIABLE} chooses another)"),
    ]
    return lines, isinstance(found["cpu"], Path) or not build


def _first_line(command: list[str], *, last: bool = False) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none: {error}"
    lines = done.stdout.strip().splitlines() or [done.stderr.strip() or "no output"]
    return lines[-1 if last else 0]
