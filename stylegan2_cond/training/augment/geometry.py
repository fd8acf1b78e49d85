"""Geometry of image and mask together: one affine matrix per sample, applied by one linear interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stylegan2_cond.training.augment.parameters import ROTATION, SHIFT, STRETCH, ZOOM, Shapes

PADDING = "reflection"  # beyond the patch anatomy continues, where `border` smears it and `zeros` frames it


def geometry_shapes(dims: int) -> tuple[Shapes, Shapes]:
    """Shapes of the uniform and of the normal numbers that one sample needs."""
    uniform = {"geometry_chances": (4,), "angle": ()}
    normal = {"plane": (dims, dims), "zoom": (), "stretch": (dims,), "shift": (dims,)}
    return uniform, normal


def sample_geometry(
    numbers: dict[str, torch.Tensor], p: float, patch_size: Sequence[int], spacing: Sequence[float]
) -> dict[str, torch.Tensor]:
    """`moved` and `warp` of a batch, from the random numbers of `geometry_shapes`.

    Unlike in Karras et al. 2020b, nothing is flipped, since anatomy has sides.
    """
    applied = numbers["geometry_chances"] < p
    turned, zoomed, stretched, shifted = applied.float().unsqueeze(-1).unbind(dim=1)  # [N, 1] each
    angle = turned[:, 0] * math.radians(ROTATION) * numbers["angle"]
    stretch = numbers["stretch"] - numbers["stretch"].mean(dim=1, keepdim=True)
    scale = torch.exp(zoomed * ZOOM * numbers["zoom"].unsqueeze(1) + stretched * STRETCH * stretch)
    warp = affine_warp(
        rotation_matrix(numbers["plane"], angle),
        scale,
        shifted * SHIFT * numbers["shift"],
        patch_size,
        spacing,
    )
    return {"moved": applied.any(dim=1), "warp": warp}


def rotation_matrix(plane: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotations, by Rodrigues' formula.

    Args:
        plane: `[N, D, D]`, D = 2 or 3; the plane of rotation is the one that `plane` minus its transpose spans. For
            normal numbers, all planes of 3-D are equally likely; 2-D has only one.
        angle: `[N]`, in radians.

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
    """The warp that scales an image along its axes, then rotates it about its centre, then shifts it.

    Args:
        rotation: `[N, D, D]`, axes in the patch's order.
        scale: `[N, D]`; negative to flip.
        shift: `[N, D]`, as a fraction of each axis.
        patch_size: spatial size.
        spacing: of the voxels; only ratios matter.

    Returns:
        `[N, D, D + 1]`, from places of the result to places of the image, both from -1 to 1 along each axis, last axis
        first, as `F.affine_grid` takes them.
    """
    half = torch.tensor(
        [length * step / 2 for length, step in zip(patch_size, spacing, strict=True)], device=scale.device
    )
    linear = rotation.mT / scale.unsqueeze(2)  # inverse of rotation · diag(scale)
    linear = linear * half / half.unsqueeze(1)
    offset = -(linear * (2 * shift).unsqueeze(1)).sum(dim=2, keepdim=True)  # an axis is 2 long
    return torch.cat([linear.flip(1, 2), offset.flip(1)], dim=2)


def resample(pairs: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
    """Pairs `[N, C + K, *spatial]` warped by `warp` `[N, D, D + 1]`, mirrored beyond the patch.

    The weights of linear interpolation sum to one, so label channels that sum to one still do.
    """
    return _Resample.apply(pairs, F.affine_grid(warp, list(pairs.shape), align_corners=False))


def _read(pairs: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(pairs, grid, padding_mode=PADDING, align_corners=False)


class _Resample(torch.autograd.Function):
    """`F.grid_sample` with the second derivative, which torch 2.6 still lacks.

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
    """From the gradient of the result to that of the pairs."""

    @staticmethod
    def forward(ctx, gradient: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():  # the gradient of a linear function, at any point
            pairs = torch.zeros_like(gradient, requires_grad=True)
            shown = _read(pairs, grid)
        return torch.autograd.grad(shown, pairs, gradient)[0]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Resample.apply(gradient, *ctx.saved_tensors), None
