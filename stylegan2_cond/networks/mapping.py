"""From a latent and a condition to the style vector w."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from stylegan2_cond.networks.layers import Linear, pixel_norm

MAPPING_LR_MULTIPLIER = 0.01  # Karras et al. 2019, appendix C
AVERAGE_DECAY = 0.998  # of the running mean of w, the centre of truncation


class Mapping(nn.Module):
    """MLP of the latent beside an embedding of the condition (Karras et al. 2019, section 2; 2020a, appendix C).

    The embedding sees the condition and its complement, so that "no class" is a vector like any other; normalising
    the embedding of zeros would make its gradients explode.
    """

    def __init__(self, *, latent_dim: int, condition_dim: int, style_dim: int, layers: int):
        super().__init__()
        self.embed = (
            nn.Sequential(Linear(2 * condition_dim, latent_dim, activation="lrelu"), Linear(latent_dim, latent_dim))
            if condition_dim
            else None
        )
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
            x = pixel_norm(z)
            if self.embed is not None:
                asked = pixel_norm(self.embed(torch.cat([condition, 1 - condition], dim=1)))
                x = torch.cat([x, asked], dim=1)
            return self.layers(x)

    @torch.no_grad()
    def track_average(self, mean: torch.Tensor) -> None:
        """Move the running mean towards the mean w of a batch, `[style_dim]`."""
        self.average.lerp_(mean.float(), 1 - AVERAGE_DECAY)

    def truncate(self, w: torch.Tensor, psi: float) -> torch.Tensor:
        """Truncation trick (Karras et al. 2019, appendix B): w drawn towards the mean; `psi` 1 leaves it alone."""
        return self.average + psi * (w - self.average) if psi != 1.0 else w
