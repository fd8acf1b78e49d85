"""Augmentation of pairs: geometry of image and mask together, then intensity of the image alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stylegan2_cond.data.transfer import to_device
from stylegan2_cond.training.augment.geometry import geometry_shapes, resample, sample_geometry
from stylegan2_cond.training.augment.intensity import (
    change_intensity,
    intensity_shapes,
    per_voxel,
    sample_intensity,
)
from stylegan2_cond.training.augment.parameters import AugmentParameters, sample_numbers


class Augment:
    """Augments `[N, C + K, *spatial]` with C image channels and K label channels, in 2-D or 3-D.

    Args:
        image_channels: C; 0 for masks alone.
        spatial_dims: 2 or 3.
        spacing: of the voxels, in the patch's order; only ratios matter. Without it, rotations assume cubic voxels,
            which shears the anatomy in thick slices: 10° tilt slices that are five times as thick as their pixels are
            wide by 41°.
        fixed_shapes: do the same work whatever the parameters are, all of which lie on the device, so that it can be
            recorded; results are the same.

    Raises:
        ValueError: `spacing` has another number of axes.
    """

    def __init__(
        self,
        image_channels: int,
        spatial_dims: int,
        *,
        spacing: Sequence[float] | None = None,
        fixed_shapes: bool = False,
    ):
        self.image_channels = image_channels
        self.spatial_dims = spatial_dims
        self.spacing = tuple(spacing or (1.0,) * spatial_dims)
        if len(self.spacing) != spatial_dims:
            raise ValueError(f"spacing {self.spacing} must have {spatial_dims} axes")
        self.fixed_shapes = fixed_shapes

    def sample(
        self, count: int, p: float, patch_size: Sequence[int], rng: torch.Generator, noise_rng: torch.Generator
    ) -> AugmentParameters:
        """Random parameters for `count` pairs, each augmentation applied with probability `p`.

        Args:
            count: N.
            p: between 0 and 1; above about 0.8, augmentations leak.
            patch_size: spatial size.
            rng: on the CPU; how many numbers are sampled does not depend on `p`.
            noise_rng: on the device of the pairs, for the noise of each voxel.
        """
        geometry, intensity = geometry_shapes(self.spatial_dims), intensity_shapes(self.image_channels, patch_size)
        uniform, normal = ({**mine, **theirs} for mine, theirs in zip(geometry, intensity, strict=True))
        numbers, device = sample_numbers(count, uniform, normal, rng), noise_rng.device
        with torch.autocast(rng.device.type, enabled=False):
            tensors = sample_geometry(numbers, p, patch_size, self.spacing) | sample_intensity(numbers, p)
        flags = {} if self.fixed_shapes else {name: tensors.pop(name) for name in ("moved", "changed")}
        tensors = {name: to_device(tensor, device) for name, tensor in tensors.items()}
        noise = torch.randn(count, self.image_channels, *patch_size, generator=noise_rng, device=device)
        tensors["noise"] = per_voxel(tensors["noise"], noise) * noise
        return AugmentParameters(**flags, **tensors)

    def __call__(self, pairs: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        """Augmented pairs `[N, C + K, *spatial]` of the same type; twice differentiable with respect to `pairs`.

        Computed in float32 or wider. Channels without any augmentation are returned bit for bit, and a batch without
        any is returned as it is.
        """
        moved, changed = (self.fixed_shapes or one.numpy().any() for one in (parameters.moved, parameters.changed))
        if not (moved or changed):
            return pairs
        with torch.autocast(pairs.device.type, enabled=False):
            result = pairs.to(torch.promote_types(pairs.dtype, torch.float32))
            if moved:
                result = self._move(result, parameters)
            if changed and self.image_channels:
                image, label = result.tensor_split([self.image_channels], dim=1)
                result = torch.cat([change_intensity(image, parameters), label], dim=1)
        return result.to(pairs.dtype)

    def _move(self, pairs: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        """Pairs, those that are to be moved resampled."""
        if self.fixed_shapes:
            moved = parameters.moved.reshape(-1, *[1] * (pairs.ndim - 1))
            return torch.where(moved, resample(pairs, parameters.warp.to(pairs.dtype)), pairs)
        rows = to_device(torch.from_numpy(np.flatnonzero(parameters.moved.numpy())), pairs.device)
        return pairs.index_copy(0, rows, resample(pairs[rows], parameters.warp[rows].to(pairs.dtype)))
