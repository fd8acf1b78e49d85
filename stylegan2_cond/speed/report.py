"""All measurements of one run, their file and their table."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from stylegan2_cond.io import Document
from stylegan2_cond.ops import choose_backend
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import open_device
from stylegan2_cond.speed.ops import SHAPES, OpTiming, time_ops
from stylegan2_cond.speed.step import (
    bench_plan,
    flops_per_image,
    seconds_per_sample,
    step_memory,
    time_drawing,
    time_steps,
)
from stylegan2_cond.speed.timing import Timing, copy_bandwidth, matrix_flops

SIDES = (32, 64, 128, 256, 512)


class Bench(Document):
    """What was measured, where, and with what.

    Attributes:
        machine, torch_version, threads, device, backend, release, created: of the run.
        copy_bytes: a second, read and written, by a plain copy.
        matrix_flops: a second, in float32.
        ops: each op and pass.
        step: seconds of a training step.
        step_flops, draw_flops: of a step and of a sample, in convolutions and products.
        memory: peak bytes of that step, ours and the reference's.
        draw: seconds of a sample.
        growth: seconds of a sample by the side of the patch.
    """

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
    draw_flops: float
    memory: tuple[int, int]
    draw: Timing
    growth: dict[int, float]


def run_bench(device_name: str, *, quick: bool = False) -> Bench:
    """Measure everything; minutes on two cores.

    Args:
        device_name: cpu, cuda …
        quick: small patches and few rounds.

    Raises:
        UserError: there is no such device here.
    """
    device, rounds = open_device(device_name), 2 if quick else 5
    plan = bench_plan(64) if not quick else bench_plan(32, batch_size=8, finest=16, most=32)
    patches, sides = (list(SHAPES)[:1], SIDES[:2]) if quick else (list(SHAPES), SIDES)
    with ProgressBar(total=5 + len(patches) + len(sides), desc="Measuring", unit="part") as bar:

        def part(name: str, function, *arguments, **options):
            bar.set_postfix_str(name)
            result = function(*arguments, **options)
            bar.update()
            return result

        options = {"rounds": rounds, "device": device}
        return Bench(
            machine=_processor(device),
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
                for patch_size in patches
                for timing in part(f"ops at {patch_size}²", _listed, patch_size, **options)
            ),
            step=part("training step", time_steps, plan, **options),
            step_flops=flops_per_image(plan, training=True) * plan.batch_size,
            draw_flops=flops_per_image(plan, training=False),
            memory=part("memory", lambda: tuple(step_memory(plan, device, reference=r) for r in (False, True))),
            draw=part("drawing", time_drawing, plan, **options),
            growth={side: part(f"drawing at {side}²", seconds_per_sample, side, **options) for side in sides},
        )


def table(found: Bench) -> str:
    """For the terminal."""
    lines = [
        f"{found.machine}, {found.threads} threads, torch {found.torch_version}, {found.backend} ops",
        f"Copy {found.copy_bytes / 1e9:.1f} GB/s, matrices {found.matrix_flops / 1e9:.0f} GFLOP/s",
        "",
        f"{'op':<20}{'patch':>7}  {'pass':<10}{'ours':>10}{'plain':>10}{'faster':>9}{'(range)':>14}{'of copy':>9}",
    ]
    for one in found.ops:
        of_copy = f"{one.least_bytes / one.timing.ours / found.copy_bytes:.0%}" if one.least_bytes else ""
        lines.append(f"{one.op:<20}{one.patch_size:>6}²  {one.step:<10}{_row(one.timing)}{of_copy:>9}")
    ours, theirs = found.memory
    step, draw = found.step, found.draw
    lines += [
        f"{'training step':<39}{_row(step)}{'':>3}{_share(found.step_flops, step.ours, found)}",
        f"{'drawing a sample':<39}{_row(draw)}{'':>3}{_share(found.draw_flops, draw.ours, found)}",
        f"Peak memory of the step: {ours / 2**20:.0f} MiB, plain {theirs / 2**20:.0f} MiB: {ours / theirs:.2f} of it",
        "A sample by side: "
        + ", ".join(
            f"{side}² {1e3 * seconds:.3g} ms ({1e9 * seconds / side**2:.0f} ns a pixel)"
            for side, seconds in found.growth.items()
        ),
    ]
    return "\n".join(lines)


def _share(flops: float, seconds: float, found: Bench) -> str:
    return f"{flops / seconds / 1e9:.0f} GFLOP/s, {flops / seconds / found.matrix_flops:.0%} of matrices"


def _row(timing: Timing) -> str:
    low, high = timing.ratios
    spread = f"({low:.1f}–{high:.1f})"
    return f"{1e3 * timing.ours:>7.1f} ms{1e3 * timing.reference:>7.1f} ms{timing.ratio:>8.2f}×{spread:>14}"


def _listed(patch_size: int, **options: object) -> list[OpTiming]:
    return list(time_ops(patch_size, **options))


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
