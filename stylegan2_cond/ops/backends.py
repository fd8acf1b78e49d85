"""Which backend computes an op: kernels for the CPU or for CUDA where they are built, plain PyTorch everywhere."""

from __future__ import annotations

import os
import sys
from functools import cache

import torch

from stylegan2_cond.errors import UserError
from stylegan2_cond.ops.bindings import Library, find_library

VARIABLE = "STYLEGAN2_COND_OPS"
NATIVE, AUTO = "native", "auto"
COMPILED = ("cuda", "cpu")
BACKENDS = (AUTO, *COMPILED, NATIVE)


class UnknownBackend(UserError, ValueError):
    """A name that no backend has; it may stand in the environment, where a user mends it."""


class MissingBackend(UserError, RuntimeError):
    """A backend that was asked for by name, and is not there."""


@torch.compiler.assume_constant_result
def choose_backend(device: str, wanted: str | None = None) -> str:
    """The backend for tensors of a device; `auto` takes kernels that compute what `native` does, tried when loaded.

    Args:
        device: type, `cpu`, `cuda` or another.
        wanted: a name out of `BACKENDS`; what the environment's `STYLEGAN2_COND_OPS` says, or else `auto`, when None.
            `cpu` and `cuda` are for tensors of these devices, others are computed by `native`.

    Raises:
        UnknownBackend: the name is not known.
        MissingBackend: the backend was asked for by name, and is not there.
    """
    wanted = wanted or os.environ.get(VARIABLE) or AUTO
    if wanted not in BACKENDS:
        raise UnknownBackend(
            f"unknown backend {wanted!r} of the ops; known: {', '.join(BACKENDS)}. It is chosen by {VARIABLE}."
        )
    if device not in COMPILED or wanted not in (AUTO, device):
        return NATIVE
    found = find_library(device)
    if isinstance(found, Library):
        return device if wanted == device or not _difference(found, device) else NATIVE
    if wanted == device:
        raise MissingBackend(f"The {device} ops were asked for by name, but {found}")
    return NATIVE


def describe_backend(device: str) -> str:
    """The backend for tensors of a device, and what keeps kernels from it."""
    chosen = choose_backend(device)
    if chosen != NATIVE or device not in COMPILED:
        return chosen
    if (wanted := os.environ.get(VARIABLE) or AUTO) != AUTO:
        return f"{NATIVE} ({VARIABLE}={wanted})"
    found = find_library(device)
    reason = _difference(found, device) if isinstance(found, Library) else found
    return f"{NATIVE}, plain PyTorch: {reason}"


@cache
def _difference(library: Library, device: str) -> str:
    """Why `auto` does not take these kernels, which a user is told once; empty where it does."""
    from stylegan2_cond.ops.trying import difference  # which itself calls ops

    found = difference(library, device)
    if found:
        print(f"The {device} ops are not used, since {found}.", file=sys.stderr, flush=True)
    return found


def name_backend(device: str) -> str:
    """Device and backend, as records keep them: `cpu compiled`, `cuda native`; two that differ round differently."""
    return f"{device} {NATIVE if choose_backend(device) == NATIVE else 'compiled'}"
