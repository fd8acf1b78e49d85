"""The parameters of each pair's augmentation, sampled separately from applying them, and how strong they are.

Image channels lie near [-1, 1], and lengths are relative to the patch. Geometry stays within the variation of patients
and positioning, intensity within that of scanners. This is weaker than in Karras et al. 2020b (Appendix B), whose
photographs may be turned upside down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

ROTATION = 10.0  # degrees, uniform within ±; in 3-D about an axis of any direction
ZOOM = 0.1  # sd of the log factor, the same along every axis
STRETCH = 0.05  # sd of the log factor per axis, volume kept
SHIFT = 0.05  # sd, as a fraction of each axis

BRIGHTNESS = 0.2  # sd of the offset; black to white is 2
CONTRAST = 0.2  # sd of the log factor, about mid-grey
GAMMA = 0.2  # sd of log γ
NOISE = 0.05  # sd of the noise's own sd, which is half-normal
BLUR = 1.0  # largest sd of the Gaussian in voxels, uniform from 0
CUT_OUT = (0.1, 0.5)  # side of the box as a fraction of each axis, uniform between

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class AugmentParameters:
    """Tensors with one row per sample; `parameters[a:b]` are those of samples a to b - 1.

    `moved` and `changed` lie on the CPU, so that nobody waits for a GPU to know what is to be done; where shapes are
    fixed, nobody needs to know, and they lie on the device.

    Attributes:
        moved: `[N]` bool, whether any geometric augmentation is applied; other samples are not resampled.
        warp: `[N, D, D + 1]`, the source of each place, in the coordinates of `F.affine_grid`.
        changed: `[N, C]` bool, whether any augmentation of intensity is applied.
        brightness: `[N, C]`, offset; 0 leaves the channel unchanged.
        contrast: `[N, C]`, factor; 1 leaves the channel unchanged.
        bend: `[N, C]`, what mid-grey becomes; 0 leaves the channel unchanged.
        blur: `[N, C]`, sd in voxels; 0 leaves the channel unchanged.
        noise: `[N, C, *spatial]`, added.
        box: `[N, C, D, 2]`, first and last place of the box that is cut out, from 0 to 1 along each axis; empty where
            they are equal.
    """

    moved: torch.Tensor
    warp: torch.Tensor
    changed: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    bend: torch.Tensor
    blur: torch.Tensor
    noise: torch.Tensor
    box: torch.Tensor

    def __len__(self) -> int:
        return len(self.moved)

    def __getitem__(self, rows: slice) -> AugmentParameters:
        return AugmentParameters(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def sample_numbers(count: int, uniform: Shapes, normal: Shapes, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Uniform numbers in [0, 1) and standard normal numbers by name, `[count, *shape]` each, on the device of `rng`."""
    return {
        name: draw(count, *shape, generator=rng, device=rng.device)
        for draw, shapes in ((torch.rand, uniform), (torch.randn, normal))
        for name, shape in shapes.items()
    }
