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
    """`gain · GAINS[activation] · act(scale · x + strength · noise + bias)`; differentiates twice.

    The backward pass keeps the result instead of x: it tells the sign of what went into the activation.

    Args:
        x: `[N, C, *spatial]` or `[N, C]`, contiguous or channels_last.
        bias, scale, noise, strength, activation, gain: as for `Epilogue`.
        overwrite: nobody needs x any more, so that the result may take its place where no gradient is wanted.
        backend: `auto`, `cuda`, `cpu` or `native`; what the environment says, when None.

    Returns:
        like x, in its type and layout.

    Raises:
        ValueError: shapes, layout, activation or gain that can't be.
        TypeError: types that do not go together.
    """
    epilogue = Epilogue(bias, scale, noise, strength, activation, gain)
    return apply_epilogue(x, epilogue, backend, overwrite=overwrite)


def apply_epilogue(
    x: torch.Tensor, epilogue: Epilogue, backend: str | None = None, *, overwrite: bool = False
) -> torch.Tensor:
    """`bias_act` of an epilogue that is given whole."""
    check_activations(x)
    epilogue.check(x.shape, x.dtype)
    if choose_backend(x.device.type, backend) == NATIVE or asks_for_more(epilogue):
        return epilogue.apply(x)
    return fused_bias_act(x, epilogue, overwrite=overwrite and not torch.is_grad_enabled())


def asks_for_more(epilogue: Epilogue) -> bool:
    """Whether a gradient is wanted that kernels do not compute: nobody learns the noise."""
    return epilogue.noise is not None and epilogue.noise.requires_grad
