"""The generator: a latent and a condition become a style, and the style becomes an image and its mask.

Karras et al. 2019 (arXiv 1812.04948), Karras et al. 2020 (arXiv 1912.04958).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from stylegan2_cond.networks.layers import Conv, Linear, ModulatedConv, embedding, pixel_norm, pyramid, widened
from stylegan2_cond.ops import Epilogue, bias_act, downsample, upsample

MAPPING_LR_MULTIPLIER = 0.01  # Karras et al. 2019, appendix C
AVERAGE_DECAY = 0.998  # of the running mean of w, the centre of truncation
NOISE_LR_MULTIPLIER = 0.1  # with 1, noise hides image and mask under speckle within a few hundred steps
MASK_WIDTH = 32  # channels between a given mask and the modulation of a stage


class Mapping(nn.Module):
    """MLP from the latent and an embedding of the condition to w (Karras et al. 2019, section 2; Karras et al. 2020b).

    The embedding sees the condition and its complement, so that "no class" is not a vector of zeros, whose
    normalisation would make gradients explode.
    """

    def __init__(self, *, latent_dim: int, condition_dim: int, style_dim: int, layers: int):
        super().__init__()
        self.embed = embedding(2 * condition_dim, latent_dim)
        widths = [latent_dim * (2 if condition_dim else 1), *[style_dim] * layers]
        self.layers = nn.Sequential(
            *(
                Linear(i, o, activation="lrelu", lr_multiplier=MAPPING_LR_MULTIPLIER)
                for i, o in itertools.pairwise(widths)
            )
        )
        self.register_buffer("average", torch.zeros(style_dim))

    def forward(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """z: `[N, latent_dim]`, condition: `[N, condition_dim]` → w: `[N, style_dim]`, never in half precision."""
        with torch.autocast(z.device.type, enabled=False):
            x = pixel_norm(z)  # [N, latent_dim]
            if self.embed is not None:
                embedding = pixel_norm(self.embed(torch.cat([condition, 1 - condition], dim=1)))
                x = torch.cat([x, embedding], dim=1)  # [N, 2 · latent_dim]
            return self.layers(x)

    @torch.no_grad()
    def track_average(self, mean: torch.Tensor) -> None:
        """Move the running mean towards the mean w of a batch, `[style_dim]`."""
        self.average.lerp_(mean.float(), 1 - AVERAGE_DECAY)

    def truncate(self, w: torch.Tensor, psi: float) -> torch.Tensor:
        """Truncation trick (Karras et al. 2019, appendix B): interpolate from the mean to w; `psi` 1 returns w."""
        return self.average + psi * (w - self.average) if psi != 1.0 else w


class MaskModulation(nn.Module):
    """Scale and shift of the features per voxel by a given mask: SPADE, Park et al. 2019 (arXiv 1903.07291), Eq. 1.

    Demodulation takes the place of SPADE's normalisation. Scale and shift start at zero: with random weights the mask
    overpowers latent and noise, and images stayed blurred between contours for 12,000 images.
    """

    def __init__(self, mask_channels: int, outputs: int, *, spatial_dims: int):
        super().__init__()
        self.entry = Conv(mask_channels, MASK_WIDTH, spatial_dims=spatial_dims)
        self.scale = Conv(MASK_WIDTH, outputs, spatial_dims=spatial_dims, activation="linear")
        self.shift = Conv(MASK_WIDTH, outputs, spatial_dims=spatial_dims, activation="linear")
        for conv in (self.scale, self.shift):
            nn.init.zeros_(conv.weight)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x: `[N, outputs, *size]`, mask: `[N, mask_channels, *size]` → `[N, outputs, *size]`."""
        mask = self.entry(mask)  # [N, MASK_WIDTH, *size]
        return x * (1 + self.scale(mask)) + self.shift(mask)


class StyledConv(nn.Module):
    """Modulated convolution, optional upsampling, noise, bias, leaky ReLU (Karras et al. 2020, figure 2c).

    The convolution works at the input's resolution, where it is cheapest; the next one sees the finer grid. With
    `mask_channels`, the mask modulates the features before noise is added (SPADE).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style_dim: int,
        size: Sequence[int],
        factors: Sequence[int],
        mask_channels: int = 0,
    ):
        super().__init__()
        self.size = tuple(size)
        self.factors = tuple(factors)
        self.conv = ModulatedConv(inputs, outputs, style_dim=style_dim, spatial_dims=len(size))
        self.given = MaskModulation(mask_channels, outputs, spatial_dims=len(size)) if mask_channels else None
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x: `[N, inputs, *coarse]`, w: `[N, style_dim]`, noise: `[N, 1, *size]` → `[N, outputs, *size]`."""
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
        """x: `[N, inputs, *spatial]`, w: `[N, style_dim]` → `[N, outputs, *spatial]`."""
        return self.conv(x, w, Epilogue(self.bias))


