"""From style vectors, and perhaps a given mask, to an image and its mask, through a pyramid of resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stylegan2_cond.networks.layers import Conv, ModulatedConv, pyramid, widened
from stylegan2_cond.networks.mapping import Mapping
from stylegan2_cond.ops import Epilogue, bias_act, downsample, upsample

# Noise that grows as fast as the weights learn drowns image and mask in speckle within a few hundred steps.
NOISE_LR_MULTIPLIER = 0.1
MASK_WIDTH = 32  # channels between a given mask and what it does to a stage


class MaskModulation(nn.Module):
    """A given mask scales and shifts what a convolution makes, voxel by voxel, before the activation.

    The scale and shift are those of Park et al. 2019 (SPADE, arXiv 1903.07291), Eq. 1; demodulation, which stands
    before, takes the place of its normalisation. They begin at nothing: with random ones, what the mask says drowns the
    latent and the noise, and images stayed blurred between the contours for 12,000 images.
    """

    def __init__(self, label_channels: int, outputs: int, *, spatial_dims: int):
        super().__init__()
        self.entry = Conv(label_channels, MASK_WIDTH, spatial_dims=spatial_dims)
        self.scale = Conv(MASK_WIDTH, outputs, spatial_dims=spatial_dims, activation="linear")
        self.shift = Conv(MASK_WIDTH, outputs, spatial_dims=spatial_dims, activation="linear")
        for conv in (self.scale, self.shift):
            nn.init.zeros_(conv.weight)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x: `[N, outputs, *size]`, mask: `[N, label_channels, *size]` → `[N, outputs, *size]`."""
        mask = self.entry(mask)
        return x * (1 + self.scale(mask)) + self.shift(mask)


class StyledConv(nn.Module):
    """Modulated convolution, optional upsampling, noise, bias, leaky ReLU (Karras et al. 2020, figure 2c).

    The convolution works at the input's resolution, where it costs least; the convolution that follows it in the
    block sees the finer grid. With `given_channels`, a mask has its say before the noise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style_dim: int,
        size: Sequence[int],
        factors: Sequence[int],
        given_channels: int = 0,
    ):
        super().__init__()
        self.size = tuple(size)
        self.factors = tuple(factors)
        self.conv = ModulatedConv(inputs, outputs, style_dim=style_dim, spatial_dims=len(size))
        self.given = MaskModulation(given_channels, outputs, spatial_dims=len(size)) if given_channels else None
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        strength = self.noise_strength * NOISE_LR_MULTIPLIER
        if self.given is None:
            epilogue = Epilogue(self.bias, noise=noise, strength=strength, activation="lrelu")
            return self.conv(x, w, epilogue, factors=self.factors, size=self.size)
        x = self.given(self.conv(x, w, factors=self.factors, size=self.size), mask)
        return bias_act(x, self.bias, noise=noise, strength=strength, activation="lrelu", overwrite=True)


class Head(nn.Module):
    """1×1 modulated convolution to the output channels, without demodulation ("tRGB" of the paper)."""

    def __init__(self, inputs: int, outputs: int, *, style_dim: int, spatial_dims: int):
        super().__init__()
        self.conv = ModulatedConv(
            inputs, outputs, style_dim=style_dim, spatial_dims=spatial_dims, kernel=1, demodulate=False
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.conv(x, w, Epilogue(self.bias))


class Synthesis(nn.Module):
    """Output-skip generator of Karras et al. 2020, figure 7b, in any number of dimensions.

    What the stages draw is added up in float32, whatever they compute in.

    Args:
        patch_size: spatial size of the output.
        factors: upsampling per axis of each stage after the first, coarse to fine.
        channels: of each stage, coarse to fine; one more than `factors`.
        output_channels: of what is drawn.
        style_dim: length of w.
        given_channels: label channels of a mask that is given, and modulates every stage; 0 where none is.
    """

    def __init__(
        self,
        *,
        patch_size: Sequence[int],
        factors: Sequence[Sequence[int]],
        channels: Sequence[int],
        output_channels: int,
        style_dim: int,
        given_channels: int = 0,
    ):
        super().__init__()
        self.sizes = pyramid(patch_size, factors)
        self.factors = [tuple(stage) for stage in factors]
        self.constant = nn.Parameter(torch.randn(1, channels[0], *self.sizes[0]))
        dims = len(patch_size)
        still = [1] * dims

        def styled(inputs: int, stage: int, factors: Sequence[int], given: int) -> StyledConv:
            size, outputs = self.sizes[stage], channels[stage]
            return StyledConv(inputs, outputs, style_dim=style_dim, size=size, factors=factors, given_channels=given)

        self.given_channels = given_channels
        self.convs = nn.ModuleList([styled(channels[0], 0, still, given_channels)])
        for stage, up in enumerate(self.factors, start=1):
            self.convs.append(styled(channels[stage - 1], stage, up, given_channels))
            self.convs.append(styled(channels[stage], stage, still, 0))
        self.heads = nn.ModuleList(
            Head(width, output_channels, style_dim=style_dim, spatial_dims=dims) for width in channels
        )

    @property
    def noise_sizes(self) -> list[tuple[int, ...]]:
        """Spatial size of the noise that each convolution takes, in the order of `forward`."""
        return [conv.size for conv in self.convs]

    def forward(
        self, w: torch.Tensor, noises: Sequence[torch.Tensor], mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw.

        Args:
            w: `[N, style_dim]`, or one vector for each convolution, `[N, convolutions, style_dim]`.
            noises: `[N, 1, *size]` per `noise_sizes`.
            mask: `[N, given_channels, *spatial]`, where one is given.

        Returns:
            `[N, output_channels, *spatial]`.
        """
        w = w if w.ndim == 3 else w.unsqueeze(1).expand(-1, len(self.convs), -1)
        masks = self._pyramid(mask)
        constant = self.constant.expand(len(w), *self.constant.shape[1:]).clone()
        x = self.convs[0](constant, w[:, 0], noises[0], masks[0])
        image = widened(self.heads[0](x, w[:, 0]))
        for stage, factors in enumerate(self.factors, start=1):
            first, second = 2 * stage - 1, 2 * stage
            x = self.convs[first](x, w[:, first], noises[first], masks[stage])
            x = self.convs[second](x, w[:, second], noises[second])
            image = upsample(image, factors, self.sizes[stage]) + self.heads[stage](x, w[:, second])
        return image

    def _pyramid(self, mask: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The given mask at each stage, coarse to fine; None at each, where none is."""
        if (mask is None) != (not self.given_channels):
            raise ValueError("this generator draws images for given masks" if mask is None else "no mask is wanted")
        if mask is None:
            return [None] * len(self.sizes)
        masks = [mask.contiguous()]
        for factors in reversed(self.factors):
            masks.insert(0, downsample(masks[0], factors))
        return masks


class Generator(nn.Module):
    """Mapping and synthesis; the raw output is turned into an image and a label map by the codec."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis):
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis

    def forward(
        self,
        z: torch.Tensor,
        condition: torch.Tensor,
        noises: Sequence[torch.Tensor],
        truncation: float = 1.0,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """z: `[N, latent_dim]`, condition: `[N, condition_dim]` → `[N, output_channels, *spatial]`."""
        w = self.mapping.truncate(self.mapping(z, condition), truncation)
        return self.synthesis(w, noises, mask)
