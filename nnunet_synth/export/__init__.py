"""Out again: a bank as an nnU-Net raw dataset, a trained folder as a model that needs no plugin."""
