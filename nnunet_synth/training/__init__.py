"""nnU-Net's training with synthetic pairs: what to mix, when, and who has seen which case."""
