"""What a GPU must confirm: the checks of `gpu_check`, each a function of a bench that returns what it found.

A check raises `CheckFailed` if something is wrong, and `Skipped` if there is nothing to check.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

from stylegan2_cond import ops
from stylegan2_cond.memory import free_bytes
from stylegan2_cond.ops.backends import NATIVE, VARIABLE
from stylegan2_cond.ops.bindings import find_library
from stylegan2_cond.ops.self_test import find_difference
from stylegan2_cond.planning import Plan, training_bytes
from stylegan2_cond.planning.heuristics import choose_precision
from stylegan2_cond.planning.memory import fit_memory
from stylegan2_cond.snapshot import load_generator, save_snapshot
from stylegan2_cond.speed.gpu_bench import (
    Bench,
    Skipped,
    busy_state,
    compare_gradients,
    deterministic,
    difference,
    gradients,
    require,
    train,
    waiting_refused,
    weights,
)
from stylegan2_cond.speed.ops import PASSES, op_cases, op_pass
from stylegan2_cond.speed.step import measure_steps, repeated_step, speed_plan, time_sampling
from stylegan2_cond.speed.timing import compare_times
from stylegan2_cond.training import step_graphs
from stylegan2_cond.training.checkpoint import load_checkpoint, save_checkpoint
from stylegan2_cond.training.distributed import distributed_context, process_device
from stylegan2_cond.training.profile_step import measure_step, random_patches
from stylegan2_cond.training.run_setup import measure_until_it_fits
from stylegan2_cond.training.state import TrainingState, set_precision
from stylegan2_cond.training.step import finish_step, take_step

# Differences from plain PyTorch, relative to the root mean square of a result. Where an activation meets its kink,
# rounding decides which derivative holds: in bfloat16, that is one activation in some hundred.
OP_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
GRADIENT_TOLERANCE = 0.01  # of a network's gradient, in float32
RESUME_TOLERANCE = (
    3.0  # times the difference of two uninterrupted trainings, which is 0 where nothing adds in any order
)
RESUME_FLOOR = 1e-3  # of the way that the weights went; allowed on a GPU even if two trainings happen to be equal
SAMPLE_TOLERANCE = 0.01  # of an image, from a GPU's TF32 and a CPU's float32
LABEL_TOLERANCE = 0.02  # share of the voxels
NATIVE_OPS = SimpleNamespace(
    **{
        name: partial(getattr(ops, name), backend=NATIVE)
        for name in ("bias_act", "upsample", "downsample", "modulated_conv")
    }
)


def check_kernels(bench: Bench) -> str:
    """Values, first and second derivatives of each op are those of plain PyTorch."""
    kind = bench.device.type
    if isinstance(library := find_library(kind), str):
        raise Skipped(library)
    reason = find_difference(kind)
    require(not reason, reason)
    torch.manual_seed(0)
    kernels = SimpleNamespace(**{name: partial(getattr(ops, name), backend=kind) for name in vars(NATIVE_OPS)})
    wrong, worst = [], 0.0
    for (batch, channels, size), dtype in ((shape, dtype) for shape in bench.sizes.op_shapes for dtype in OP_TOLERANCE):
        for case in op_cases(batch, channels, size, bench.device, dtype):
            for direction in PASSES:
                with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
                    mine, theirs = (_listed(op_pass(case, m, direction)()) for m in (kernels, NATIVE_OPS))
                error = max(difference(*pair, mine[0].numel()) for pair in zip(mine, theirs, strict=True))
                name = f"{case.op}, {direction}, {'×'.join(map(str, size))}, {str(dtype).removeprefix('torch.')}"
                bench.figures[name] = error
                worst = max(worst, error / OP_TOLERANCE[dtype])
                wrong += [] if error <= OP_TOLERANCE[dtype] else [name]
    require(not wrong, f"these differ from plain PyTorch's: {'; '.join(wrong)}")
    return f"{len(bench.figures)} passes; the largest difference is {worst:.2g} of what is allowed"


def check_step(bench: Bench) -> str:
    """Gradients of both networks are those by plain PyTorch; a step in the device's precision is finite."""
    kind, budget = bench.device.type, free_bytes(bench.device)
    plan = fit_memory(bench.plan("float32"), budget, device=kind)
    mine = gradients(plan, bench.device)
    with patch.dict(os.environ, {VARIABLE: NATIVE}):
        theirs = gradients(plan, bench.device)
    error = compare_gradients(bench, mine, theirs)
    require(error <= GRADIENT_TOLERANCE, f"gradients differ from those by plain PyTorch by {error:.2g}")
    plan = bench.plan()
    state = busy_state(plan, bench.device)
    for _ in range(3):
        scalars = finish_step(state, take_step(state, *random_patches(plan)))
        broken = [name for name, value in scalars.items() if not math.isfinite(value)]
        require(not broken, f"not finite in {plan.precision}: {', '.join(broken)}")
    bench.figures |= {"precision": plan.precision, "ops": ops.describe_backend(kind)}
    return f"gradients differ from those by plain PyTorch by {error:.2g}; steps in {plan.precision} are finite"


