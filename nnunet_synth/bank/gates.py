"""Gates: checks that a sample must pass to enter a bank. Each is one function, registered by its name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stylegan2_cond.snapshot import Pairs

Gate = Callable[[Pairs], np.ndarray]  # → `[N]` bool, True for samples that may enter


def finite(pairs: Pairs) -> np.ndarray:
    """All intensities are numbers."""
    return np.isfinite(pairs.image).reshape(len(pairs.image), -1).all(axis=1)


GATES: dict[str, Gate] = {"finite": finite}


def pass_gates(pairs: Pairs) -> tuple[Pairs, dict[str, int]]:
    """The samples that every gate lets in, and how many each gate was the first to refuse."""
    entering = np.ones(len(pairs.image), dtype=bool)
    refused = {}
    for name, gate in GATES.items():
        allowed = gate(pairs)
        refused[name] = int((entering & ~allowed).sum())
        entering &= allowed
    return Pairs(pairs.image[entering], pairs.label[entering]), refused
