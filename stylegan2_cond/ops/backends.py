"""Which backend computes an op: compiled kernels for the CPU or CUDA where available, plain PyTorch everywhere."""

from __future__ import annotations

import os
import sys
from functools import cache

import torch

from stylegan2_cond.errors import UserError
from stylegan2_cond.ops.bindings import Library, find_library
from stylegan2_cond.ops.self_test import find_difference

VARIABLE = "STYLEGAN2_COND_OPS"
NATIVE, AUTO = "native", "auto"
COMPILED = ("cuda", "cpu")
BACKENDS = (AUTO, *COMPILED, NATIVE)


class UnknownBackend(UserError, ValueError):
    """The name of a backend, which may come from the environment, is unknown."""


class MissingBackend(UserError, RuntimeError):
    """A backend that was requested by name is not available."""


@torch.compiler.assume_constant_result
def choose_backend(device: str, requested: str | None = None) -> str:
    """The backend for tensors of a device.

    Args:
        device: type: `cpu`, `cuda` or another.
        requested: one of `BACKENDS`; if None, the value of `STYLEGAN2_COND_OPS`, or else `auto`. `auto` uses kernels
            that pass a self-test when they are loaded. `cpu` and `cuda` apply to tensors of these devices; tensors of
            other devices are computed by `native`.

    Raises:
        UnknownBackend: the name is unknown.
        MissingBackend: the backend was requested by name and is not available.
    """
    requested = requested or os.environ.get(VARIABLE) or AUTO
    if requested not in BACKENDS:
        raise UnknownBackend(
            f"unknown backend {requested!r} of the ops; known: {', '.join(BACKENDS)}. It is chosen by {VARIABLE}."
        )
    if device not in COMPILED or requested not in (AUTO, device):
        return NATIVE
    found = find_library(device)
    if isinstance(found, Library):
        return device if requested == device or not _refuse(found, device) else NATIVE
    if requested == device:
        raise MissingBackend(f"The {device} ops were requested by name, but {found}")
    return NATIVE


def describe_backend(device: str) -> str:
    """The backend for tensors of a device and, where it is not the one that tests have confirmed, the reason."""
    chosen, requested = choose_backend(device), os.environ.get(VARIABLE) or AUTO
    if requested != AUTO and device in COMPILED:
        return f"{chosen} ({VARIABLE}={requested})"
    if chosen == "cuda":  # no GPU had run its kernels when they were released
        return "cuda, compiled kernels: each was tried on this GPU, and computes what plain PyTorch does"
    if chosen != NATIVE or device not in COMPILED:
        return chosen
    found = find_library(device)
    reason = _refuse(found, device) if isinstance(found, Library) else found
    return f"{NATIVE}, plain PyTorch: {reason}"


def name_backend(device: str) -> str:
    """Device and backend as records name them: `cpu compiled`, `cuda native`. The two kinds round differently."""
    return f"{device} {NATIVE if choose_backend(device) == NATIVE else 'compiled'}"


@cache
def _refuse(library: Library, device: str) -> str:
    """Why `auto` does not use a library, printed once; empty if it does."""
    reason = find_difference(device)
    if reason:
        print(f"The {device} ops are not used, since {reason}.", file=sys.stderr, flush=True)
    return reason
