"""The first hour on a GPU: runs all checks, and writes a JSON file and a report that can be attached to an issue.

    python -m stylegan2_cond.speed.gpu_check [--device cuda] [-o FILE]

Each check runs in a process of its own, so that one that fails, crashes or hangs does not stop the others. On a CPU
everything is small: that shows that the checks work, and says little about the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.io import Document, write_atomically
from stylegan2_cond.memory import keep_freed_memory
from stylegan2_cond.ops import describe_backend
from stylegan2_cond.ops.build import cpu_info
from stylegan2_cond.snapshot import open_device
from stylegan2_cond.speed.gpu_bench import FULL, SMALL, Bench, CheckFailed, Figures, Skipped
from stylegan2_cond.speed.gpu_checks import CHECKS

LIMIT = 1800  # seconds of one check
State = Literal["passed", "failed", "skipped"]


class CheckResult(Document):
    """What became of a check.

    Attributes:
        name: of the check, a key of `CHECKS`.
        state: passed, failed or skipped.
        why: in one line.
        seconds: that it took.
        figures: what was measured, also before it failed.
        error: where it failed, if not by its own judgement.
    """

    name: str
    state: State
    why: str
    seconds: float = 0.0
    figures: Figures = Field(default_factory=dict)
    error: str = ""


class GpuReport(Document):
    """All checks of a device.

    Attributes:
        machine: device, driver and releases, by name.
        checks: in the order of their run.
    """

    machine: dict[str, str]
    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.state == "failed" for check in self.checks)


def run_checks(device_name: str, checks: Mapping[str, Callable[[Bench], str]] = CHECKS) -> GpuReport:
    """Run checks on a device, one after the other, and print what became of each.

    Raises:
        UserError: the device is not available.
    """
    machine = _in_a_process("machine", lambda: _describe_machine(device_name))  # CUDA can't be used before a fork
    if machine.state != "passed":
        raise UserError(machine.why)
    described = {name: str(value) for name, value in machine.figures.items()}
    sizes, gpus = SMALL if device_name == "cpu" else FULL, int(described["GPUs"])
    results = []
    for name, check in checks.items():
        bench = Bench(device_name, sizes, gpus)
        results.append(_in_a_process(name, lambda check=check, bench=bench: _run(check, bench)))
        print(f"{results[-1].state:<9}{name:<15}{results[-1].seconds:7.1f} s  {results[-1].why}", flush=True)
    return GpuReport(machine=described, checks=tuple(results))


def report_text(report: GpuReport) -> str:
    """The report in Markdown."""
    counts = {state: sum(check.state == state for check in report.checks) for state in ("passed", "failed", "skipped")}
    lines = [f"# GPU check: {', '.join(f'{count} {state}' for state, count in counts.items())}", ""]
    lines += [f"- {name}: {value}" for name, value in report.machine.items()]
    lines += ["", "| check | | seconds | |", "| --- | --- | ---: | --- |"]
    lines += [
        f"| {one.name} | {one.state} | {one.seconds:.1f} | {one.why.replace('|', '/')} |" for one in report.checks
    ]
    for one in report.checks:
        if one.figures or one.error:
            lines += ["", f"## {one.name}", ""]
            lines += [
                f"- {name}: {value:.4g}" if isinstance(value, float) else f"- {name}: {value}"
                for name, value in one.figures.items()
            ]
            lines += ["", "```", one.error.rstrip(), "```"] if one.error else []
    return "\n".join(lines) + "\n"


def _describe_machine(device_name: str) -> CheckResult:
    try:
        device = open_device(device_name)
    except UserError as error:
        return CheckResult(name="machine", state="failed", why=str(error))
    name = cpu_info("model name").split(": ")[-1]
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name = f"{found.name}, {found.total_memory / 2**30:.1f} GiB, capability {found.major}.{found.minor}"
    machine = {
        "device": name,
        "GPUs": torch.cuda.device_count(),
        "ops": describe_backend(device.type),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "system": platform.platform(),
        "release": version("nnunet-synth"),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return CheckResult(name="machine", state="passed", why="", figures=machine)


def _run(check: Callable[[Bench], str], bench: Bench) -> CheckResult:
    """The result of a check in this process."""
    error = ""
    try:
        state, why = "passed", check(bench)
    except Skipped as reason:
        state, why = "skipped", str(reason)
    except CheckFailed as reason:
        state, why = "failed", str(reason)
    except BaseException as reason:
        state, why, error = "failed", f"{type(reason).__name__}: {first_line(reason)}", traceback.format_exc()
    figures = {
        name: str(value) if isinstance(value, float) and not abs(value) < float("inf") else value  # JSON has no NaN
        for name, value in bench.figures.items()
    }
    return CheckResult(name="", state=state, why=why, figures=figures, error=error)


def _in_a_process(name: str, work: Callable[[], CheckResult]) -> CheckResult:
    """The result of work in a forked process, however that ends."""
    started = time.monotonic()
    receiver, sender = os.pipe()
    sys.stdout.flush()
    if not (process := os.fork()):
        try:
            signal.alarm(LIMIT)  # ends the process, whatever it does
            with os.fdopen(sender, "w") as pipe:
                pipe.write(work().model_dump_json())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seconds = time.monotonic() - started
    if told:
        return CheckResult.model_validate(json.loads(told) | {"name": name, "seconds": seconds})
    why = f"it took more than {LIMIT} s" if code == -signal.SIGALRM else f"its process ended with code {code}"
    return CheckResult(name=name, state="failed", why=why, seconds=seconds)


def main() -> int:
    """Run all checks; returns 1 if one failed, and 2 without such a device."""
    parser = argparse.ArgumentParser(
        prog="python -m stylegan2_cond.speed.gpu_check",
        description="Check a GPU, and write a report about it.",
        epilog="Example: python -m stylegan2_cond.speed.gpu_check --device cuda -o gpu.json",
    )
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        default=Path("gpu_check.json"),
        help="results, as JSON; the report is beside it, as .md",
    )
    options = parser.parse_args()
    keep_freed_memory()
    try:
        report = run_checks(options.device)
        report.save(options.o)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = options.o.with_suffix(".md")
    with write_atomically(text) as temporary:
        temporary.write_text(report_text(report), encoding="utf-8")
    print(f"Results: {options.o}\nReport: {text}")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
