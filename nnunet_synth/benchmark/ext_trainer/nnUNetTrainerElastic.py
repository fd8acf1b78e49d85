"""Where nnU-Net finds the trainer of the arm `elastic`."""

from nnunet_synth.benchmark.trainers import nnUNetTrainerElastic  # noqa: F401
