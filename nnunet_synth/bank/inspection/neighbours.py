"""The training patch that each sample is most like, and how alike real patches of different cases are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_synth.bank.inspection.real_side import RealSide
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.memorization import (
    ALARMS,
    CORRELATION,
    FEWEST_CASES,
    Nearest,
    by_correlation,
    usual_nearness,
)
from stylegan2_cond.progress_bar import ProgressBar


@dataclass(frozen=True)
class Neighbours:
    """What the training cases are to the samples, and to real patches of other cases.

    Attributes:
        drawn: of the samples.
        real: of the real patches, each among the cases that are not its own; None with a single case.
        threshold: scores below it are alarms, as in `stylegan2-cond evaluate`; None with too few cases to know.
    """

    drawn: Nearest
    real: Nearest | None
    threshold: float | None

    @property
    def alarms(self) -> np.ndarray:
        """`[N]` booleans: which samples are taken for copies."""
        return self.drawn.score < (-np.inf if self.threshold is None else self.threshold)

    def worst(self, count: int) -> np.ndarray:
        """The samples that are most like copies: nearer to one case than to the next ones; or else just nearest."""
        order = -self.drawn.nearness if self.threshold is None else self.drawn.score
        return np.argsort(order, kind="stable")[:count]


def find_neighbours(samples: SampleSet, real: RealSide, keep: Path | None = None) -> Neighbours:
    """Largest normalised cross-correlation over small shifts, with every patch of the training cases.

    `keep`: folder where what is usual of real patches is kept, once it was found.
    """
    with ProgressBar(total=len(samples), desc="Looking for neighbours", unit="patch_size") as bar:
        drawn = by_correlation(real.reference, bar.update)(samples, None)
    usual, cases = None, len(np.unique(real.reference.case))
    if cases > 1:
        title = "Learning how alike real patches are"
        with ProgressBar(total=len(real.patches), desc=title, unit="patch_size", leave=False, delay=1) as bar:
            find = by_correlation(real.reference, bar.update)
            usual = usual_nearness(find, real.patches, real.reference, CORRELATION, keep)
    known = usual is not None and cases >= FEWEST_CASES
    return Neighbours(drawn, usual, float(np.quantile(usual.score, ALARMS)) if known else None)
