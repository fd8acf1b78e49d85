"""Unlabelled scans as bank members: real images with labels that trained nnU-Nets gave them."""
