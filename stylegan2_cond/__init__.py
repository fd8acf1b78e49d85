"""A conditional StyleGAN2 that learns from one nnU-Net fold to draw images with their masks."""

from typing import Literal

Variant = Literal["pair", "mask", "image"]  # what a generator produces
