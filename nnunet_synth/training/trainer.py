"""nnU-Net trainers that mix synthetic pairs into the training cases. Hooks only; the network is nnU-Net's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainer_onlyMirror01,
    nnUNetTrainerNoMirroring,
)
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
    nnUNetTrainer_1epoch,
    nnUNetTrainer_5epochs,
    nnUNetTrainer_10epochs,
    nnUNetTrainer_20epochs,
    nnUNetTrainer_50epochs,
    nnUNetTrainer_100epochs,
    nnUNetTrainer_250epochs,
)

from nnunet_synth.bank.format import RECORD_FILE, BankDataset, BankRecord, banks_folder, find_banks, verify_bank
from nnunet_synth.training.leak_guard import refuse_leaks
from nnunet_synth.training.mirror_padding import Margins
from nnunet_synth.training.mixed_dataset import MixedDataset, MixingControl
from nnunet_synth.training.schedule import ratio_at
from nnunet_synth.training.settings import SynthSettings, read_settings
from nnunet_synth.training.usage_record import record_use
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Fold, Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class SyntheticDataMixin:
    """Put before any nnU-Net trainer: `class MineSynth(SyntheticDataMixin, Mine): pass`.

    With ratio 0, every hook leaves nnU-Net's training as it is, bit for bit.
    """

    _control: MixingControl | None = None
    _box: Sequence[int] | None = None  # that nnU-Net's loader cuts before it rotates and scales

    @property
    def synth_settings(self) -> SynthSettings:
        """The `synth` block of the configuration, or its defaults."""
        where = f"configuration {self.configuration_name} in plans {self.plans_manager.plans_name}"
        return read_settings(self.configuration_manager.configuration, where)

    def get_tr_and_val_datasets(self):
        """nnU-Net's datasets; the training one answers some draws from the bank. Validation stays real."""
        try:
            return self._datasets()
        except UserError:
            self._leave_no_empty_folder()
            raise

    def _leave_no_empty_folder(self) -> None:
        """nnU-Net makes a model's folder and a log before it trains; what is in it already stays."""
        Path(self.log_file).unlink(missing_ok=True)
        for folder in (Path(self.output_folder), Path(self.output_folder_base)):
            with suppress(OSError):  # not empty
                folder.rmdir()

    def _datasets(self):
        training, validation = super().get_tr_and_val_datasets()
        settings = self.synth_settings
        if settings.ratio == 0:
            self._record(settings, bank=None)
            return training, validation
        if self.is_cascaded:
            raise UserError(
                f"Configuration {self.configuration_name} is the second stage of a cascade, for which there are no "
                f"synthetic pairs. Train it with -tr nnUNetTrainer, or set the ratio to 0."
            )
        preprocessed = Preprocessed(
            self.plans_manager.dataset_name, self.plans_manager, self.configuration_name, self.dataset_json
        )
        fold = Fold(str(self.fold), tuple(training.identifiers), tuple(validation.identifiers))
        folder = _choose_bank(preprocessed, fold, settings)
        here, record = Source.of(preprocessed, fold), BankRecord.load(folder / RECORD_FILE)
        refuse_leaks(folder, record, here, case_hashes(preprocessed, fold.validation))
        record = verify_bank(folder, preprocessed)
        self._record(settings, bank=folder)
        self._control = MixingControl()
        self._control.ratio = self._ratio_now()
        self.print_to_log_file(
            f"Synthetic pairs: bank {folder}, {record.samples} samples, ratio {settings.ratio}, {settings.schedule}"
        )
        if fold.name == FOLD_ALL:
            self.print_to_log_file(
                f"Fold all: validation cases are training cases, so validation says nothing. The bank's generator "
                f"saw {len(record.source.training_cases)} of the {len(fold.training)} cases."
            )
        bank = BankDataset(str(folder), [shard.name for shard in record.shards])
        return MixedDataset(training, bank, record, self._control, self._margins(record.patch_size)), validation

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net's; the size of the box is kept."""
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self._box = found[2]
        return found

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self._control is not None:
            self._control.ratio = self._ratio_now()

    def on_train_epoch_end(self, train_outputs: list[dict]):
        super().on_train_epoch_end(train_outputs)
        if self._control is not None:
            real, synthetic = self._control.take()
            total = real + synthetic
            self.print_to_log_file(
                f"Synthetic share {synthetic / max(1, total):.4f} (ratio {self._control.ratio:.4f}; "
                f"{synthetic} of {total} draws)"
            )

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, naming the trainer whose network this is, so that inference needs no plugin.

        nnU-Net writes the name of the object's class, so the object is one of the plain class while it does.
        """
        own = self.__class__
        self.__class__ = own.__mro__[own.__mro__.index(SyntheticDataMixin) + 1]
        try:
            self.save_checkpoint(filename)
        finally:
            self.__class__ = own

    def _margins(self, patch_size: Sequence[int]) -> Margins:
        configuration = self.configuration_manager
        usual = configuration.configuration.get("median_image_size_in_voxels", patch_size)
        return Margins.to_size(patch_size, configuration.patch_size if self._box is None else self._box, usual)

    def _record(self, settings: SynthSettings, bank: Path | None) -> None:
        """Leave in the fold's folder what synthetic data the model sees."""
        if self.local_rank == 0 and self.current_epoch < self.num_epochs:
            record_use(Path(self.output_folder), type(self).__name__, self.current_epoch, settings, bank)

    def _ratio_now(self) -> float:
        settings = self.synth_settings
        return ratio_at(settings.ratio, settings.schedule, self.current_epoch, self.num_epochs)


def _choose_bank(preprocessed: Preprocessed, fold: Fold, settings: SynthSettings) -> Path:
    """The bank that the settings name, else the newest of the fold."""
    folder = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, fold.name)
    if settings.bank is not None:
        return folder / settings.bank
    found = find_banks(folder)
    if not found:
        raise UserError(
            f"No complete bank in {folder}. Fill one: nnunet-synth bank "
            f"{preprocessed.dataset_name} {preprocessed.configuration_name} {fold.name} -n 1000"
        )
    return found[-1]


class nnUNetTrainerSynth(SyntheticDataMixin, nnUNetTrainer):
    """nnU-Net's default trainer with synthetic pairs."""


class nnUNetTrainerSynth_1epoch(SyntheticDataMixin, nnUNetTrainer_1epoch):
    pass


class nnUNetTrainerSynth_5epochs(SyntheticDataMixin, nnUNetTrainer_5epochs):
    pass


class nnUNetTrainerSynth_10epochs(SyntheticDataMixin, nnUNetTrainer_10epochs):
    pass


class nnUNetTrainerSynth_20epochs(SyntheticDataMixin, nnUNetTrainer_20epochs):
    pass


class nnUNetTrainerSynth_50epochs(SyntheticDataMixin, nnUNetTrainer_50epochs):
    pass


class nnUNetTrainerSynth_100epochs(SyntheticDataMixin, nnUNetTrainer_100epochs):
    pass


class nnUNetTrainerSynth_250epochs(SyntheticDataMixin, nnUNetTrainer_250epochs):
    pass


class nnUNetTrainerDA5Synth(SyntheticDataMixin, nnUNetTrainerDA5):
    """With nnU-Net's strongest classical augmentation."""


class nnUNetTrainerNoMirroringSynth(SyntheticDataMixin, nnUNetTrainerNoMirroring):
    """For anatomy whose sides differ."""


class nnUNetTrainer_onlyMirror01Synth(SyntheticDataMixin, nnUNetTrainer_onlyMirror01):
    pass
