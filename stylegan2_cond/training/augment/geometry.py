"""Geometry, which moves image and mask together: one affine matrix a sample, read once by linear interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stylegan2_cond.training.augment.parameters import Shapes
from stylegan2_cond.training.augment.strengths import ROTATION, SHIFT, STRETCH, ZOOM

PADDING = "reflection"  # what lies beyond the patch: anatomy goes on, where `border` smears and `zeros` frames it


def geometry_numbers(dims: int) -> tuple[Shapes, Shapes]:
    """The uniform and the normal numbers that one sample takes."""
    uniform = {"geometry_coins": (4,), "flip_coins": (dims,), "angle": ()}
    normal = {"plane": (dims, dims), "zoom": (), "stretch": (dims,), "shift": (dims,)}
    return uniform, normal


def draw_geometry(
    numbers: dict[str, torch.Tensor],
    p: float,
    patch_size: Sequence[int],
    flips: Sequence[bool],
    spacing: Sequence[float],
) -> dict[str, torch.Tensor]:
    """`moved` and `warp` of a batch, by the numbers drawn for it.

    Where its coin falls, an axis that may be flipped is so every second time (Karras et al. 2020b, Appendix B).
    """
    coins = numbers["geometry_coins"] < p
    turned, zoomed, stretched, shifted = coins.float().unsqueeze(-1).unbind(dim=1)  # [N, 1] each
    flipped = (numbers["flip_coins"] < p / 2) & torch.tensor(flips, device=coins.device)
    angle = turned[:, 0] * math.radians(ROTATION) * numbers["angle"]  # either way round, as the plane is
    stretch = numbers["stretch"] - numbers["stretch"].mean(dim=1, keepdim=True)
    scale = torch.exp(zoomed * ZOOM * numbers["zoom"].unsqueeze(1) + stretched * STRETCH * stretch)
    warp = affine_warp(
        rotation_matrix(numbers["plane"], angle),
        torch.where(flipped, -scale, scale),
        shifted * SHIFT * numbers["shift"],
        patch_size,
        spacing,
    )
    return {"moved": coins.any(dim=1) | flipped.any(dim=1), "warp": warp}


def rotation_matrix(plane: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotations by `angle` `[N]`, radians, in the plane that `plane` `[N, D, D]` less its transpose spans, D = 2 or 3.

    Rodrigues' formula; of normal numbers, the plane is any in 3-D with equal probability, and the only one in 2-D.

    Returns:
        `[N, D, D]`.
    """
    skew = plane - plane.mT
    skew = skew / skew.square().sum(dim=(1, 2), keepdim=True).div(2).sqrt().clamp_min(1e-12)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(plane.shape[-1], device=plane.device) + sine * skew + (1 - cosine) * (skew @ skew)


def affine_warp(
    rotation: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    patch_size: Sequence[int],
    spacing: Sequence[float],
) -> torch.Tensor:
    """The warp that shows a picture scaled along its axes, then turned about its middle, then shifted.

    Args:
        rotation: `[N, D, D]`, axes in the patch's order.
        scale: `[N, D]`; negative to flip.
        shift: `[N, D]`, as a share of each axis.
        patch_size: spatial size.
        spacing: of the voxels; only its ratios matter.

    Returns:
        `[N, D, D + 1]`, from places in what is shown to places in the picture, both from -1 to 1 along each axis, the
        last axis first, as `F.affine_grid` has them.
    """
    half = torch.tensor(
        [length * step / 2 for length, step in zip(patch_size, spacing, strict=True)], device=scale.device
    )
    linear = rotation.mT / scale.unsqueeze(2)  # inverse of rotation · diag(scale)
    linear = linear * half / half.unsqueeze(1)
    offset = -(linear * (2 * shift).unsqueeze(1)).sum(dim=2, keepdim=True)  # the axis is 2 long
    return torch.cat([linear.flip(1, 2), offset.flip(1)], dim=2)


def resample(pairs: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
    """Pairs `[N, C + K, *spatial]` as `warp` `[N, D, D + 1]` shows them, mirrored beyond the patch.

    Linear interpolation with weights that sum to one: what summed to one over the label channels still does.
    """
    grid = F.affine_grid(warp, list(pairs.shape), align_corners=False)
    return _Resample.apply(pairs, grid)


def _read(pairs: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(pairs, grid, padding_mode=PADDING, align_corners=False)


class _Resample(torch.autograd.Function):
    """`F.grid_sample`, whose own second derivative older releases of torch lack (2.5 does).

    It is linear in the pairs, so its derivative is its transpose, and the derivative of that is itself.
    """

    @staticmethod
    def forward(ctx, pairs: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        return _read(pairs, grid)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Transposed.apply(gradient, *ctx.saved_tensors), None


class _Transposed(torch.autograd.Function):
    """From the gradient of what is shown to that of the pairs."""

    @staticmethod
    def forward(ctx, gradient: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():  # of a linear function, at any point
            pairs = torch.zeros_like(gradient, requires_grad=True)
            shown = _read(pairs, grid)
        return torch.autograd.grad(shown, pairs, gradient)[0]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Resample.apply(gradient, *ctx.saved_tensors), None
