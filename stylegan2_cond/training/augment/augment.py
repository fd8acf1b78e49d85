"""Augmentation of pairs: geometry on image and mask together, then intensity on the image alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stylegan2_cond.training.augment.geometry import draw_geometry, geometry_numbers, resample
from stylegan2_cond.training.augment.intensity import draw_intensity, intensity_numbers, recolour
from stylegan2_cond.training.augment.parameters import AugmentParameters, draw_numbers


class Augment:
    """Augments `[N, C + K, *spatial]`, any number of image channels C and label channels K, 2-D or 3-D.

    Args:
        image_channels: C; 0 for masks alone.
        spatial_dims: 2 or 3.
        flips: the axes that may be flipped, in the patch's order; none if not given, since anatomy has sides.
        spacing: of the voxels, in the patch's order; only its ratios matter. Without it, rotations are those of cubic
            voxels, which shears the anatomy of thick slices: 10° tilt slices that are five times as thick as their
            pixels are wide by 41°.

    Raises:
        ValueError: `flips` or `spacing` of another number of axes.
    """

    def __init__(
        self,
        image_channels: int,
        spatial_dims: int,
        *,
        flips: Sequence[bool] | None = None,
        spacing: Sequence[float] | None = None,
    ):
        self.image_channels = image_channels
        self.spatial_dims = spatial_dims
        self.flips = tuple(flips or (False,) * spatial_dims)
        self.spacing = tuple(spacing or (1.0,) * spatial_dims)
        if not len(self.flips) == len(self.spacing) == spatial_dims:
            raise ValueError(f"flips {self.flips} and spacing {self.spacing} must name {spatial_dims} axes each")

    def draw(
        self, count: int, p: float, patch_size: Sequence[int], rng: torch.Generator, device: torch.device | str
    ) -> AugmentParameters:
        """What is to be done to `count` pairs, each augmentation with probability `p`.

        Sample after sample: any part of a large batch can be drawn whole and sliced, and one batch drawn in several
        calls is the same.

        Args:
            count: N.
            p: between 0 and 1; from 0.8 or so on, augmentations leak.
            patch_size: spatial size.
            rng: on any device; numbers are drawn there, and no fewer where `p` is small.
            device: where the parameters are to lie.
        """
        geometry, intensity = geometry_numbers(self.spatial_dims), intensity_numbers(self.image_channels, patch_size)
        uniform, normal = ({**mine, **theirs} for mine, theirs in zip(geometry, intensity, strict=True))
        numbers = draw_numbers(count, uniform, normal, rng)
        with torch.autocast(rng.device.type, enabled=False):
            tensors = {
                **draw_geometry(numbers, p, patch_size, self.flips, self.spacing),
                **draw_intensity(numbers, p),
            }
        return AugmentParameters(**{name: tensor.to(device) for name, tensor in tensors.items()})

    def __call__(self, pairs: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        """Augmented pairs `[N, C + K, *spatial]`, of the same type; differentiable twice with respect to `pairs`.

        Computed in float32 at least. What no coin fell for comes out bit for bit; where none fell at all, it is the
        very tensor.
        """
        moved, recoloured = bool(parameters.moved.any()), bool(parameters.recoloured.any())
        if not (moved or recoloured):
            return pairs
        with torch.autocast(pairs.device.type, enabled=False):
            result = pairs.to(torch.promote_types(pairs.dtype, torch.float32))
            if moved:
                rows = parameters.moved.nonzero().squeeze(1)
                result = result.index_copy(0, rows, resample(result[rows], parameters.warp[rows].to(result.dtype)))
            if recoloured:
                image, label = result.tensor_split([self.image_channels], dim=1)
                result = torch.cat([recolour(image, parameters), label], dim=1)
        return result.to(pairs.dtype)
