"""nnU-Net trainers that mix synthetic pairs into the training cases. They only add hooks; the network is nnU-Net's."""

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

from nnunet_synth.bank.format import BankRecord, Scans, find_banks
from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.training.cutmix import CutMix
from nnunet_synth.training.leak_guard import refuse_leaks
from nnunet_synth.training.mirror_padding import NO_MARGINS, Margins
from nnunet_synth.training.mixed_dataset import MixedBank, MixedDataset, MixingControl
from nnunet_synth.training.schedule import ratio_at
from nnunet_synth.training.settings import SynthSettings, read_settings
from nnunet_synth.training.usage_record import record_use
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Fold, Preprocessed
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


class SyntheticDataMixin:
    """Goes before any nnU-Net trainer: `class MineSynth(SyntheticDataMixin, Mine): pass`.

    With ratio 0 and without CutMix, no hook changes nnU-Net's training: weights are equal bit for bit.
    """

    _control: MixingControl | None = None
    _cutmix: CutMix | None = None
    _ratios: Sequence[float] = ()  # of the banks, at their highest
    _box: Sequence[int] | None = None  # size that nnU-Net's loader cuts before it rotates and scales

    @property
    def synth_settings(self) -> SynthSettings:
        """The `synth` block of the configuration, or its defaults."""
        where = f"configuration {self.configuration_name} in plans {self.plans_manager.plans_name}"
        return read_settings(self.configuration_manager.configuration, where)

    def get_tr_and_val_datasets(self) -> tuple:
        """nnU-Net's datasets, with synthetic pairs mixed into the training cases. Validation cases are always real."""
        try:
            return self._datasets()
        except UserError:
            Path(self.log_file).unlink(missing_ok=True)
            for folder in (Path(self.output_folder), Path(self.output_folder_base)):
                with suppress(OSError):  # not empty: more than what nnU-Net makes before it trains
                    folder.rmdir()
            raise

    def _datasets(self) -> tuple:
        training, validation = super().get_tr_and_val_datasets()
        settings = self.synth_settings
        if not settings.shares:
            self._record(settings, banks=[])
            return training, validation
        if self.is_cascaded:
            raise UserError(
                f"Configuration {self.configuration_name} is the second stage of a cascade, which takes no synthetic "
                f"pairs. Train it with -tr nnUNetTrainer, or set the ratio to 0."
            )
        preprocessed = Preprocessed(
            self.plans_manager.dataset_name, self.plans_manager, self.configuration_name, self.dataset_json
        )
        fold = Fold(str(self.fold), tuple(training.identifiers), tuple(validation.identifiers))
        here, banks = Source.of(preprocessed, fold), {}
        for name, _ in settings.shares:
            folder = _choose_bank(preprocessed, fold, name)
            refuse_leaks(
                folder, BankRecord.load(folder / RECORD_FILE), here, case_hashes(preprocessed, fold.validation)
            )
            banks[folder] = record = verify_bank(folder, preprocessed)
            if fold.name == FOLD_ALL:
                self.print_to_log_file(
                    f"Fold all: validation cases are also training cases, so validation scores are meaningless. The "
                    f"bank's generator saw {len(record.source.training_cases)} of the {len(fold.training)} cases."
                )
        settings = settings.with_default_ratio(any(isinstance(record.origin, Scans) for record in banks.values()))
        self._ratios = [ratio for _, ratio in settings.shares]
        for (folder, record), ratio in zip(banks.items(), self._ratios, strict=True):
            self.print_to_log_file(
                f"Synthetic pairs: bank {folder}, {record.samples} samples, ratio {ratio}, {settings.schedule}, "
                f"CutMix {settings.cutmix}"
            )
        self._record(settings, banks=list(banks))
        self._control = MixingControl(len(banks))
        self._control.ratios = self._ratios_now()
        mixed = MixedDataset(training, [self._open_bank(*one) for one in banks.items()], self._control)
        if self._cutmix is not None:
            self._cutmix.watch(mixed, sum(self._ratios))
        return mixed, validation

    def _open_bank(self, folder: Path, record: BankRecord) -> MixedBank:
        dataset = BankDataset(str(folder), [shard.name for shard in record.shards])
        return MixedBank(dataset, record, self._margins(record))

    def get_training_transforms(self, *args: object, **kwargs: object) -> object:
        """nnU-Net's transforms of training patches, after CutMix if the settings want it."""
        transforms, settings = super().get_training_transforms(*args, **kwargs), self.synth_settings
        if not settings.cutmix:
            return transforms
        self._cutmix = CutMix(transforms, settings.cutmix)
        return self._cutmix

    def _margins(self, record: BankRecord) -> Margins:
        """Those of a bank's samples: generated patches are padded to the size of real cases."""
        if isinstance(record.origin, Scans):
            return NO_MARGINS
        configuration, patch_size = self.configuration_manager, record.origin.patch_size
        usual = configuration.configuration.get("median_image_size_in_voxels", patch_size)
        return Margins.to_size(patch_size, configuration.patch_size if self._box is None else self._box, usual)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:
        """As nnU-Net's; remembers the size of the loader's box."""
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self._box = found[2]
        return found

    def on_train_epoch_start(self) -> None:
        """Set the epoch's ratio."""
        super().on_train_epoch_start()
        if self._control is not None:
            self._control.ratios = self._ratios_now()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the epoch's share of synthetic draws."""
        super().on_train_epoch_end(train_outputs)
        if self._control is not None:
            real, *draws = self._control.take()
            synthetic, total = sum(draws), real + sum(draws)
            of_banks = f", {' + '.join(map(str, draws))}" if len(draws) > 1 else ""
            self.print_to_log_file(
                f"Synthetic share {synthetic / max(1, total):.4f} (ratio {sum(self._control.ratios):.4f}; "
                f"{synthetic} of {total} draws{of_banks})"
            )

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, with the name of the plain trainer, so that inference needs no plugin.

        nnU-Net writes the name of the object's class, so the class is changed while it writes.
        """
        own = self.__class__
        self.__class__ = own.__mro__[own.__mro__.index(SyntheticDataMixin) + 1]
        try:
            self.save_checkpoint(filename)
        finally:
            self.__class__ = own

    def _record(self, settings: SynthSettings, banks: Sequence[Path]) -> None:
        if self.local_rank == 0 and self.current_epoch < self.num_epochs:
            record_use(Path(self.output_folder), type(self).__name__, self.current_epoch, settings, banks)

    def _ratios_now(self) -> list[float]:
        """Of each bank, in this epoch."""
        schedule = self.synth_settings.schedule
        return [ratio_at(ratio, schedule, self.current_epoch, self.num_epochs) for ratio in self._ratios]


def _choose_bank(preprocessed: Preprocessed, fold: Fold, name: str | None) -> Path:
    """The bank of a name, or else the newest of the fold."""
    folder = banks_folder(preprocessed.base, preprocessed.configuration.data_identifier, fold.name)
    if name is not None:
        return folder / name
    if found := find_banks(folder):
        return found[-1]
    raise UserError(
        f"No complete bank in {folder}. Fill one: nnunet-synth bank {preprocessed.dataset_name} "
        f"{preprocessed.configuration_name} {fold.name} -n 1000"
    )


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
    """With nnU-Net's strongest augmentation."""


class nnUNetTrainerNoMirroringSynth(SyntheticDataMixin, nnUNetTrainerNoMirroring):
    """For anatomy that is not symmetric."""


class nnUNetTrainer_onlyMirror01Synth(SyntheticDataMixin, nnUNetTrainer_onlyMirror01):
    pass
