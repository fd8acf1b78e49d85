"""Synthetic pairs in nnU-Net's training."""
