"""All measurements of one run, as a file and as a table."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version

import torch

from stylegan2_cond.io import Document
from stylegan2_cond.ops import choose_backend
from stylegan2_cond.ops.build import cpu_info
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import open_device
from stylegan2_cond.speed.ops import SHAPES, OpTiming, time_ops
from stylegan2_cond.speed.step import (
    seconds_per_sample,
    speed_plan,
    step_memory,
    time_sampling,
    time_steps,
)
from stylegan2_cond.speed.timing import Timing

SIDES = (32, 64, 128, 256, 512)


class SpeedReport(Document):
    """What was measured, on which machine.

    Attributes:
        machine, torch_version, threads, device, backend, release, created: of the run.
        ops: each op and pass.
        step: seconds of a training step.
        memory: peak bytes of a step, ours and the reference's.
        sample: seconds of a sample.
        growth: seconds of a sample by side of the patch.
    """

    format_version: int = 3
    machine: str
    torch_version: str
    threads: int
    device: str
    backend: str
    release: str
    created: str
    ops: tuple[OpTiming, ...]
    step: Timing
    memory: tuple[int, int]
    sample: Timing
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
    plan = speed_plan(32, batch_size=8, finest=16, most=32) if quick else speed_plan(64)
    op_sides, sides = (list(SHAPES)[:1], SIDES[:2]) if quick else (list(SHAPES), SIDES)
    with ProgressBar(total=3 + len(op_sides) + len(sides), desc="Measuring", unit="part") as bar:

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
            step=part("training step", time_steps, plan, **options),
            memory=part("memory", lambda: tuple(step_memory(plan, device, reference=r) for r in (False, True))),
            sample=part("sampling", time_sampling, plan, **options),
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
    for name, timing in (*rows, ("training step", report.step), ("sample", report.sample)):
        spread = "({:.1f}–{:.1f})".format(*timing.ratios)
        seconds = f"{1e3 * timing.ours:>7.1f} ms{1e3 * timing.reference:>7.1f} ms"
        lines.append(f"{name:<39}{seconds}{timing.ratio:>8.2f}×{spread:>14}")
    ours, theirs = report.memory
    growth = [
        f"{side}² {1e3 * seconds:.3g} ms ({1e9 * seconds / side**2:.0f} ns per pixel)"
        for side, seconds in report.growth.items()
    ]
    lines += [
        f"Peak memory of a step: {ours / 2**20:.0f} MiB, plain {theirs / 2**20:.0f} MiB (ratio {ours / theirs:.2f})",
        f"Time per sample by patch size: {', '.join(growth)}",
    ]
    return "\n".join(lines)
