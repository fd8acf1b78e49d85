"""Sliced Wasserstein distance of descriptors from a Laplacian pyramid (Karras et al. 2018, section 5).

Descriptors are small neighbourhoods of voxels, which Karras et al. also call local image patches. No network is needed.
"""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.jackknife import jackknife
from stylegan2_cond.metrics.registry import Metric, Result, register
from stylegan2_cond.ops import downsample, upsample
from stylegan2_cond.random_streams import MetricStream

DESCRIPTOR = {2: 7, 3: 5}  # voxels along each axis, by the number of axes
DESCRIPTORS = 8  # from each level of each patch
PROJECTIONS = 128
COARSEST = 16  # voxels of the longest axis, below which there are no further levels
QUANTILES = 2000
GROUPS = 10


def laplacian_pyramid(image: torch.Tensor) -> list[torch.Tensor]:
    """What each resolution adds to the next coarser one, finest first, then the coarsest. image: `[N, C, *spatial]`."""
    levels, image = [], image.contiguous()
    while max(image.shape[2:]) // 2 >= COARSEST:
        factors = [2 if length // 2 >= COARSEST // 2 else 1 for length in image.shape[2:]]
        coarse = downsample(image, factors)
        levels.append(image - upsample(coarse, factors, image.shape[2:]))
        image = coarse
    return [*levels, image]


def sample_descriptors(level: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """`count` descriptors of each patch, at random places. level: `[N, C, *size]` → `[N, count, C · voxels]`."""
    size = level.shape[2:]
    lengths = [min(DESCRIPTOR[len(size)], length) for length in size]
    corners = np.stack([rng.integers(0, s - p + 1, (len(level), count)) for s, p in zip(size, lengths, strict=True)])
    windows = level
    for axis, length in enumerate(lengths, start=2):
        windows = windows.unfold(axis, length, 1)  # [N, C, *places, *descriptor]
    patch = torch.arange(len(level)).unsqueeze(1).expand(-1, count)
    return windows[(patch, slice(None), *torch.from_numpy(corners))].flatten(2)


def sliced_distances(
    real: torch.Tensor,
    generated: torch.Tensor,
    real_groups: np.ndarray,
    generated_groups: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean over random directions of the one-dimensional Wasserstein distance, and its standard error.

    Args:
        real, generated: `[N, P, F]`, `[M, P, F]` descriptors.
        real_groups, generated_groups: `[N]`, `[M]` jackknife groups.
        rng: of the directions.
    """
    directions = torch.from_numpy(rng.standard_normal((real.shape[2], PROJECTIONS), dtype=np.float32))
    directions /= directions.norm(dim=0)
    sides = []
    for descriptors in (real, generated):
        values, order = (descriptors.flatten(0, 1) @ directions).T.sort(dim=1)  # [directions, N · P]
        sides.append((values, order // descriptors.shape[1]))  # and the patch that each value is from

    def distance(*keep: np.ndarray) -> float:
        parts = [
            values[torch.from_numpy(kept)[patch]].reshape(len(values), -1)
            for (values, patch), kept in zip(sides, keep, strict=True)
        ]
        return float((_quantiles(parts[0]) - _quantiles(parts[1])).abs().mean())

    return jackknife(distance, real_groups, generated_groups)


def _quantiles(ordered: torch.Tensor) -> torch.Tensor:
    """`[directions, n]` ordered values → `[directions, QUANTILES]` evenly spaced among them."""
    n = ordered.shape[1]
    places = ((torch.arange(QUANTILES) + 0.5) / QUANTILES * n).long()
    return ordered[:, places]


@register
class SlicedWasserstein(Metric):
    """Mean over the levels, in thousandths of the real patches' standard deviation; each level in the details."""

    name = "swd"
    title = "SWD ×10³"
    needs = ("image",)

    def __call__(self, comparison: Comparison) -> Result:
        groups = comparison.jackknife_groups(GROUPS)
        rng = comparison.rng(MetricStream.DESCRIPTORS)
        sides = comparison.real, comparison.generated
        pyramids = [laplacian_pyramid(torch.from_numpy(side.image)) for side in sides]
        values, errors = [], []
        for level_real, level_generated in zip(*pyramids, strict=True):
            shape = (1, -1, *[1] * (level_real.ndim - 2))
            axes = [0, *range(2, level_real.ndim)]
            scale = level_real.std(dim=axes).clamp_min(1e-12).reshape(shape)
            centre = level_real.mean(dim=axes).reshape(shape)
            scaled = [(level - centre) / scale for level in (level_real, level_generated)]
            descriptors = [sample_descriptors(level, DESCRIPTORS, rng) for level in scaled]
            value, error = sliced_distances(*descriptors, *groups, rng)
            values.append(1000 * value)
            errors.append(1000 * error)
        sizes = ["×".join(map(str, level.shape[2:])) for level in pyramids[0]]
        details = dict(zip(sizes, values, strict=True))
        return Result(float(np.mean(values)), float(np.sqrt(np.square(errors).sum()) / len(errors)), details)
