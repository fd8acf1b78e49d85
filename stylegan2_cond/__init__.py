"""A conditional StyleGAN2 that learns from one nnU-Net fold to draw images with their masks."""
