"""In place of CUDA graphs: operators that are recorded and run again on the same memory, without Python's part."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from stylegan2_cond.ops import autograd
from stylegan2_cond.training import state, step_graphs


class Tape(TorchDispatchMode):
    """Operators and kernels in the order of their calls, with the tensors that they read and wrote."""

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        self.calls.append((operator, arguments, options or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        """Call all of them again; each result takes the place of the first one."""
        self.replays += 1
        for operator, arguments, options, before in self.calls:
            result = operator(*arguments, **options)
            returns = operator._schema.returns if isinstance(operator, torch._ops.OpOverload) else ()
            if any(one.alias_info is not None for one in returns):
                continue  # a view, or what was written in place
            for old, new in zip(tree_leaves(before), tree_leaves(result), strict=True):
                if isinstance(new, torch.Tensor):
                    old.copy_(new)

    def pool(self):
        return None


class Recorder:
    """In place of `CudaRecorder`."""

    tapes: ClassVar[list[Tape]] = []

    def __init__(self, device):
        pass

    def warm_up(self, work):
        return work()

    def record(self, work, pool):
        with Tape() as tape:
            result = work()
        self.tapes.append(tape)
        return tape, result


def use_tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Record on tapes, after one step of each kind; returns the list in which they will be."""
    call = autograd._call

    def noted(*arguments):  # kernels are called by plain pointers, past PyTorch
        call(*arguments)
        if isinstance(mode := _get_current_dispatch_mode(), Tape):
            mode.calls.append((call, arguments, {}, None))

    monkeypatch.setattr(step_graphs, "WARM_UP", 1)
    monkeypatch.setattr(autograd, "_call", noted)
    monkeypatch.setattr(state, "CudaRecorder", Recorder)
    Recorder.tapes.clear()
    return Recorder.tapes
