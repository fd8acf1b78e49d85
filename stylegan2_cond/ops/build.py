"""Compiles the kernels once per source and tools, for all GPUs or this processor; never at import or in a worker.

`torch.utils.cpp_extension.load` caches and locks too, but waits forever for the lock of a process that was killed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import get_worker_info

from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import lock_folder

SOURCES = Path(__file__).parent / "csrc"
SHIPPED = Path(__file__).parent / "built" / "stylegan2_cond"  # in a wheel of `make dist-cuda`, as in the cache
KINDS = {"cpu": "cpu.cpp", "cuda": "cuda.cu"}
CPU_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
CUDA_FLAGS = ("-O3", "--extra-device-vectorization", "-std=c++17", "-shared", "-cudart=static", "-arch=all-major")
HOST_FLAGS = ("-Xcompiler=-fPIC,-fvisibility=hidden", "-allow-unsupported-compiler", "--threads=0")
TOOLKIT = Path("/usr/local/cuda")
BUILD_SECONDS = 900.0
LOCK_SECONDS = BUILD_SECONDS + 60  # a waiting process outlasts any build of another process
NAME = "stylegan2_cond_ops"
NO_GPU = "torch sees no CUDA device."
NOT_YET = "not built yet: the first use does it, or `stylegan2-cond doctor --build`."
RETRY = "`stylegan2-cond doctor --build` tries again"


def cache_folder() -> Path:
    """Folder of the built libraries."""
    base = os.environ.get("STYLEGAN2_COND_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "stylegan2_cond"


def build_folder(kind: str) -> Path:
    """Folder of one kind of library, for these sources and this machine."""
    parts = [(path.name, path.read_text()) for path in sorted(SOURCES.glob("*.[hc]*"))]
    if kind == "cuda":  # this library serves all GPUs, and may be built on a host without one
        parts += [("flags", repr(CUDA_FLAGS)), ("cuda", str(torch.version.cuda)), ("machine", platform.machine())]
    else:  # a home folder may serve machines with other instruction sets
        parts += [("torch", torch.__version__), ("flags", repr(CPU_FLAGS)), ("compiler", compiler())]
        parts.append(("processor", cpu_info("flags", "Features")))
    return cache_folder() / f"{kind}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def library_path(kind: str) -> Path:
    """Path of the library that came with the package, or else of that in the cache once it is built."""
    folder = build_folder(kind)
    shipped = SHIPPED / folder.name / f"{NAME}.so"
    return shipped if shipped.exists() else folder / f"{NAME}.so"


def find_built(kind: str) -> Path | str:
    """The library if it is built, even where no compiler is installed, or one line that says why it is not."""
    folder, path = build_folder(kind), library_path(kind)
    if path.exists():
        return path
    if kind == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    if missing := missing_tools(kind):
        return missing
    return _failure(kind, folder) if (folder / "failed").exists() else NOT_YET


def find_or_build(kind: str, *, again: bool = False) -> Path | str:
    """The library, built if needed, or one line that says why there is none.

    Args:
        kind: a key of `KINDS`.
        again: build even if an earlier build failed, and for CUDA also where no GPU is.
    """
    found = find_built(kind)
    if isinstance(found, Path) or missing_tools(kind) or (found != NOT_YET and not again):
        return found
    if multiprocessing.parent_process() is not None or get_worker_info() is not None:
        return f"the {kind} ops are not built, and a worker process does not build; {RETRY}."
    folder = build_folder(kind)
    try:
        with lock_folder(folder, timeout=LOCK_SECONDS):
            if not library_path(kind).exists():  # another process may have built it in the meantime
                print(f"Building the {kind} ops, once: {folder}", file=sys.stderr, flush=True)
                return build_library(kind, folder)
            return library_path(kind)
    except (UserError, OSError) as error:
        return f"the {kind} ops can't be built: {error}"


def missing_tools(kind: str) -> str:
    """What is missing to build a library, or an empty string."""
    if kind == "cuda":
        if torch.version.cuda is None:
            return "this release of torch is without CUDA."
        if cuda_home() is None:
            return f"there is no nvcc; install the CUDA toolkit, or set CUDA_HOME to it{_from_pip()}."
    if shutil.which(compiler()) is None:
        return f"there is no C++ compiler {compiler()!r}; install one, e.g. g++, or set CXX to it."
    if kind == "cuda" or shutil.which("ninja") or (Path(sys.executable).parent / "ninja").exists():
        return ""
    return "there is no ninja: pip install ninja."


def compiler() -> str:
    """Name or path of the C++ compiler."""
    return os.environ.get("CXX") or "g++"


def cuda_home() -> Path | None:
    """Folder of the CUDA toolkit."""
    if named := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return Path(named)
    if (TOOLKIT / "bin" / "nvcc").exists():
        return TOOLKIT
    if found := shutil.which("nvcc"):
        return Path(found).resolve().parent.parent
    wheels = importlib.util.find_spec("nvidia")  # pip's packages of the toolkit are one folder each
    folders = [] if wheels is None else [Path(folder) for folder in wheels.submodule_search_locations or ()]
    return next((path.parent.parent for folder in folders for path in sorted(folder.glob("*/bin/nvcc"))), None)


def cpu_info(*fields: str) -> str:
    """The line of /proc/cpuinfo that starts with one of these fields, or else the type of the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(fields)), platform.machine())


def compile_for_cpu(folder: str) -> None:
    """Compile and link the CPU library into a folder, in a process of its own. Raises RuntimeError if that fails."""
    from torch.utils.cpp_extension import load

    load(
        NAME,
        [str(SOURCES / KINDS["cpu"])],
        extra_cflags=list(CPU_FLAGS),
        extra_ldflags=["-fopenmp"],
        build_directory=folder,
        with_cuda=False,
        is_python_module=False,
        verbose=True,
    )


def _from_pip() -> str:
    """How pip installs nvcc, which it can from CUDA 13."""
    release = torch.version.cuda
    return f', or pip install "cuda-toolkit[nvcc,cudart]=={release}.*"' if int(release.split(".")[0]) >= 13 else ""


def build_library(kind: str, folder: Path) -> Path | str:
    """Compile a library into a folder, in another process, so that this one's environment and modules do not change."""
    work, log = folder / "work", folder / "build.log"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    call = f"import sys; from {__name__} import compile_for_cpu; compile_for_cpu(sys.argv[1])"
    command = _nvcc_command(work) if kind == "cuda" else [sys.executable, "-c", call, str(work)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = os.environ | {"PATH": path, "CXX": compiler()}
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=BUILD_SECONDS, env=environment
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


def _nvcc_command(folder: Path) -> list[str]:
    """Compiles code for all GPUs that the toolkit knows, and PTX, from which drivers make code for later ones.

    GPUs of one major capability run the same code; one for each minor capability took twice as long to compile.
    """
    home = cuda_home()
    host = [*HOST_FLAGS, f"-ccbin={shutil.which(compiler())}", f"-L{home / 'lib'}"]
    files = [str(SOURCES / KINDS["cuda"]), "-o", str(folder / f"{NAME}.so")]
    return [str(home / "bin" / "nvcc"), *CUDA_FLAGS, *host, *files]


def _failure(kind: str, folder: Path) -> str:
    return f"building the {kind} ops failed, see {folder / 'build.log'}; fix the cause, then {RETRY}."
