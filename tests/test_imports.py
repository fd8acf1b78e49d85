"""The code is importable where POSIX's functions are missing, so that what does not need them works there."""

import subprocess
import sys

WITHOUT_POSIX = """
import ctypes, os, pkgutil, signal, sys
# Other packages may use what goes now.
import matplotlib, nnunetv2, pandas, submitit, torch.utils.tensorboard, torch.utils.cpp_extension
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer

for module, names in {os: ("uname", "nice", "killpg", "fork", "getuid"), signal: ("SIGKILL", "SIGHUP")}.items():
    for name in names:
        delattr(module, name)
sys.modules["resource"] = sys.modules["fcntl"] = None
load = ctypes.CDLL
def load_named(name, *arguments, **options):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return load(name, *arguments, **options)
ctypes.CDLL = load_named

import nnunet_synth, stylegan2_cond
for package in (stylegan2_cond, nnunet_synth):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".ext_trainer" not in module.name:
            __import__(module.name)
from stylegan2_cond.memory import keep_freed_memory
assert keep_freed_memory() is False
for package in (stylegan2_cond, nnunet_synth):
    sys.argv = [package.__name__, "--help"]
    try:
        package.cli.main()
    except SystemExit as end:
        assert not end.code, package
"""


def test_every_module_is_importable_and_both_commands_help_without_posix():
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
    assert "benchmark" in done.stdout
