"""What a user asks of `nnunet-synth benchmark`, and the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BenchmarkOptions:
    """The command's arguments; None is chosen by the data, the budget or the machine.

    Attributes:
        folder: output folder.
        arms_file: TOML file of arms; the shipped one if None.
        arms: names of the arms to run; the file's default arms if empty.
        sizes: numbers of training cases, e.g. `4,8`.
        training_sets: number of training sets of each size.
        runs: number of runs of each arm but nnU-Net alone with each training set.
        test_cases: a number, or a file that names the cases.
        subjects: regular expression that finds the subject in a case's name, or `each`.
        jobs: number of parallel jobs.
        slurm: sbatch options as KEY=VALUE; empty for this machine.
    """

    dataset: str
    configuration: str
    plans: str = "nnUNetPlans"
    folder: Path = Path("benchmark")
    arms_file: Path | None = None
    arms: tuple[str, ...] = ()
    sizes: str | None = None
    training_sets: int = 12
    runs: int = 1
    test_cases: str | None = None
    subjects: str | None = None
    quick: bool = False
    steps: int | None = None
    kimg: float | None = None
    jobs: int | None = None
    slurm: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0
