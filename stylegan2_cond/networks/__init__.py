"""The networks, built from a plan: 2-D and 3-D are one code."""

from __future__ import annotations

from stylegan2_cond.networks.discriminator import Discriminator
from stylegan2_cond.networks.generator import Generator, Synthesis
from stylegan2_cond.networks.mapping import Mapping
from stylegan2_cond.planning import Plan

__all__ = ["Discriminator", "Generator", "build_discriminator", "build_generator"]


def build_generator(plan: Plan) -> Generator:
    """An untrained generator of the plan's size, drawn from torch's global random state."""
    mapping = Mapping(
        latent_dim=plan.latent_dim,
        condition_dim=plan.conditions.width,
        style_dim=plan.style_dim,
        layers=plan.mapping_layers,
    )
    given = plan.variant == "image"
    synthesis = Synthesis(
        patch_size=plan.patch_size,
        factors=plan.factors,
        channels=plan.channels,
        output_channels=plan.codec.image_channels if given else plan.codec.channels,
        style_dim=plan.style_dim,
        given_channels=len(plan.codec.labels) if given else 0,
    )
    return Generator(mapping, synthesis)


def build_discriminator(plan: Plan) -> Discriminator:
    """An untrained discriminator of the plan's size, drawn from torch's global random state."""
    return Discriminator(
        patch_size=plan.patch_size,
        factors=plan.factors,
        channels=plan.channels,
        input_channels=plan.codec.channels,
        condition_dim=plan.conditions.width,
    )
