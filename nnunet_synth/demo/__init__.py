"""Every step, from raw images to a trained nnU-Net, on virtual subjects."""
