"""A conditional StyleGAN2 that is trained on one nnU-Net fold and generates images with their masks."""

from typing import Literal

Variant = Literal["pair", "mask", "image"]  # what a generator produces
MaskVariation = Literal["deformed", "blended", "real"]  # of training cases' masks, that images are generated for
