"""What a user asks for with `nnunet-synth pseudo-label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_NAME = "pseudo"
DEFAULT_LEAST = 0.7
ROUNDS = 1


@dataclass(frozen=True)
class PseudoLabelRequest:
    """What a bank of pseudo-labelled scans is to hold.

    Attributes:
        source: a folder of images, or a list of preprocessed cases.
        teachers: folders of trained nnU-Nets; none for all of the fold that saw labelled cases alone.
        name: of the bank.
        without: filters to turn off: `confidence`, `anatomy` or `all`.
        least_confidence: of each class, below which the filter `confidence` refuses it; None for 0.7, or more where
            labelled cases that teachers had not seen tell.
        transductive: let validation and test cases in.
    """

    source: str
    teachers: tuple[Path, ...] = ()
    name: str = DEFAULT_NAME
    without: tuple[str, ...] = ()
    least_confidence: float | None = None
    transductive: bool = False
