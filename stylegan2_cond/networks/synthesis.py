"""From a style vector to an image and its mask, by skip connections through a pyramid of resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stylegan2_cond.networks.layers import ModulatedConv, pyramid
from stylegan2_cond.networks.mapping import Mapping
from stylegan2_cond.ops import bias_act, upsample

# Noise that grows as fast as the weights learn drowns image and mask in speckle within a few hundred steps.
NOISE_LR_MULTIPLIER = 0.1


class StyledConv(nn.Module):
    """Modulated convolution, optional upsampling, noise, bias, leaky ReLU (Karras et al. 2020, figure 2c).

    The convolution works at the input's resolution, where it costs least; the convolution that follows it in the
    block sees the finer grid.
    """

    def __init__(self, inputs: int, outputs: int, *, style_dim: int, size: Sequence[int], factors: Sequence[int]):
        super().__init__()
        self.size = tuple(size)
        self.factors = tuple(factors)
        self.conv = ModulatedConv(inputs, outputs, style_dim=style_dim, spatial_dims=len(size))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = upsample(self.conv(x, w), self.factors, self.size)
        return bias_act(x, self.bias, noise=noise, strength=self.noise_strength * NOISE_LR_MULTIPLIER)


class Head(nn.Module):
    """1×1 modulated convolution to the output channels, without demodulation ("tRGB" of the paper)."""

    def __init__(self, inputs: int, outputs: int, *, style_dim: int, spatial_dims: int):
        super().__init__()
        self.conv = ModulatedConv(
            inputs, outputs, style_dim=style_dim, spatial_dims=spatial_dims, kernel=1, demodulate=False
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return bias_act(self.conv(x, w), self.bias, activation="linear")


class Synthesis(nn.Module):
    """Output-skip generator of Karras et al. 2020, figure 7b, in any number of dimensions.

    Args:
        canvas: spatial size of the output.
        factors: upsampling per axis of each stage after the first, coarse to fine.
        channels: of each stage, coarse to fine; one more than `factors`.
        output_channels: image channels and one per label.
        style_dim: length of w.
    """

    def __init__(
        self,
        *,
        canvas: Sequence[int],
        factors: Sequence[Sequence[int]],
        channels: Sequence[int],
        output_channels: int,
        style_dim: int,
    ):
        super().__init__()
        self.sizes = pyramid(canvas, factors)
        self.factors = [tuple(stage) for stage in factors]
        self.constant = nn.Parameter(torch.randn(1, channels[0], *self.sizes[0]))
        still = [1] * len(canvas)

        def styled(inputs: int, outputs: int, stage: int, factors: Sequence[int]) -> StyledConv:
            return StyledConv(inputs, outputs, style_dim=style_dim, size=self.sizes[stage], factors=factors)

        self.convs = nn.ModuleList([styled(channels[0], channels[0], 0, still)])
        for stage, up in enumerate(self.factors, start=1):
            self.convs.append(styled(channels[stage - 1], channels[stage], stage, up))
            self.convs.append(styled(channels[stage], channels[stage], stage, still))
        self.heads = nn.ModuleList(
            Head(width, output_channels, style_dim=style_dim, spatial_dims=len(canvas)) for width in channels
        )

    @property
    def noise_sizes(self) -> list[tuple[int, ...]]:
        """Spatial size of the noise that each convolution takes, in the order of `forward`."""
        return [conv.size for conv in self.convs]

    def forward(self, w: torch.Tensor, noises: Sequence[torch.Tensor]) -> torch.Tensor:
        """w: `[N, style_dim]`, noises: `[N, 1, *size]` per `noise_sizes` → `[N, output_channels, *canvas]`."""
        x = self.convs[0](self.constant.expand(w.shape[0], *self.constant.shape[1:]), w, noises[0])
        image = self.heads[0](x, w)
        for stage, factors in enumerate(self.factors, start=1):
            x = self.convs[2 * stage - 1](x, w, noises[2 * stage - 1])
            x = self.convs[2 * stage](x, w, noises[2 * stage])
            image = upsample(image, factors, self.sizes[stage]) + self.heads[stage](x, w)
        return image


class Generator(nn.Module):
    """Mapping and synthesis; the raw output is turned into an image and a label map by the codec."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis):
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis

    def forward(
        self, z: torch.Tensor, condition: torch.Tensor, noises: Sequence[torch.Tensor], truncation: float = 1.0
    ) -> torch.Tensor:
        """z: `[N, latent_dim]`, condition: `[N, condition_dim]` → `[N, output_channels, *canvas]`."""
        w = self.mapping(z, condition)
        if self.training:
            self.mapping.track_average(w.detach())
        return self.synthesis(self.mapping.truncate(w, truncation), noises)
