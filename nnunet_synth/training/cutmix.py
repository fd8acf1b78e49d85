"""CutMix between two patches: a box of one replaces the same box of the other, label and all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from nnunet_synth.training.mixed_dataset import MixedDataset


class CutMix:
    """Goes before nnU-Net's transforms, in the loader's process.

    A patch meets the last patch of the other kind, real or from a bank, that this process has loaded; without banks,
    the last patch. The box is that of Yun et al. (2019), CutMix, section 3.1, in any number of dimensions: its share of
    the patch is uniform in [0, 1], and so is its centre in the patch.

    Args:
        transforms: nnU-Net's; called with `image` `[C, *spatial]` and `segmentation` `[1, *spatial]`.
        probability: of a mixed patch; with banks, while their ratios have their full value, and it changes as they do.
    """

    def __init__(self, transforms: Callable[..., dict], probability: float):
        self.transforms = transforms
        self.probability = probability
        self.dataset: MixedDataset | None = None
        self.full_ratio = 1.0
        self._last: dict[bool, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(self, dataset: MixedDataset, full_ratio: float) -> None:
        """Tell kinds apart by the last draw of a dataset, whose ratios have the sum `full_ratio` at their highest."""
        self.dataset, self.full_ratio = dataset, full_ratio

    def __call__(self, image: torch.Tensor, segmentation: torch.Tensor) -> dict:
        """The transformed patch, perhaps with a box of another one."""
        from_bank, mixed_with_bank, strength = False, False, 1.0
        if self.dataset is not None:
            from_bank = self.dataset.source > 0
            mixed_with_bank = not from_bank
            strength = float(sum(self.dataset.control.ratios)) / self.full_ratio
        other = self._last.get(mixed_with_bank)
        self._last[from_bank] = image, segmentation
        if strength > 0 and other is not None and np.random.uniform() < strength * self.probability:
            image, segmentation = image.clone(), segmentation.clone()
            box = random_box(image.shape[1:])
            image[(slice(None), *box)] = other[0][(slice(None), *box)]
            segmentation[(slice(None), *box)] = other[1][(slice(None), *box)]
        return self.transforms(image=image, segmentation=segmentation)


def random_box(shape: Sequence[int]) -> tuple[slice, ...]:
    """A box within a patch of a shape, cut off where it would reach beyond."""
    side = np.random.uniform() ** (1 / len(shape))
    found = []
    for length in shape:
        centre, half = np.random.uniform() * length, side * length / 2
        found.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
    return tuple(found)
