"""Noise, bias, activation and gain in one pass over an activation."""

from __future__ import annotations

import torch

from stylegan2_cond.ops.autograd import fused_bias_act
from stylegan2_cond.ops.backends import NATIVE, choose_backend
from stylegan2_cond.ops.epilogue import Epilogue, check_activations


def bias_act(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    strength: torch.Tensor | None = None,
    activation: str = "lrelu",
    gain: float = 1.0,
    overwrite: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """`gain · GAINS[activation] · act(scale · x + strength · noise + bias)`; twice differentiable.

    The backward pass needs the result only, not x: it has the sign of the activation's argument.

    Args:
        x: `[N, C, *spatial]` or `[N, C]`, contiguous or channels_last.
        bias, scale, noise, strength, activation, gain: as for `Epilogue`.
        overwrite: x may be overwritten in place where no gradient is needed.
        backend: `auto`, `cuda`, `cpu` or `native`; if None, what the environment says.

    Returns:
        like x, in its type and layout.

    Raises:
        ValueError: invalid shape, layout, activation or gain.
        TypeError: incompatible types.
    """
    return apply_epilogue(x, Epilogue(bias, scale, noise, strength, activation, gain), backend, overwrite=overwrite)


def apply_epilogue(
    x: torch.Tensor, epilogue: Epilogue, backend: str | None = None, *, overwrite: bool = False
) -> torch.Tensor:
    """`bias_act` with its parameters in one record."""
    check_activations(x)
    epilogue.check(x.shape, x.dtype)
    if choose_backend(x.device.type, backend) == NATIVE or epilogue.needs_noise_gradient:
        return epilogue.apply(x)
    return fused_bias_act(x, epilogue, overwrite=overwrite and not torch.is_grad_enabled())
