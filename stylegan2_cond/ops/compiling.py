"""Run as a process by build.py: compiles the CPU's library into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from torch.utils.cpp_extension import load

from stylegan2_cond.ops.build import CPU_FLAGS, KINDS, NAME, SOURCES


def compile_library(folder: Path) -> None:
    """Compile and link `stylegan2_cond_ops.so`. Raises RuntimeError with the compiler's words."""
    load(
        NAME,
        [str(SOURCES / KINDS["cpu"])],
        extra_cflags=list(CPU_FLAGS),
        extra_ldflags=["-fopenmp"],
        build_directory=str(folder),
        with_cuda=False,
        is_python_module=False,
        verbose=True,
    )


if __name__ == "__main__":
    compile_library(Path(sys.argv[1]))
