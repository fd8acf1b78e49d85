"""Speed of the ops, a training step and sampling on this machine, compared with plain PyTorch; checks of a GPU."""