def check_resume(bench: Bench) -> str:
    """A training that was stopped and continued ends as near to an uninterrupted one as a second uninterrupted one."""
    plan, steps = bench.plan(), bench.sizes.steps
    with deterministic(), tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), train(_unmoved_state(plan, bench.device), steps))
        resumed = TrainingState.start(plan, bench.device)
        load_checkpoint(Path(folder), resumed)
        return _compare_trainings(bench, plan, 2 * steps, "a resumed one", weights(train(resumed, steps)))


def check_graphs(bench: Bench) -> str:
    """Steps that CUDA graphs replay train like others, and how much faster they are."""
    if bench.device_name == "cpu":
        raise Skipped("only CUDA has graphs; on a CPU, tests/test_step_graphs.py replays recorded operators")
    warm_up, device, changes = step_graphs.WARM_UP, bench.device, {"r1_interval": 2}
    plans = [bench.plan().model_copy(update=changes | {"cuda_graphs": graphs}) for graphs in (True, False)]
    full = [plan.model_copy(update={"precision": "float32"}) for plan in plans]
    error = compare_gradients(bench, *(gradients(plan, device, repeats=warm_up + 1) for plan in full))
    require(error <= GRADIENT_TOLERANCE, f"gradients differ from those without graphs by {error:.2g}")
    with deterministic():
        steps = 2 * (warm_up + 3)  # each kind of step is recorded, and replayed twice
        found = weights(train(_unmoved_state(plans[0], device), steps))
        told = _compare_trainings(bench, plans[1], steps, "a replayed one", found)
    for name, number in (("plain step", 1), ("step with R1", 0)):
        ours, theirs = (repeated_step(plan, device, number) for plan in plans)
        for _ in range(warm_up + 1):
            ours()
        timing = compare_times(ours, theirs, rounds=bench.sizes.rounds, device=device)
        bench.figures |= {f"{name}, s": timing.ours, f"{name}: times as fast": timing.ratio}
        told += f"; a {name} is {timing.ratio:.2f} times as fast"
    return told


def check_trial(bench: Bench) -> str:
    """The planner's trial of a step finds a plan that fits."""
    plan, budget = bench.plan(), free_bytes(bench.device)
    fitting, cost = measure_until_it_fits(plan, bench.device, budget)
    bench.figures |= {
        "free, bytes": budget or 0,
        "peak, bytes": cost.peak_bytes,
        "estimate, bytes": training_bytes(fitting, bench.device.type),
        "seconds per step": cost.seconds_per_step,
        "parts": fitting.accumulate,
        "channels": ", ".join(map(str, fitting.channels)),
    }
    require(fitting.channels == plan.channels, f"channels were reduced to {list(fitting.channels)}")
    return f"{_gib(cost.peak_bytes)} and {cost.seconds_per_step:.3g} s a step in {fitting.accumulate} parts"


