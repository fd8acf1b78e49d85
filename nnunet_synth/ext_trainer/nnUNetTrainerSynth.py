"""What nnUNet_extTrainer points at. The classes live in an installed package, so that spawned workers find them."""

from nnunet_synth.training.trainer import *  # noqa: F403