class Synthesis(nn.Module):
    """Output-skip generator of Karras et al. 2020, figure 7b, in any number of dimensions.

    The outputs of all stages are summed in float32, whatever precision the stages compute in.

    Args:
        patch_size: spatial size of the output.
        factors: upsampling per axis of each stage after the first, coarse to fine.
        channels: of each stage, coarse to fine; one more than `factors`.
        output_channels: of image and mask together.
        style_dim: length of w.
        mask_channels: label channels of a given mask, which modulates every stage; 0 if none is given.
    """

    def __init__(
        self,
        *,
        patch_size: Sequence[int],
        factors: Sequence[Sequence[int]],
        channels: Sequence[int],
        output_channels: int,
        style_dim: int,
        mask_channels: int = 0,
    ):
        super().__init__()
        self.sizes = pyramid(patch_size, factors)
        self.factors = [tuple(stage) for stage in factors]
        self.constant = nn.Parameter(torch.randn(1, channels[0], *self.sizes[0]))
        self.mask_channels = mask_channels
        same = [1] * len(patch_size)

        def styled(inputs: int, stage: int, factors: Sequence[int], mask_channels: int) -> StyledConv:
            size, outputs = self.sizes[stage], channels[stage]
            return StyledConv(
                inputs, outputs, style_dim=style_dim, size=size, factors=factors, mask_channels=mask_channels
            )

        self.convs = nn.ModuleList([styled(channels[0], 0, same, mask_channels)])
        for stage, up in enumerate(self.factors, start=1):
            self.convs.append(styled(channels[stage - 1], stage, up, mask_channels))
            self.convs.append(styled(channels[stage], stage, same, 0))
        self.heads = nn.ModuleList(
            Head(width, output_channels, style_dim=style_dim, spatial_dims=len(patch_size)) for width in channels
        )

    @property
    def noise_sizes(self) -> list[tuple[int, ...]]:
        """Spatial size of the noise of each convolution, in the order of `forward`."""
        return [conv.size for conv in self.convs]

    def forward(
        self, w: torch.Tensor, noises: Sequence[torch.Tensor], mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Synthesize.

        Args:
            w: `[N, style_dim]`, or one vector per convolution, `[N, convolutions, style_dim]`.
            noises: `[N, 1, *size]` for each of `noise_sizes`.
            mask: `[N, mask_channels, *patch_size]`; None if the generator takes none.

        Returns:
            `[N, output_channels, *patch_size]`.
        """
        w = w if w.ndim == 3 else w.unsqueeze(1).expand(-1, len(self.convs), -1)
        masks = self._pyramid(mask)
        constant = self.constant.expand(len(w), *self.constant.shape[1:]).clone()
        x = self.convs[0](constant, w[:, 0], noises[0], masks[0])  # [N, channels[0], *sizes[0]]
        image = widened(self.heads[0](x, w[:, 0]))
        for stage, factors in enumerate(self.factors, start=1):
            first, second = 2 * stage - 1, 2 * stage
            x = self.convs[first](x, w[:, first], noises[first], masks[stage])
            x = self.convs[second](x, w[:, second], noises[second])  # [N, channels[stage], *sizes[stage]]
            image = upsample(image, factors, self.sizes[stage]) + self.heads[stage](x, w[:, second])
        return image

    def _pyramid(self, mask: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The given mask at the size of each stage, coarse to fine."""
        if (mask is None) != (not self.mask_channels):
            raise ValueError("this generator needs a mask" if mask is None else "this generator takes no mask")
        if mask is None:
            return [None] * len(self.sizes)
        masks = [mask.contiguous()]
        for factors in reversed(self.factors):
            masks.insert(0, downsample(masks[0], factors))
        return masks


class Generator(nn.Module):
    """Mapping and synthesis. The codec turns the raw output into an image and a label map."""

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
        """z: `[N, latent_dim]`, condition: `[N, condition_dim]` → `[N, output_channels, *patch_size]`."""
        w = self.mapping.truncate(self.mapping(z, condition), truncation)
        return self.synthesis(w, noises, mask)
