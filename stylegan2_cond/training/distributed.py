"""Processes that train together: this one's share of a batch, and means over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from stylegan2_cond.errors import UserError

TIMEOUT = timedelta(hours=12)  # for a process that waits while the main one reads all cases or evaluates a snapshot


@dataclass(frozen=True)
class DistributedContext:
    """Processes that train one generator together, each on its share of every batch; started by torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """The samples of a batch that this process computes.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        if batch_size % self.size:
            raise UserError(f"batch_size {batch_size} can't be divided among {self.size} processes. Choose a multiple.")
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def average(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors by their mean over all processes, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor(float(flag), device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def process_device(name: str) -> str:
    """The device of this process: `cuda` becomes the GPU with the process's number on its machine.

    Call it before any device is used, since each used device takes half a GiB.

    Raises:
        UserError: several processes of this machine would share one GPU.
    """
    if _processes() == 1 or not name.startswith("cuda"):
        return name
    if name == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) > 1:
        raise UserError(f"--device {name} puts all processes of torchrun on one GPU. Use --device cuda: one GPU each.")
    return name


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, if any; at the end, wait until all are done.

    Args:
        device: of this process, as `process_device` names it.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if _processes() == 1:
        yield DistributedContext()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        context = DistributedContext(dist.get_rank(), dist.get_world_size())
        yield context
        context.barrier()
    finally:
        dist.destroy_process_group()


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
