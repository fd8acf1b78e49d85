"""Banks: synthetic pairs on disk, in nnU-Net's own preprocessed format."""

MARGIN = 0.05  # that filters give beyond what is real: a voxel a little darker is no reason to refuse a sample
