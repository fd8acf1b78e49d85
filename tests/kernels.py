"""Libraries of kernels for tests: the CPU's, CUDA's on a GPU, and CUDA's sources run on the CPU by shim/host.cpp."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from stylegan2_cond.ops import autograd, backends
from stylegan2_cond.ops.bindings import Library, find_library
from stylegan2_cond.ops.build import SOURCES, cache_folder, compiler

SHIM = Path(__file__).parent / "shim" / "host.cpp"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
SANITIZED = "STYLEGAN2_COND_TEST_SANITIZED"  # a process in which the shim is compiled with sanitizers


@cache
def shim() -> Library:
    """The CUDA kernels as functions of the host, with small blocks and few of them, so that each takes many turns."""
    if shutil.which(compiler()) is None:
        pytest.skip(f"there is no C++ compiler {compiler()!r}")
    sanitized = bool(os.environ.get(SANITIZED))
    newest = max(path.stat().st_mtime_ns for path in (SHIM, *SOURCES.iterdir()))
    path = cache_folder() / "shim" / f"{newest}{'_sanitized' if sanitized else ''}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"]
        flags += ["-Wno-unknown-pragmas", "-DTHREADS=64", "-DMOST_BLOCKS=5", f"-I{SOURCES}"]
        flags += SANITIZERS if sanitized else ()
        subprocess.run([compiler(), *flags, str(SHIM), "-o", str(made)], check=True)
        os.replace(made, path)
    return Library(path)


def bytes_moved(library: Library) -> tuple[int, int]:
    """That the shim's kernels have loaded and stored since the last call."""
    counts = ctypes.c_int64(), ctypes.c_int64()
    ctypes.CDLL(str(library.path)).stylegan2_cond_moved(*map(ctypes.byref, counts))
    return counts[0].value, counts[1].value


def use_library(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Let the ops run on a library; returns the device that its tensors must be on."""
    if name == "shim":
        library = shim()
        for module in (autograd, backends):
            monkeypatch.setattr(module, "find_library", lambda device: library)
        monkeypatch.setenv(backends.VARIABLE, "cpu")
        return "cpu"
    found = find_library(name)
    if isinstance(found, str):
        pytest.skip(found)
    monkeypatch.setenv(backends.VARIABLE, name)
    return name
