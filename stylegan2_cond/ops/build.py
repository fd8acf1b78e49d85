"""Compiling the kernels: once per source, tools and processor or GPUs; never at import, never in a worker process."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch.utils.data import get_worker_info

SOURCES = Path(__file__).parent / "csrc"
KINDS = {"cpu": "cpu.cpp", "cuda": "cuda.cu"}
CPU_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
CUDA_FLAGS = ("-O3", "--extra-device-vectorization", "-std=c++17", "-shared", "-cudart=static")
HOST_FLAGS = ("-Xcompiler=-fPIC,-fvisibility=hidden", "-allow-unsupported-compiler")
TOOLKIT = Path("/usr/local/cuda")
BUILD_SECONDS = 900.0
LOCK_SECONDS = BUILD_SECONDS + 60  # whoever waits gets what another process builds, however long that may take
NAME = "stylegan2_cond_ops"
NO_GPU = "torch sees no CUDA device."
NOT_YET = "not built yet: the first use does it, or `stylegan2-cond doctor --build`."
MEND = "`stylegan2-cond doctor --build` tries again"


def cache_folder() -> Path:
    """Where built libraries are kept."""
    base = os.environ.get("STYLEGAN2_COND_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "stylegan2_cond"


def build_folder(kind: str) -> Path:
    """Of one kind of library, for these sources and this machine."""
    return cache_folder() / f"{kind}_{_key(kind)}"


def library_path(kind: str) -> Path:
    """Of the library, once it is built."""
    return build_folder(kind) / f"{NAME}.so"


def find_built(kind: str) -> Path | str:
    """The library, if it is built, even where no tools are to build it with, or in one line why it is not."""
    if kind == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    folder, path = build_folder(kind), library_path(kind)
    if path.exists():
        return path
    if missing := missing_tools(kind):
        return missing
    return _failure(kind, folder) if (folder / "failed").exists() else NOT_YET


def obtain(kind: str, *, again: bool = False) -> Path | str:
    """The built library, or in one line why there is none.

    Args:
        kind: a key of `KINDS`.
        again: try to build even though it failed before.
    """
    found = find_built(kind)
    if isinstance(found, Path) or missing_tools(kind) or (found != NOT_YET and not again):
        return found
    if multiprocessing.parent_process() is not None or get_worker_info() is not None:
        return f"the {kind} ops are not built, and a worker process does not build; {MEND}."
    return _build_alone(kind, build_folder(kind))


def missing_tools(kind: str) -> str:
    """What is not there to build with, or an empty string."""
    if kind == "cuda":
        if not torch.cuda.is_available():
            return NO_GPU
        if cuda_home() is None:
            return "there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to it."
    if shutil.which(compiler()) is None:
        return f"there is no C++ compiler {compiler()!r}; install one, e.g. g++, or name it by CXX."
    if kind == "cuda":
        return ""
    return "" if shutil.which("ninja") or _ninja_beside_python() else "there is no ninja: pip install ninja."


def compiler() -> str:
    """Of C++."""
    return os.environ.get("CXX") or "g++"


def cuda_home() -> Path | None:
    """The CUDA toolkit's folder."""
    if named := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return Path(named)
    if (TOOLKIT / "bin" / "nvcc").exists():
        return TOOLKIT
    if found := shutil.which("nvcc"):
        return Path(found).resolve().parent.parent
    wheels = importlib.util.find_spec("nvidia")  # pip's packages of the toolkit are one folder each
    folders = [] if wheels is None else [Path(folder) for folder in wheels.submodule_search_locations or ()]
    return next((path.parent.parent for folder in folders for path in sorted(folder.glob("*/bin/nvcc"))), None)


def _ninja_beside_python() -> bool:
    return (Path(sys.executable).parent / "ninja").exists()


def _key(kind: str) -> str:
    parts = [(path.name, path.read_text()) for path in sorted(SOURCES.glob("*.[hc]*"))]
    if kind == "cuda":  # it has nothing of torch's or the host's in it
        parts += [("flags", repr(CUDA_FLAGS)), ("cuda", str(torch.version.cuda)), ("devices", repr(_capabilities()))]
    else:
        parts += [("torch", torch.__version__), ("flags", repr(CPU_FLAGS)), ("compiler", compiler())]
        parts.append(("processor", _processor()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What the code is made for: a home folder may serve several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _capabilities() -> list[tuple[int, int]]:
    """Of all GPUs that this process sees."""
    return sorted({torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())})


def _build_alone(kind: str, folder: Path) -> Path | str:
    """One process builds, others wait for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=LOCK_SECONDS):
            if library_path(kind).exists():
                return library_path(kind)
            holder = {"process": os.getpid(), "host": socket.gethostname()}
            (folder / "holder").write_text(json.dumps(holder))
            print(f"Building the {kind} ops, once: {folder}", file=sys.stderr, flush=True)
            return _build(kind, folder)
    except Timeout:
        return f"{_holder(folder)} has been building the {kind} ops for more than {LOCK_SECONDS:g} s; {MEND}."
    except OSError as error:
        return f"the {kind} ops can't be built in {folder}: {error}."


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / "holder").read_text())
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _build(kind: str, folder: Path) -> Path | str:
    """In a process of its own, so that this one's environment and modules stay as they are."""
    work, log = folder / "work", folder / "build.log"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    command = _nvcc(work) if kind == "cuda" else [sys.executable, "-m", "stylegan2_cond.ops.compiling", str(work)]
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=BUILD_SECONDS, env=_environment()
            ).returncode
        except subprocess.TimeoutExpired:
            done = f"it took more than {BUILD_SECONDS:g} s"
    if done:
        (folder / "failed").write_text(str(done))
        return _failure(kind, folder)
    os.replace(work / f"{NAME}.so", library_path(kind))
    (folder / "failed").unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    return library_path(kind)


def _nvcc(folder: Path) -> list[str]:
    """The command that compiles the CUDA kernels: code for all GPUs here, and PTX of the newest for those to come."""
    home, names = cuda_home(), [f"{major}{minor}" for major, minor in _capabilities()]
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    targets.append(f"-gencode=arch=compute_{names[-1]},code=compute_{names[-1]}")
    host = [*HOST_FLAGS, f"-ccbin={shutil.which(compiler())}", f"-L{home / 'lib'}"]
    files = [str(SOURCES / KINDS["cuda"]), "-o", str(folder / f"{NAME}.so")]
    return [str(home / "bin" / "nvcc"), *CUDA_FLAGS, *host, *targets, *files]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "CXX": compiler()}


def _failure(kind: str, folder: Path) -> str:
    return f"building the {kind} ops failed, see {folder / 'build.log'}; mend it, then {MEND}."
