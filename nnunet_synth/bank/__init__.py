"""Banks: synthetic pairs on disk, in nnU-Net's own preprocessed format."""
