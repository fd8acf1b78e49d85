"""What is left to do, in hours: each task as long as those of its kind and variant took, where one is done."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_synth.benchmark.tasks import Task
from stylegan2_cond.data.nnunet_dataset import Preprocessed

STEPS, PATIENCE = 3, 20.0  # steps after the first, which are not taken where that took so many seconds


@dataclass(frozen=True)
class Estimate:
    """Attributes:
    tasks: that are left, of each kind.
    seconds: that they take one after the other, of the kinds that were measured.
    jobs: at a time.
    unmeasured: kinds of which none is done.
    """

    tasks: Mapping[str, int]
    seconds: float
    jobs: int
    unmeasured: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in self.tasks.items() if count)
        if not counts:
            return "Nothing is left to do."
        hours = f"about {_duration(self.seconds / self.jobs)} at {self.jobs} job{'s' * (self.jobs != 1)} at a time"
        more = f", and more for the {' and '.join(f'{kind}s' for kind in self.unmeasured)}" if self.unmeasured else ""
        return f"{counts} left: {hours} ({_duration(self.seconds)} of jobs){more}."


def estimate(left: Sequence[Task], measured: Mapping[Task, float], jobs: int) -> Estimate:
    """How long the tasks that are left take.

    Args:
        left: tasks.
        measured: seconds of those that are done.
        jobs: that run at a time.
    """
    seconds, unmeasured = 0.0, []
    for task in left:
        alike = [time for done, time in measured.items() if (done.kind, done.what) == (task.kind, task.what)]
        alike = alike or [time for done, time in measured.items() if done.kind == task.kind]
        if alike:
            seconds += fmean(alike)
        elif task.kind not in unmeasured:
            unmeasured.append(task.kind)
    kinds = ("generator", "bank", "cell")
    counts = {kind: sum(task.kind == kind for task in left) for kind in kinds}
    return Estimate(counts, seconds, max(1, min(jobs, len(left))), tuple(unmeasured))


def seconds_by_epochs(log: str, epochs: int) -> float | None:
    """How long a training takes, by the epochs that nnU-Net's log tells of; None before there are two.

    The first epoch, in which workers start and kernels are chosen, does not count.
    """
    times = [float(seconds) for seconds in re.findall(r"Epoch time: ([0-9.]+) s", log)]
    return fmean(times[1:]) * epochs if len(times) > 1 else None


def seconds_by_steps(
    preprocessed: Preprocessed, plans: Mapping, length: tuple[int, int], threads: int, device: str
) -> float | None:
    """How long a training of nnU-Net takes by a few steps of its network here, on random patches.

    Neither augmentation nor the prediction of the test cases counts.

    Args:
        preprocessed: the data.
        plans: that nnU-Net is trained by.
        length: epochs, and iterations of each.
        threads, device: that it is trained with.

    Returns:
        Seconds; None where a step does not fit here.
    """
    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(preprocessed.configuration_name)
    channels = determine_num_input_channels(manager, configuration, preprocessed.dataset_json)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            manager.get_label_manager(preprocessed.dataset_json).num_segmentation_heads,
            deep_supervision=True,
        ).to(device)
        patches = torch.randn(configuration.batch_size, channels, *configuration.patch_size, device=device)
        times = [_seconds_of_step(network, patches)]
        times += [_seconds_of_step(network, patches) for _ in range(STEPS if times[0] < PATIENCE else 0)]
    except (RuntimeError, MemoryError):
        return None
    finally:
        torch.set_num_threads(before)
    return math.prod(length) * min(times)


def _seconds_of_step(network: torch.nn.Module, patches: torch.Tensor) -> float:
    began = time.perf_counter()
    with torch.autocast(patches.device.type, enabled=patches.device.type == "cuda"):
        outputs = network(patches)
    sum(output.float().square().mean() for output in outputs).backward()
    float(next(network.parameters()).grad.sum())  # waits for a GPU
    return time.perf_counter() - began


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
