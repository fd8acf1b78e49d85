"""Any nnU-Net trainer with the training length of a plans file, so that all arms train equally long."""

from __future__ import annotations

import os

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_synth.benchmark.budget import BLOCK, SUFFIX, TrainingLength

SAVES = 4  # checkpoints during a training
ADAMW_WEIGHT_DECAY = 1e-2  # AdamW's default (Loshchilov & Hutter 2019)


class FixedLength(nnUNetTrainer):
    """Mixin before any trainer: training length of the plans file, and `OMP_NUM_THREADS` threads."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.length = TrainingLength.model_validate(self.configuration_manager.configuration.get(BLOCK, {}))
        self.num_epochs = self.length.epochs or self.num_epochs
        self.num_iterations_per_epoch = self.length.iterations or self.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = self.length.validation_iterations or self.num_val_iterations_per_epoch
        self.save_every = max(1, min(self.save_every, self.num_epochs // SAVES))
        if threads := os.environ.get("OMP_NUM_THREADS"):  # nnU-Net takes all cores, whatever runs in parallel
            torch.set_num_threads(int(threads))

    def configure_optimizers(self) -> tuple:
        """Optimizer and schedule: AdamW with nnU-Net's polynomial decay if the length asks for it, else nnU-Net's."""
        if not self.length.adamw:
            return super().configure_optimizers()
        self.initial_lr = self.length.adamw
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=ADAMW_WEIGHT_DECAY)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_epoch_end(self) -> None:
        """Plot `progress.png` only after the last of few epochs, since it takes a second or more."""
        plot = self.logger.plot_progress_png
        if self.length.epochs and self.current_epoch + 1 < self.num_epochs:
            self.logger.plot_progress_png = lambda output_folder: None
        try:
            super().on_epoch_end()
        finally:
            self.logger.plot_progress_png = plot

    def save_checkpoint(self, filename: str) -> None:
        """A checkpoint that names nnU-Net's trainer of the same network, so that nnU-Net finds it without a plugin.

        nnU-Net writes the name of the object's class, so the object has the plain class meanwhile.
        """
        own = self.__class__
        self.__class__ = own.__mro__[own.__mro__.index(FixedLength) + 1]
        try:
            self.save_checkpoint(filename)
        finally:
            self.__class__ = own

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, without mirroring if the length says so."""
        if not self.length.mirroring:
            self.inference_allowed_mirroring_axes = None
        super().perform_actual_validation(save_probabilities)


def with_fixed_length(name: str) -> type[nnUNetTrainer]:
    """The class that nnU-Net finds under `name`, a trainer's name and `SUFFIX`.

    Raises:
        AttributeError: the name lacks the suffix.
        RuntimeError: nnU-Net has no such trainer.
    """
    if not name.endswith(SUFFIX):
        raise AttributeError(name)
    trainer = recursive_find_trainer_class_by_name(name.removesuffix(SUFFIX))
    return type(name, (FixedLength, trainer), {})
