"""What happens to an activation between two convolutions: noise, bias, activation and gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes
SLOPES = {"linear": 1.0, "lrelu": 0.2}
GAINS = {"linear": 1.0, "lrelu": math.sqrt(2.0)}  # keep the variance approximately (He et al. 2015)


@dataclass(frozen=True)
class Epilogue:
    """`gain · GAINS[activation] · act(scale · x + strength · noise + bias)`.

    Attributes:
        bias: `[C]`; 0 if None.
        scale: `[N, C]`, not zero, such as the factors of demodulation; 1 if None.
        noise: `[N, 1, *spatial]`, shared by all channels (Karras et al. 2019, section 3.2); none if None.
        strength: scalar tensor, learnt factor of the noise.
        activation: a key of `GAINS`.
        gain: further constant factor, positive.
    """

    bias: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    strength: torch.Tensor | None = None
    activation: str = "linear"
    gain: float = 1.0

    @property
    def slope(self) -> float:
        """Slope of the activation below zero."""
        return SLOPES[self.activation]

    @property
    def factor(self) -> float:
        """Product of both gains."""
        return GAINS[self.activation] * self.gain

    @property
    def needs_noise_gradient(self) -> bool:
        """Whether a gradient for the noise is needed, which the kernels do not provide."""
        return self.noise is not None and self.noise.requires_grad

    def check(self, shape: torch.Size, dtype: torch.dtype) -> None:
        """Refuse what does not fit a result of this shape and type.

        Raises:
            ValueError: an unknown activation, a gain that is not positive, or a tensor of another shape.
            TypeError: a tensor that is neither of the result's type nor float32.
        """
        if self.activation not in GAINS:
            raise ValueError(f"unknown activation {self.activation!r}; known: {', '.join(GAINS)}")
        if not self.gain > 0:
            raise ValueError(f"gain must be positive, not {self.gain}")
        if (self.noise is None) != (self.strength is None):
            raise ValueError("noise and strength go together: one is missing")
        expected = {
            "bias": (self.bias, (shape[1],)),
            "scale": (self.scale, (shape[0], shape[1])),
            "noise": (self.noise, (shape[0], 1, *shape[2:])),
            "strength": (self.strength, ()),
        }
        for name, (tensor, size) in expected.items():
            if tensor is None:
                continue
            if tensor.shape != size:
                raise ValueError(f"{name} must be {list(size)} for x of {list(shape)}, not {list(tensor.shape)}")
            if tensor.dtype not in (dtype, torch.float32):
                raise TypeError(f"{name} is {tensor.dtype} and x is {dtype}: it must be that, or torch.float32")

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The definition, in plain PyTorch; x: `[N, C, *spatial]`."""
        ones = [1] * (x.ndim - 2)
        if self.scale is not None:
            x = x * self.scale.to(x.dtype).reshape(*self.scale.shape, *ones)
        if self.noise is not None:
            x = x + (self.noise * self.strength).to(x.dtype)
        if self.bias is not None:
            x = x + self.bias.to(x.dtype).reshape(1, -1, *ones)
        if self.slope != 1.0:
            x = F.leaky_relu(x, self.slope)
        return x * self.factor if self.factor != 1.0 else x


IDENTITY = Epilogue()


def check_activations(x: torch.Tensor, *, least_rank: int = 2) -> None:
    """Refuse tensors that no backend takes.

    Raises:
        ValueError: a rank other than that of `[N, C]` to `[N, C, D, H, W]`, or voxels that are not dense in memory.
        TypeError: not a floating-point type.
    """
    if not least_rank <= x.ndim <= 5:
        raise ValueError(f"x must have {least_rank} to 5 axes, [N, C, *spatial], not {list(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"x is {x.dtype}; known: float32, float64, bfloat16, float16")
    if not (x.is_contiguous() or is_channels_last(x)):
        raise ValueError(f"x of strides {x.stride()} is neither contiguous nor channels_last: call x.contiguous()")


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether x is channels_last in memory and not also contiguous."""
    last = CHANNELS_LAST.get(x.ndim)
    return last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last)


def layout_of(x: torch.Tensor) -> torch.memory_format:
    """The layout of activations that `check_activations` accepts."""
    return CHANNELS_LAST[x.ndim] if is_channels_last(x) else torch.contiguous_format
