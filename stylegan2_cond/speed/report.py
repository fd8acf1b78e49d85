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
    flops_per_image,
    seconds_per_sample,
    speed_plan,
    step_memory,
    time_sampling,
    time_steps,
)
from stylegan2_cond.speed.timing import Timing, copy_bandwidth, matrix_flops

SIDES = (32, 64, 128, 256, 512)


class SpeedReport(Document):
    """What was measured, on which machine.

    Attributes:
        machine, torch_version, threads, device, backend, release, created: of the run.
        copy_bytes: bytes per second, read and written, of a plain copy.
        matrix_flops: operations per second of a matrix product in float32.
        ops: each op and pass.
        step: seconds of a training step.
        step_flops, sample_flops: operations of a step and of a sample, in convolutions and products.
        memory: peak bytes of a step, ours and the reference's.
        sample: seconds of a sample.
        growth: seconds of a sample by side of the patch.
    """

    format_version: int = 2
    machine: str
    torch_version: str
    threads: int
    device: str
    backend: str
    release: str
    created: str
    copy_bytes: float
    matrix_flops: float
    ops: tuple[OpTiming, ...]
    step: Timing
    step_flops: float
    sample_flops: float
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
    with ProgressBar(total=5 + len(op_sides) + len(sides), desc="Measuring", unit="part") as bar:

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
            copy_bytes=part("copy", copy_bandwidth, device, rounds=rounds),
            matrix_flops=part("matrices", matrix_flops, device, rounds=rounds),
            ops=tuple(
                timing
                for side in op_sides
                for timing in part(f"ops at {side}²", lambda side=side: list(time_ops(side, **options)))
            ),
            step=part("training step", time_steps, plan, **options),
            step_flops=flops_per_image(plan, training=True) * plan.batch_size,
            sample_flops=flops_per_image(plan, training=False),
            memory=part("memory", lambda: tuple(step_memory(plan, device, reference=r) for r in (False, True))),
            sample=part("sampling", time_sampling, plan, **options),
            growth={side: part(f"sampling at {side}²", seconds_per_sample, side, **options) for side in sides},
        )


def table(report: SpeedReport) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{report.machine}, {report.threads} threads, torch {report.torch_version}, {report.backend} ops",
        f"Copy {report.copy_bytes / 1e9:.1f} GB/s, matrix product {report.matrix_flops / 1e9:.0f} GFLOP/s",
        "",
        f"{'op':<20}{'patch':>7}  {'pass':<10}{'ours':>10}{'plain':>10}{'faster':>9}{'(range)':>14}{'of copy':>9}",
    ]
    for one in report.ops:
        of_copy = f"{one.least_bytes / one.timing.ours / report.copy_bytes:.0%}" if one.least_bytes else ""
        lines.append(f"{one.op:<20}{one.side:>6}²  {one.direction:<10}{_times(one.timing)}{of_copy:>9}")
    for name, timing, flops in (
        ("training step", report.step, report.step_flops),
        ("sample", report.sample, report.sample_flops),
    ):
        speed = flops / timing.ours
        of_product = f"{speed / 1e9:.0f} GFLOP/s, {speed / report.matrix_flops:.0%} of the matrix product"
        lines.append(f"{name:<39}{_times(timing)}   {of_product}")
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


def _times(timing: Timing) -> str:
    low, high = timing.ratios
    spread = f"({low:.1f}–{high:.1f})"
    return f"{1e3 * timing.ours:>7.1f} ms{1e3 * timing.reference:>7.1f} ms{timing.ratio:>8.2f}×{spread:>14}"
