"""How far rounding may move a result, whatever the order of its sums; tolerances of tests follow from it."""

from __future__ import annotations

import numpy as np
import torch

NETWORK = 2000  # terms that a voxel of a test's network sums: a dozen layers of 16 channels and 3 × 3 voxels each


def rounding(terms: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """Bound on the error of a sum of `terms` numbers in any order; their magnitudes add up to `scale`.

    (n - 1)·u·Σ|x|, where the unit roundoff u is half of eps (Higham 2002, section 4.2). Twice that leaves room for the
    products that are summed.
    """
    return terms * torch.finfo(dtype).eps * scale


def assert_rounded(
    found: torch.Tensor | np.ndarray,
    expected: torch.Tensor | np.ndarray,
    *,
    terms: int,
    scale: float | None = None,
) -> None:
    """Two float32 results of the same sums differ by rounding alone, next to the largest of them or to `scale`."""
    found, expected = (torch.as_tensor(one).double() for one in (found, expected))
    scale = expected.abs().max().item() if scale is None else scale
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(terms, scale))
