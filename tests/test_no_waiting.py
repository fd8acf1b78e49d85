"""A plain step never waits for the device: nothing in it depends on what the device has computed."""

import numpy as np
import pytest
import torch
from tiny import PAIRED, tiny_patches, tiny_plan, tiny_state
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan2_cond.training.augment.adaptive import LARGEST_P
from stylegan2_cond.training.step import finish_step, take_step

# Operators whose result, or its size, the CPU must know before it can go on.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "bincount", "item")
# Methods that copy to the CPU, and wait; on a CPU, where this test runs, they call no operator.
COPIES = ("tolist", "cpu", "numpy", "__array__")


class Waits(TorchDispatchMode):
    """Records operators that wait, and indexing by booleans, which counts them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator.overloadpacket.__name__
        booleans = name in ("index", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in arguments[1]
        )
        if name in WAITS or booleans:
            self.found.append(name)
        return operator(*arguments, **(options or {}))


class Copies(TorchFunctionMode):
    """Records copies to the CPU, but for those of booleans: the augmentation's coins, which lie there on any device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, "__name__", "") in COPIES and arguments[0].dtype != torch.bool:
            self.found.append(function.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", ["pair", "mask", "image"])
def test_no_step_waits_for_what_the_device_computes(variant, dims):
    plan = tiny_plan(
        variant, dims, ignore=5, apart_share=0.3, augment_target=0.0, **(PAIRED if variant == "image" else {})
    )
    state = tiny_state(plan)
    state.adaptive.p = LARGEST_P
    batch = tiny_patches(plan.patch_size, 0, plan.batch_size)
    first = take_step(state, *batch)  # with penalties; constants are copied
    with Copies() as copies, Waits() as waits:
        second = take_step(state, *batch)
    assert not waits.found
    assert copies.found == ["cpu"]  # of the report, which is copied from a GPU without waiting
    assert finish_step(state, first)["r1"] > 0
    assert "r1" not in finish_step(state, second)


def test_what_waits_is_noticed():
    x = torch.arange(4.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: x.nonzero(),
        lambda: bool(x.any()),
        lambda: x[x > 1],
        lambda: torch.unique(x),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x.numpy(),
        lambda: np.asarray(x),
    ):
        with Copies() as copies, Waits() as waits:
            wait()
        assert waits.found + copies.found
