"""How far rounding may move a result, whatever the order of its sums; tolerances of tests follow from it."""

from __future__ import annotations

import torch


def rounding(terms: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """Bound on the error of a sum of `terms` numbers in any order; their magnitudes add up to `scale`.

    (n - 1)·u·Σ|x|, where the unit roundoff u is half of eps (Higham 2002, section 4.2). Twice that leaves room for the
    products that are summed.
    """
    return terms * torch.finfo(dtype).eps * scale


def assert_rounded(found: torch.Tensor, expected: torch.Tensor, *, terms: int, scale: float | None = None) -> None:
    """Two results of the same sums differ by rounding alone, next to the largest of them or to `scale`."""
    dtype = found.dtype if found.dtype.is_floating_point else torch.float32
    scale = expected.abs().max().item() if scale is None else scale
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=rounding(terms, scale, dtype))
