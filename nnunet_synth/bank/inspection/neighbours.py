"""The training canvas that each sample is most like, and how alike real canvases of different cases are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_synth.bank.inspection.real_side import RealSide
from stylegan2_cond.metrics.copies import ALARMS, FEWEST_CASES, Find, Nearest, by_correlation, case_numbers
from stylegan2_cond.metrics.samples import Samples
from stylegan2_cond.progress_bar import ProgressBar

BATCH = 1000  # looked up at once; half as many take a third longer


@dataclass(frozen=True)
class Neighbours:
    """What the training cases are to the samples, and to real canvases of other cases.

    Attributes:
        drawn: of the samples.
        real: of the real canvases, each among the cases that are not its own; None with a single case.
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


def find_neighbours(samples: Samples, real: RealSide) -> Neighbours:
    """Largest normalised cross-correlation over small shifts, with every canvas of the training cases."""
    find = by_correlation(real.reference)
    cases = len(np.unique(real.reference.case))
    with ProgressBar(total=len(samples) + len(real.canvases), desc="Looking for neighbours", unit="canvas") as bar:
        drawn = _in_batches(find, samples, None, bar)
        own = case_numbers(real.reference, real.canvases)
        usual = _in_batches(find, real.canvases, own, bar) if cases > 1 else None
    known = usual is not None and cases >= FEWEST_CASES
    return Neighbours(drawn, usual, float(np.quantile(usual.score, ALARMS)) if known else None)


def _in_batches(find: Find, samples: Samples, own: np.ndarray | None, bar: ProgressBar) -> Nearest:
    parts = []
    for start in range(0, len(samples), BATCH):
        chosen = slice(start, start + BATCH)
        parts.append(find(samples.take(chosen), None if own is None else own[chosen]))
        bar.update(len(parts[-1].index))
    columns = zip(*((part.score, part.nearness, part.index) for part in parts), strict=True)
    return Nearest(*(np.concatenate(column) for column in columns))
