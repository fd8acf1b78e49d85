"""Copies to a device that do not wait for what it computes."""

from __future__ import annotations

from functools import cache

import torch


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A vector of numbers on a device, where it was copied once and stays; it must not be changed."""
    return torch.tensor(values, dtype=dtype, device=device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; to a GPU from pinned memory, as copies from other memory wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
