"""Run as a process by build.py: compiles one kind of library into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from torch.utils.cpp_extension import load

from stylegan2_cond.ops.build import CPU_FLAGS, CUDA_FLAGS, KINDS, NAME, SOURCES


def compile_library(kind: str, folder: Path) -> None:
    """Compile and link `stylegan2_cond_ops.so`. Raises RuntimeError with the compiler's words."""
    load(
        NAME,
        [str(SOURCES / KINDS[kind])],
        extra_cflags=list(CPU_FLAGS),
        extra_cuda_cflags=list(CUDA_FLAGS),
        extra_ldflags=["-fopenmp"],
        build_directory=str(folder),
        with_cuda=kind == "cuda",
        is_python_module=False,
        verbose=True,
    )


if __name__ == "__main__":
    compile_library(sys.argv[1], Path(sys.argv[2]))
