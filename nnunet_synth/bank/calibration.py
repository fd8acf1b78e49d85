"""What filters learn their limits from: real patches and, if there is one, the fold's nnU-Net."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.errors import UserError
from stylegan2_cond.metrics.features_nnunet import NnUNet, open_newest, open_nnunet
from stylegan2_cond.metrics.reference_sets import ReferenceSet, cache_folder
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import write_line

REAL_PATCHES = {2: 1000, 3: 200}  # by the number of axes


@dataclass(frozen=True)
class FilterCalibration:
    """What filters learn their limits from.

    Attributes:
        reference: patches of the training cases; each part is cut when a filter first uses it.
        labels: all labels that a mask may have.
        nnunet: trained on the real cases of the fold; None if there is none.
        margin: tolerance of each filter, as a fraction of the real range.
        cache: folder for results that depend on the reference alone; None to cache nothing.
    """

    reference: ReferenceSet
    labels: Sequence[int]
    nnunet: NnUNet | None
    margin: float
    cache: Path | None = None


def open_calibration(
    preprocessed: Preprocessed, plan: Plan, margin: float, device: str, *, nnunet: Path | None, fit: bool
) -> FilterCalibration:
    """The calibration of a bank's filters.

    Args:
        preprocessed: the folder with the training cases.
        plan: of the generator.
        margin: tolerance of each filter.
        device: for nnU-Net.
        nnunet: folder of a trained nnU-Net; None for the newest of the fold, and for none with a warning.
        fit: whether the filter `fit` is used; without it, no nnU-Net is opened.

    Raises:
        UserError: the nnU-Net in `nnunet` cannot be used.
    """
    network = None
    if fit and nnunet is not None:
        network = open_nnunet(nnunet, plan.source, device)
    elif fit:
        try:
            network = open_newest(plan.source, device)
        except UserError as error:
            write_line(f"The filter 'fit' is off. {error}", sys.stderr)
    reference = ReferenceSet(preprocessed, plan, REAL_PATCHES[len(plan.patch_size)])
    cache = cache_folder(plan)
    return FilterCalibration(reference, plan.codec.labels, network, margin, cache)
