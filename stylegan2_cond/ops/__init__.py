"""What StyleGAN2 is made of, in plain PyTorch; every op differentiates twice, in any number of dimensions."""

from stylegan2_cond.ops.bias_act import GAINS, bias_act
from stylegan2_cond.ops.modulated_conv import convolve, modulated_conv
from stylegan2_cond.ops.resample import downsample, upsample

__all__ = ["GAINS", "bias_act", "convolve", "downsample", "modulated_conv", "upsample"]
