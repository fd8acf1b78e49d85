"""How fast the ops, a training step and drawing are on this machine, against plain PyTorch."""
