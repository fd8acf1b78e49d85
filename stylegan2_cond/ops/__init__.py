"""The building blocks of StyleGAN2 in any number of dimensions; every op is twice differentiable."""

from stylegan2_cond.ops.backends import choose_backend, describe_backend, name_backend
from stylegan2_cond.ops.bias_act import bias_act
from stylegan2_cond.ops.epilogue import IDENTITY, Epilogue
from stylegan2_cond.ops.modulated_conv import convolve, modulated_conv
from stylegan2_cond.ops.resample import downsample, upsample

__all__ = [
    "IDENTITY",
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
