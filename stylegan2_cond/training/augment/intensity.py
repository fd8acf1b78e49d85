"""Intensity of image channels; each channel has its own parameters, as scanners differ per sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stylegan2_cond.training.augment.parameters import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    CUT_OUT,
    GAMMA,
    NOISE,
    AugmentParameters,
    Shapes,
)

MID_GREY = 0.0  # inside a box that is cut out
STEEPEST_BEND = 0.7  # from 0.77 on, the curve is not monotonic
_RADIUS = 3  # voxels; 3 sd of the widest blur


def intensity_shapes(channels: int, patch_size: Sequence[int]) -> tuple[Shapes, Shapes]:
    """Shapes of the uniform and of the normal numbers that one sample needs."""
    box = (channels, len(patch_size))
    uniform = {"intensity_chances": (6, channels), "blur": (channels,), "box_side": box, "box_middle": box}
    return uniform, {name: (channels,) for name in ("brightness", "contrast", "gamma", "noise_sd")}


def sample_intensity(numbers: dict[str, torch.Tensor], p: float) -> dict[str, torch.Tensor]:
    """The intensity parameters of a batch, from the random numbers of `intensity_shapes`; of the noise, its sd."""
    applied = numbers["intensity_chances"] < p  # [N, 6, C]
    brightened, contrasted, bent, noisy, blurred, cut = applied.float().unbind(dim=1)
    gamma = torch.exp(GAMMA * numbers["gamma"])
    smallest, largest = CUT_OUT
    side = cut.unsqueeze(2) * (smallest + (largest - smallest) * numbers["box_side"])
    middle = numbers["box_middle"]
    return {
        "changed": applied.any(dim=1),
        "brightness": brightened * BRIGHTNESS * numbers["brightness"],
        "contrast": torch.exp(contrasted * CONTRAST * numbers["contrast"]),
        "bend": bent * (2 * 0.5**gamma - 1).clamp(-STEEPEST_BEND, STEEPEST_BEND),
        "blur": blurred * BLUR * numbers["blur"],
        "noise": noisy * NOISE * numbers["noise_sd"].abs(),
        "box": torch.stack([middle - side / 2, middle + side / 2], dim=3),
    }


def change_intensity(image: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
    """Contrast, brightness, gamma, blur, noise and cut-out of `[N, C, *spatial]`, near [-1, 1].

    Channels without augmentation are returned bit for bit, since each step does nothing with its neutral parameter.
    """
    image = image * per_voxel(parameters.contrast, image) + per_voxel(parameters.brightness, image)
    image = bend_curve(image, per_voxel(parameters.bend, image))
    image = blur(image, parameters.blur)
    image = image + parameters.noise.to(image.dtype)
    return image.masked_fill(_inside_box(parameters.box, image.shape[2:]), MID_GREY)


def bend_curve(image: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
    """A gamma curve that keeps black (-1) and white (1) and maps mid-grey (0) to `bend`, which is 2 · 0.5^γ - 1.

    For γ of 0.7 to 1.4 it differs from the power by 0.16 at most. Unlike the power, it is defined beyond [-1, 1], where
    it approaches a constant shift, is monotonic for |bend| < 0.77, and all its derivatives are bounded.
    """
    return image + bend * (2 / (1 + image.square()) - 1)


def blur(image: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Gaussian blur per channel, edges repeated. image: `[N, C, *spatial]`, sd: `[N, C]` in voxels."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, device=sd.device)
    taps = torch.exp(-offsets.square() / (2 * sd.square().clamp_min(1e-12)).unsqueeze(2)).to(image.dtype)
    taps = taps / taps.sum(dim=2, keepdim=True)  # [N, C, offsets]; for sd 0 exactly 1 at offset 0
    for axis in range(2, image.ndim):
        widths = [0, 0] * (image.ndim - 1 - axis) + [_RADIUS, _RADIUS] + [0, 0] * (axis - 2)
        padded, length = F.pad(image, widths, mode="replicate"), image.shape[axis]
        image = sum(per_voxel(tap, image) * padded.narrow(axis, i, length) for i, tap in enumerate(taps.unbind(2)))
    return image


def _inside_box(box: torch.Tensor, patch_size: Sequence[int]) -> torch.Tensor:
    """`[N, C, *spatial]` bool: voxels whose centre lies in the box `[N, C, D, 2]`."""
    inside = torch.ones(*box.shape[:2], *[1] * len(patch_size), dtype=torch.bool, device=box.device)
    for axis, length in enumerate(patch_size):
        places = (torch.arange(length, device=box.device) + 0.5) / length
        along = (places >= box[:, :, axis, :1]) & (places < box[:, :, axis, 1:])  # [N, C, length]
        inside = inside & along.reshape(*box.shape[:2], *[1] * axis, length, *[1] * (len(patch_size) - 1 - axis))
    return inside


def per_voxel(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """`[N, C]` as `[N, C, 1, …]`, to broadcast over the image."""
    return values.to(image.dtype).reshape(*values.shape, *[1] * (image.ndim - 2))
