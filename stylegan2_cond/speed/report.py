"""All measurements of one run, as a file and as a table."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version

import torch

from stylegan2_cond.io import Document
from stylegan2_cond.ops import choose_backend
from stylegan2_cond.ops.build import cpu_info
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import open_device
from stylegan2_cond.speed.ops import SHAPES, OpTiming, time_ops
from stylegan2_cond.speed.step import (
    StepSpeed,
    measure_steps,
    seconds_per_sample,
    speed_plan,
    time_sampling,
)
from stylegan2_cond.speed.timing import Timing

STEPS = ({"side": 64}, {"side": 256, "batch_size": 4}, {"side": 32, "dims": 3, "batch_size": 4})
SMALL_STEPS = ({"side": 32, "batch_size": 8, "finest": 16, "most": 32},)
BATCHES = (1, 64)  # of samples
SIDES = (32, 64, 128, 256, 512)


class SpeedReport(Document):
    """What was measured, on which machine.

    Attributes:
        machine, torch_version, threads, device, backend, release, created: of the run.
        ops: each op and pass.
        steps: training steps by patch size.
        samples: seconds of a sample, by how many are generated at once.
        growth: seconds of a sample by side of the patch.
    """

    format_version: int = 4
    machine: str
    torch_version: str
    threads: int
    device: str
    backend: str
    release: str
    created: str
    ops: tuple[OpTiming, ...]
    steps: tuple[StepSpeed, ...]
    samples: dict[int, Timing]
    growth: dict[int, float]


def measure_speed(device_name: str, *, quick: bool = False) -> SpeedReport:
    """Measure everything; takes minutes on two cores.

    Args:
        device_name: such as cpu or cuda.
        quick: small patches and few rounds.

    Raises:
        UserError: the device is not available.
    """
    device, rounds = open_device(device_name), 2 if quick else 5
    processor = cpu_info("model name").split(": ")[-1]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    plans = [speed_plan(device=device, **options) for options in (SMALL_STEPS if quick else STEPS)]
    op_sides, sides = (list(SHAPES)[:1], SIDES[:2]) if quick else (list(SHAPES), SIDES)
    parts = len(op_sides) + len(plans) + len(BATCHES) + len(sides)
    with ProgressBar(total=parts, desc="Measuring", unit="part") as bar:

        def part(name: str, function, *arguments, **options):
            bar.set_postfix_str(name)
            result = function(*arguments, **options)
            bar.update()
            return result

        options = {"rounds": rounds, "device": device}
        return SpeedReport(
            machine=machine,
            torch_version=torch.__version__,
            threads=torch.get_num_threads(),
            device=str(device),
            backend=choose_backend(device.type),
            release=version("nnunet-synth"),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            ops=tuple(
                timing
                for side in op_sides
                for timing in part(f"ops at {side}²", lambda side=side: list(time_ops(side, **options)))
            ),
            steps=tuple(part(f"steps at {_size(plan)}", measure_steps, plan, **options) for plan in plans),
            samples={
                count: part(f"{count} samples at once", time_sampling, plans[0], count, **options) for count in BATCHES
            },
            growth={side: part(f"sampling at {side}²", seconds_per_sample, side, **options) for side in sides},
        )


def table(report: SpeedReport) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{report.machine}, {report.threads} threads, torch {report.torch_version}, {report.backend} ops",
        "",
        f"{'op':<20}{'patch':>7}  {'pass':<10}{'ours':>10}{'plain':>10}{'faster':>9}{'(range)':>14}",
    ]
    rows = [(f"{one.op:<20}{one.side:>6}²  {one.direction:<10}", one.timing) for one in report.ops]
    for one in report.steps:
        title = f"step at {_size(one)}, batch {one.batch_size}"
        rows += [(f"{title:<29}plain", one.plain), (f"{title:<29}with R1", one.penalized)]
    rows += [(f"sample, {count} at once", timing) for count, timing in report.samples.items()]
    for name, timing in rows:
        spread = "({:.1f}–{:.1f})".format(*timing.ratios)
        seconds = f"{1e3 * timing.ours:>7.1f} ms{1e3 * timing.reference:>7.1f} ms"
        lines.append(f"{name:<39}{seconds}{timing.ratio:>8.2f}×{spread:>14}")
    lines.append("")
    lines += [_describe(one) for one in report.steps]
    growth = [
        f"{side}² {1e3 * seconds:.3g} ms ({1e9 * seconds / side**2:.0f} ns per pixel)"
        for side, seconds in report.growth.items()
    ]
    lines.append(f"Time per sample by patch size, all of 32 channels: {', '.join(growth)}")
    return "\n".join(lines)


def _describe(steps: StepSpeed) -> str:
    (ours, theirs), (memory, most), (plain, penalized) = steps.seconds, steps.memory, steps.operations
    return (
        f"Training at {_size(steps)}, {'→'.join(map(str, steps.channels))} channels: {steps.batch_size / ours:.3g} "
        f"images/s ({theirs / ours:.2f}× plain PyTorch), peak {memory / 2**20:.0f} MiB (plain {most / 2**20:.0f}, "
        f"ratio {memory / most:.2f}), {plain:,} operations a step ({penalized:,} with R1)"
    )


def _size(plan: Plan | StepSpeed) -> str:
    side, dims = plan.patch_size[0], len(plan.patch_size)
    return f"{side}{'²³'[dims - 2]}"
