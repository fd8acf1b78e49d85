"""Large blocks are reused: the kernel is asked for their pages once, not at every step."""

import ctypes
import os
import subprocess
import sys

import pytest

from stylegan2_cond.memory import CACHE_BYTES, cache_bytes, keep_freed_memory, open_files_limit

PAGE_FAULTS = """
import resource, sys, numpy as np
from stylegan2_cond.memory import CACHE_BYTES, cache_bytes, keep_freed_memory, open_files_limit
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(20):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(2**26, np.uint8) for _ in range(2)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("name", [None, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_blocks_on_a_gpu_may_grow_unless_the_user_has_other_settings(monkeypatch, name):
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(variable, "")  # so that what is set is taken back
        monkeypatch.delenv(variable)
    if name:
        monkeypatch.setenv(name, "max_split_size_mb:32")
    keep_freed_memory()
    found = {key: value for key, value in os.environ.items() if key.endswith("ALLOC_CONF")}
    expected = {name: "max_split_size_mb:32"} if name else {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert found == expected


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_large_blocks_do_not_come_fresh_from_the_kernel():
    faults = {
        word: int(subprocess.run([sys.executable, "-c", PAGE_FAULTS, word], capture_output=True, check=True).stdout)
        for word in ("keep", "leave")
    }
    assert faults["keep"] < faults["leave"] / 4


def test_a_quarter_of_what_is_free_holds_cases():
    assert cache_bytes(8 * 2**30) == 2 * 2**30
    assert cache_bytes(None) == CACHE_BYTES
    assert open_files_limit() >= 64