def check_sampling(bench: Bench) -> str:
    """Samples of a snapshot are those of a CPU."""
    plan = bench.plan()
    with tempfile.TemporaryDirectory() as folder:
        save_snapshot(Path(folder), busy_state(plan, bench.device).average, plan, 0)
        mine, theirs = (load_generator(folder, device).sample(4, seed=1) for device in (bench.device, "cpu"))
    image = difference(torch.from_numpy(mine.image), torch.from_numpy(theirs.image), 0)
    label = float((mine.label != theirs.label).mean())
    bench.figures |= {"image": image, "share of labels": label}
    told = f"images differ from a CPU's by {image:.2g}, labels in {label:.2%} of the voxels"
    require(image <= SAMPLE_TOLERANCE and label <= LABEL_TOLERANCE, told)
    return told


def check_waiting(bench: Bench) -> str:
    """A plain step of a training that was continued does not wait for the device."""
    plan = bench.plan()
    state, batch = TrainingState.start(plan, bench.device), random_patches(plan)
    state.load_state_dict(train(busy_state(plan, bench.device), 1).state_dict())
    finish_step(state, take_step(state, *batch))
    with waiting_refused(bench.device):
        report = take_step(state, *batch)
    finish_step(state, report)
    if bench.device.type != "cuda":
        raise Skipped("only CUDA can refuse to wait; on a CPU, tests/test_no_waiting.py looks for operators that would")
    return "no wait in a plain step"


def check_processes(bench: Bench) -> str:
    """Two processes find the gradients that one finds, by NCCL on two GPUs."""
    if bench.device.type == "cuda" and bench.gpus < 2:
        raise Skipped("it takes two GPUs")
    plan = bench.plan("float32")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        started = [_start_process(rank, bench.device.type, plan, Path(folder), address) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]
        require(codes == [0, 0], f"the processes ended with codes {codes}, and said why on the terminal")
        first, second = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(2))
    require(all(torch.equal(first[name], second[name]) for name in first), "the processes differ from each other")
    error = compare_gradients(bench, first, gradients(plan, bench.device))
    require(error <= GRADIENT_TOLERANCE, f"gradients differ from those of one process by {error:.2g}")
    return f"gradients are equal in both processes, and differ from those of one process by {error:.2g}"


def check_launches(bench: Bench) -> str:
    """What a plain step asks of the device, as the profiler sees it."""
    plan, kind = bench.plan(), bench.device.type
    state, batch = train(busy_state(plan, bench.device), 2), random_patches(plan)
    activities = {torch.profiler.ProfilerActivity.CPU}
    activities |= {torch.profiler.ProfilerActivity.CUDA} if kind == "cuda" else set()
    started = time.perf_counter()
    take_step(state, *batch).read()
    seconds = time.perf_counter() - started
    with torch.profiler.profile(activities=activities) as profile:
        take_step(state, *batch).read()
    events = profile.events()
    operators = sum(event.name.startswith("aten::") for event in events)
    on_gpu = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in on_gpu) / 1e6
    bench.figures |= {"operators": operators, "kernels": len(on_gpu), "step, s": seconds, "kernels, s": busy}
    told = f"{operators} operators in {seconds:.3g} s"
    return f"{told}, {len(on_gpu)} kernels and copies, which take {busy:.3g} s" if kind == "cuda" else told


