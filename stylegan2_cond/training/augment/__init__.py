"""Adaptive discriminator augmentation (Karras et al. 2020b, arXiv 2006.06676) of real and generated pairs.

Each augmentation is applied independently with probability p < 1, so none leaks into the generated images (Sec. 2.2): a
generator that rotates everything shows too many rotated pairs, whatever the discriminator cannot see.
"""

from stylegan2_cond.training.augment.adaptive import AdaptiveProbability
from stylegan2_cond.training.augment.augment import Augment
from stylegan2_cond.training.augment.parameters import AugmentParameters

__all__ = ["AdaptiveProbability", "Augment", "AugmentParameters"]
