"""A real case of a dataset as a challenge delivers it, and what inference.py makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import SimpleITK as sitk

from nnunet_synth.export.raw_dataset import RawCase
from stylegan2_cond.errors import UserError

_INTERFACE = "interf0"  # the folder of the first set of inputs in Grand Challenge's template
_LAST_LINES = 15


class Measured(NamedTuple):
    """What one run of inference.py took.

    Attributes:
        size: of the image in voxels, `(x, y, …)`.
        seconds: from its start to its end, loading of weights included.
        memory, gpu_memory: largest use, in bytes.
    """

    size: tuple[int, ...]
    seconds: float
    memory: float
    gpu_memory: float

    def __str__(self) -> str:
        gpu = f", {self.gpu_memory / 2**30:.1f} GiB of GPU memory" if self.gpu_memory else " on CPU"
        voxels = " × ".join(map(str, self.size))
        return f"{self.seconds:.0f} s, {self.memory / 2**30:.1f} GiB of memory{gpu}, for {voxels} voxels"


def write_example(case: RawCase, inputs: Sequence[str], folder: Path) -> tuple[int, ...]:
    """Write a case's images as .mha files with no more metadata than their geometry; returns the size in voxels."""
    folder = folder / "test" / "input" / _INTERFACE
    sockets = []
    for slug, path in zip(inputs, case.images, strict=True):
        image = sitk.ReadImage(str(path))
        for key in image.GetMetaDataKeys():  # headers may hold names and dates
            image.EraseMetaData(key)
        target = folder / slug / f"{case.name}.mha"
        target.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(target), True)
        sockets.append({"socket": {"slug": Path(slug).name, "relative_path": slug}, "image": {"name": target.name}})
    (folder / "inputs.json").write_text(json.dumps(sockets, indent=4))
    return image.GetSize()


def run_example(folder: Path, size: tuple[int, ...]) -> Measured:
    """Run a submission's inference.py on its case, whose result becomes the expected output.

    Raises:
        UserError: it failed, or was killed, mostly for its use of memory.
    """
    variables = {
        "INPUT_PATH": str(folder / "test" / "input" / _INTERFACE),
        "OUTPUT_PATH": str(folder / "test" / "expected_output" / _INTERFACE),
        "MODEL_PATH": str(folder / "model"),
    }
    command = [sys.executable, str(folder / "inference.py")]
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        printed = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:])
        killed = " It was killed, most likely since the case needs more memory than there is." * (done.returncode < 0)
        raise UserError(
            f"inference.py ended with code {done.returncode} on the example.{killed} It printed:\n{printed}"
        )
    return Measured(size, **json.loads(done.stdout.splitlines()[-1]))
