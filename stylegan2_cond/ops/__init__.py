"""What StyleGAN2 is made of, beside convolutions: every op differentiates twice, in any number of dimensions."""

from stylegan2_cond.ops.backends import choose_backend, describe_backend, name_backend
from stylegan2_cond.ops.bias_act import bias_act
from stylegan2_cond.ops.epilogue import GAINS, Epilogue
from stylegan2_cond.ops.modulated_conv import convolve, modulated_conv
from stylegan2_cond.ops.resample import downsample, upsample

__all__ = [
    "GAINS",
    "Epilogue",
    "bias_act",
    "choose_backend",
    "convolve",
    "describe_backend",
    "downsample",
    "modulated_conv",
    "name_backend",
    "upsample",
]
