"""What is done to each pair of a batch, drawn apart from doing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class AugmentParameters:
    """Tensors with one row a sample; `parameters[a:b]` are those of samples a to b - 1.

    Attributes:
        moved: `[N]` bool, whether any coin of geometry fell; the others are not resampled.
        warp: `[N, D, D + 1]`, where each place is read from, in the coordinates of `F.affine_grid`.
        recoloured: `[N, C]` bool, whether any coin of intensity fell.
        brightness: `[N, C]`, added; 0 for nothing.
        contrast: `[N, C]`, factor; 1 for nothing.
        bend: `[N, C]`, what mid-grey becomes; 0 for nothing.
        blur: `[N, C]`, sd in voxels; 0 for nothing.
        noise: `[N, C, *spatial]`, added; 0 for nothing.
        box: `[N, C, D, 2]`, ends of the box that is cut out, 0 to 1 being the axis; where they meet, nothing.
    """

    moved: torch.Tensor
    warp: torch.Tensor
    recoloured: torch.Tensor
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


def draw_numbers(count: int, uniform: Shapes, normal: Shapes, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Uniform numbers in [0, 1) and standard normal ones, by name, `[count, *shape]` each, on the device of `rng`.

    Row after row: two draws after each other are one draw of as many rows together.
    """
    blocks = [torch.empty(count, _width(shapes), device=rng.device) for shapes in (uniform, normal)]
    for uniform_row, normal_row in zip(*blocks, strict=True):
        uniform_row.uniform_(generator=rng)
        normal_row.normal_(generator=rng)
    numbers: dict[str, torch.Tensor] = {}
    for block, shapes in zip(blocks, (uniform, normal), strict=True):
        pieces = block.split([math.prod(shape) for shape in shapes.values()], dim=1)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True):
            numbers[name] = piece.reshape(count, *shape)
    return numbers


def _width(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