def check_speed(bench: Bench) -> str:
    """Times of ops, a step and sampling, beside those of plain PyTorch."""
    device, rounds = bench.device, bench.sizes.rounds
    for batch, channels, size in bench.sizes.op_shapes:
        for case in op_cases(batch, channels, size, device):
            for direction in PASSES:
                timing = compare_times(
                    *(op_pass(case, module, direction) for module in (ops, NATIVE_OPS)), rounds=rounds, device=device
                )
                bench.figures[f"{case.op}, {direction}, {'×'.join(map(str, size))}: times as fast"] = timing.ratio
    passes, slower = len(bench.figures), sum(ratio < 1 for ratio in bench.figures.values())
    plan = bench.plan()
    set_precision(plan)
    steps = measure_steps(plan, rounds=rounds, device=device)
    timings = {"step": steps.plain, "step with R1": steps.penalized}
    timings["sample"] = time_sampling(plan, plan.batch_size, rounds=rounds, device=device)
    for name, timing in timings.items():
        bench.figures |= {f"{name}, s": timing.ours, f"{name}: times as fast": timing.ratio}
    bench.figures["operations of a step"] = steps.operations[0]
    step, sample = (bench.figures[f"{name}: times as fast"] for name in ("step", "sample"))
    return (
        f"a step is {step:.2f} times as fast as plain PyTorch's, a sample {sample:.2f} times; of {passes} passes of "
        f"single ops, {slower} are slower"
    )


def check_memory(bench: Bench) -> str:
    """A step at 128³ with 4 channels fits, without fewer channels, in some number of parts."""
    plan = speed_plan(**bench.sizes.volume).model_copy(update={"precision": choose_precision(bench.device).value})
    fitting = []
    for parts in bench.sizes.parts:
        divided = plan.model_copy(update={"accumulate": parts})
        bench.figures[f"{parts} parts, estimate, bytes"] = training_bytes(divided, bench.device.type)
        try:
            cost = measure_step(divided, bench.device)
        except MemoryError:
            bench.figures[f"{parts} parts"] = "out of memory"
            continue
        bench.figures |= {f"{parts} parts, bytes": cost.peak_bytes, f"{parts} parts, s": cost.seconds_per_step}
        fitting.append(f"{_gib(cost.peak_bytes)} in {parts} parts")
    require(bool(fitting), "a step runs out of memory in any number of parts")
    return f"patch {'×'.join(map(str, plan.patch_size))}, channels {list(plan.channels)}: {', '.join(fitting)}"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "kernels": check_kernels,
    "step": check_step,
    "resume": check_resume,
    "graphs": check_graphs,
    "trial": check_trial,
    "sampling": check_sampling,
    "no waiting": check_waiting,
    "two processes": check_processes,
    "launches": check_launches,
    "speed": check_speed,
    "memory": check_memory,
}


def _listed(result: torch.Tensor | Iterable[torch.Tensor | None]) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [one for one in result if one is not None]


def _unmoved_state(plan: Plan, device: torch.device) -> TrainingState:
    """Without augmentation: no GPU repeats the gradient of a warp exactly, which later steps would magnify."""
    state = busy_state(plan, device)
    state.adaptive.p = 0.0
    return state


def _compare_trainings(bench: Bench, plan: Plan, steps: int, name: str, found: torch.Tensor) -> str:
    """How far the weights of a training are from those of an uninterrupted one."""
    straight, again = (weights(train(_unmoved_state(plan, bench.device), steps)) for _ in range(2))
    start = weights(_unmoved_state(plan, bench.device))
    way, twice, apart = ((straight - other).norm().item() for other in (start, again, found))
    allowed = max(RESUME_TOLERANCE * twice, 0.0 if bench.device.type == "cpu" else RESUME_FLOOR * way)
    bench.figures |= {"steps": steps, "way": way, "difference of two uninterrupted trainings": twice}
    bench.figures |= {f"difference of {name}": apart, "allowed": allowed}
    require(way > 0, "the weights did not change")
    told = f"after {steps} steps, weights differ by {apart / way:.2g} of their way; {allowed / way:.2g} is allowed"
    require(apart <= allowed, told)
    return told


def _start_process(rank: int, kind: str, plan: Plan, folder: Path, address: dict[str, str]) -> int:
    """Fork a process that finds its share of the gradients; returns its number."""
    if process := os.fork():
        return process
    code = 1
    try:
        os.environ |= address | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        device = torch.device(process_device(kind))
        with distributed_context(device) as distributed:
            torch.save(gradients(plan, device, distributed), folder / f"{rank}.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
