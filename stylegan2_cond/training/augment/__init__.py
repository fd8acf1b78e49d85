"""Adaptive discriminator augmentation (Karras et al. 2020b): real or drawn, pairs are augmented before they are judged.

Each augmentation has a coin of its own, which falls with probability p < 1, so that none leaks into what is drawn
(Sec. 2.2): a generator that rotates everything shows too many rotated pairs, whatever the discriminator may not see.
"""

from stylegan2_cond.training.augment.adaptive import AdaptiveProbability
from stylegan2_cond.training.augment.augment import Augment
from stylegan2_cond.training.augment.parameters import AugmentParameters

__all__ = ["AdaptiveProbability", "Augment", "AugmentParameters"]
