"""Banks: synthetic pairs on disk, in nnU-Net's own preprocessed format."""

MARGIN = 0.05  # default tolerance of the filters: a slightly darker voxel is no reason to refuse a sample
