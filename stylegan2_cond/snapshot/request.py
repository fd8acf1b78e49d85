"""What a user asks samples to show, and where the masks come from that images are generated for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class SampleRequest:
    """What samples shall show; whatever is None varies as it does among the training patches.

    Attributes:
        classes: labels; exactly these are shown.
        position: of a slice in its volume, from 0 (first) to 1 (last).
        areas: fraction of the patch that each of these labels covers.
    """

    classes: Sequence[int] | None = None
    position: float | None = None
    areas: Mapping[int, float] | None = None


class MaskSource(Protocol):
    """Masks that images are generated for; each depends on the seed, its number and the request alone."""

    def sample(
        self, seed: int, numbers: Sequence[int], request: SampleRequest = SampleRequest()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Label maps `[N, *spatial]` int16, and positions of slices in their volumes, `[N]` float32 from 0 to 1.

        Raises:
            ValueError: the source cannot meet the request.
        """
