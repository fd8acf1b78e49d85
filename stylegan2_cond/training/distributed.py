"""One process or many: which part of a batch is mine, and the mean over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from stylegan2_cond.errors import UserError

PATIENCE = timedelta(hours=12)  # of a process that waits while the leader reads all cases, or judges a snapshot


@dataclass(frozen=True)
class DistributedContext:
    """Processes that train one generator together, each on its share of every batch; started by torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which samples of a batch are this process's.

        Raises:
            UserError: the batch can't be divided evenly.
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
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def agree(self, wish: bool, device: torch.device) -> bool:
        """Whether any process wishes so."""
        if self.size == 1:
            return wish
        flag = torch.tensor(float(wish), device=device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def process_device(name: str) -> str:
    """The device of this process: `cuda` is the one of the same number as the process has on its machine.

    To be asked before any device is touched, since each that is takes half a GiB.

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


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """The processes that torchrun started; a world of one without it.

    They part when all are done, so that what the one that leads has written is there for each.

    Args:
        device: this process's own, as `process_device` names it.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if _processes() == 1:
        yield DistributedContext()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        world = DistributedContext(distributed.get_rank(), distributed.get_world_size())
        yield world
        world.wait()
    finally:
        distributed.destroy_process_group()
