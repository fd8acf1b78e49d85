"""The discriminator: an image with its mask, and a condition, become a score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from stylegan2_cond.networks.layers import Conv, Entry, Linear, embedding, pyramid, widened
from stylegan2_cond.ops import downsample

MINIBATCH_GROUP = 4  # samples per group (Karras et al. 2018, section 3)


def minibatch_stddev(x: torch.Tensor, group: int = MINIBATCH_GROUP) -> torch.Tensor:
    """Append a channel: the standard deviation over a group of samples, averaged over channels and voxels.

    Karras et al. 2018 (arXiv 1710.10196), section 3. A group is `group` consecutive samples, so splitting a batch
    between groups does not change values; the last group may be smaller.

    Args:
        x: `[N, C, *spatial]`.
        group: samples per group.

    Returns:
        `[N, C + 1, *spatial]`.
    """
    statistic = []
    for members in x.split(group):
        members = members.float()
        variance = (members - members.mean(dim=0)).square().mean(dim=0)  # torch.var takes ten times as long
        deviation = (variance + 1e-8).sqrt().mean()
        statistic.append(deviation.to(x.dtype).expand(len(members)))
    channel = torch.cat(statistic).reshape(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions and a downsampling, plus a linear shortcut (Karras et al. 2020, figure 7c)."""

    def __init__(self, inputs: int, outputs: int, *, factors: Sequence[int]):
        super().__init__()
        self.factors = tuple(factors)
        dims = len(self.factors)
        self.first = Conv(inputs, inputs, spatial_dims=dims)
        self.second = Conv(inputs, outputs, spatial_dims=dims)
        self.shortcut = Conv(inputs, outputs, spatial_dims=dims, kernel=1, activation="linear", bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, inputs, *spatial]` → `[N, outputs, *ceil(spatial / factors)]`."""
        shortcut = self.shortcut(downsample(x, self.factors), gain=math.sqrt(0.5))
        return self.second(downsample(self.first(x), self.factors), gain=math.sqrt(0.5)) + shortcut


class Discriminator(nn.Module):
    """Residual discriminator with minibatch standard deviation and projection of the condition.

    Projection (Miyato and Koyama 2018, arXiv 1802.05637, Eq. 3): the score is a linear function of the features plus
    their inner product with an embedding of the condition.

    Args:
        patch_size, factors, channels: as for `Synthesis`.
        input_channels: of image and mask together.
        condition_dim: length of the condition vector.
    """

    def __init__(
        self,
        *,
        patch_size: Sequence[int],
        factors: Sequence[Sequence[int]],
        channels: Sequence[int],
        input_channels: int,
        condition_dim: int,
    ):
        super().__init__()
        dims = len(patch_size)
        self.entry = Entry(input_channels, channels[-1], spatial_dims=dims)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[stage], channels[stage - 1], factors=factors[stage - 1])
            for stage in range(len(factors), 0, -1)
        )
        width = channels[0]
        self.last = Conv(width + 1, width, spatial_dims=dims)
        self.features = Linear(width * math.prod(pyramid(patch_size, factors)[0]), width, activation="lrelu")
        self.score = Linear(width, 1)
        self.embed = embedding(condition_dim, width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Score pairs.

        Args:
            x: `[N, input_channels, *patch_size]`.
            condition: `[N, condition_dim]`.

        Returns:
            Scores `[N]`, and the features of each block, fine to coarse.
        """
        x, stages = self.entry(x), []
        for block in self.blocks:
            x = block(x)
            stages.append(x)
        with torch.autocast(x.device.type, enabled=False):  # losses depend on small differences between scores
            x = self.last(minibatch_stddev(widened(x)))  # [N, width, *coarsest]
            features = self.features(x.flatten(1))  # [N, width]
            score = self.score(features).squeeze(1)  # [N]
            if self.embed is not None:
                projection = (features * self.embed(condition)).sum(dim=1) / math.sqrt(features.shape[1])
                score = score + projection
        return score, stages
