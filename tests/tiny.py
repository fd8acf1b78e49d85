"""A plan whose networks take a step in milliseconds, and patches made up for it: no dataset, no nnU-Net."""

from __future__ import annotations

import numpy as np
import torch
from tolerance import rounding
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.planning import Plan, Source
from stylegan2_cond.training.state import TrainingState
from stylegan2_cond.training.step import finish_step, take_step

PATCHES = {2: ((8, 6), ((2, 2),)), 3: ((4, 6, 4), ((1, 2, 2),))}  # patch and factors
IGNORE = 5
PAIRED = {"feature_weight": 1.0, "l1_weight": 1.0}  # for the variant `image`


def tiny_plan(variant: str = "pair", dims: int = 2, *, ignore: int | None = None, **changes: object) -> Plan:
    """Two image channels, labels 0, 1, 2 and OUTSIDE; conditions of two classes, and of the position in 2-D."""
    patch_size, factors = PATCHES[dims]
    _, label, position = tiny_patches(patch_size, 0, 64)
    codec = Codec(low=(-1.0, 0.0), high=(1.0, 2.0), labels=(0, 1, 2, OUTSIDE), outside=(-1.0, 0.0), ignore=ignore)
    plan = Plan(
        variant=variant,
        source=Source(
            dataset_name="Dataset900_Tiny",
            plans_name="nnUNetPlans",
            configuration="2d",
            data_identifier="tiny",
            preprocessing="tiny",
            fold="0",
            training_cases=("tiny",),
            training_sha256=("0" * 64,),
        ),
        patch_size=patch_size,
        spacing=(1.0,) * dims,
        factors=factors,
        channels=(8, 6),
        codec=codec if variant != "mask" else codec.model_copy(update={"low": (), "high": (), "outside": None}),
        conditions=Conditions.from_patches((1, 2), label, position if dims == 2 else None),
        latent_dim=6,
        style_dim=6,
        mapping_layers=2,
        apart_share=0.0,
        foreground_share=0.5,
        batch_size=8,
        accumulate=1,
        precision="float32",
        learning_rate=0.0025,
        r1_weight=1.0,
        r1_interval=16,
        feature_weight=0.0,
        l1_weight=0.0,
        ema_share=0.05,
        augment_target=None,
        augment_kimg=100.0,
        kimg=200.0,
        seed=0,
    )
    return plan.model_copy(update=changes)


def tiny_patches(patch_size: tuple[int, ...], first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches `first` ff.: image `[N, 2, *spatial]`, label `[N, *spatial]` with blocks of classes, position `[N]`."""
    drawn = []
    for index in range(first, first + count):
        rng = np.random.default_rng([900, index])
        label = rng.choice([0, 0, 1, 2, OUTSIDE], [-(-length // 2) for length in patch_size])
        for axis, length in enumerate(patch_size):
            label = label.repeat(2, axis=axis).take(range(length), axis=axis)
        image = label + rng.normal(0, 0.3, (2, *patch_size))
        drawn.append((np.where(label == OUTSIDE, [[[-1.0]], [[0.0]]], image) if len(patch_size) == 2 else image, label))
    image, label = (np.stack(parts) for parts in zip(*drawn, strict=True))
    position = (np.arange(first, first + count) % 7 + 0.5) / 7
    return image.astype(np.float32), label.astype(np.int16), position.astype(np.float32)


def tiny_state(plan: Plan, distributed: object = None, *, descent: float | None = None) -> TrainingState:
    """A fresh state; with `descent`, plain gradient descent takes Adam's place, and weights tell gradients apart."""
    state = TrainingState.start(plan, torch.device("cpu"), distributed)
    for network in (state.generator, state.average):  # noise is drawn from the start
        for conv in network.synthesis.convs:
            conv.noise_strength.data.fill_(0.5)
    if descent is not None:
        state.generator_optimizer = torch.optim.SGD(state.generator.parameters(), lr=descent)
        state.discriminator_optimizer = torch.optim.SGD(state.discriminator.parameters(), lr=descent)
    return state


def step(state: TrainingState) -> dict[str, float]:
    """One step on the next patches, of which this process takes its share."""
    plan, share = state.plan, state.distributed.share(state.plan.batch_size)
    batch = (part[share] for part in tiny_patches(plan.patch_size, state.images_seen, plan.batch_size))
    return finish_step(state, take_step(state, *batch))


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    """Copies of all weights of generator, discriminator and average."""
    networks = {"generator": state.generator, "discriminator": state.discriminator, "average": state.average}
    return {f"{n}.{k}": value.detach().clone() for n, net in networks.items() for k, value in net.state_dict().items()}


def assert_same_way(found: dict, expected: dict, start: dict, *, tolerance: float = 1e-3) -> None:
    """Both went the same way from the start: the difference is small beside the longest way of each tensor.

    Next to it, each of a few updates rounds the weights themselves.
    """
    assert found.keys() == expected.keys()
    moved = [name for name, end in expected.items() if not torch.equal(end, start[name])]
    assert len(moved) > 0.9 * len(expected)
    for name, end in expected.items():
        longest = (end - start[name]).abs().max()
        assert (found[name] - end).abs().max() <= tolerance * longest + rounding(4, end.abs().max()), name


class Operations(TorchDispatchMode):
    """The operations that reach the kernels, and the types that they compute in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen += [(function.overloadpacket.__name__, x.dtype) for x in args if isinstance(x, torch.Tensor)]
        return function(*args, **kwargs or {})

    def types(self, *names):
        return {dtype for name, dtype in self.seen if name in names}
