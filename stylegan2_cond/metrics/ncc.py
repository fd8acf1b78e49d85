"""Normalised cross-correlation (NCC) of many patches with many others, maximised over small shifts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len

RIM = 3  # voxels left out at each end of a query, so that a copy may be shifted by as many
COARSE_VOXELS = 256  # of the small patches that the search starts with
QUERIES = 2048  # processed at once
REFERENCES = 512
CANDIDATES = 6  # cases that are compared at full resolution
EACH = 3  # patches of each of them; small versions of neighbouring slices are much alike
BLOCK_BYTES = 2**26
SMALLEST_NORM = 1e-3  # of a window in nnU-Net's units, below which it counts as constant


def nearest_cases(
    queries: torch.Tensor,
    reference: torch.Tensor,
    cases: np.ndarray,
    own: np.ndarray | None = None,
    count: int = CANDIDATES,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each query, the most similar patch of each of the most similar cases.

    Small versions are correlated with all reference patches; the best few of each of the best cases are then
    correlated at full resolution.

    Args:
        queries: `[N, C, *spatial]`.
        reference: `[M, C, *size]`, as large as the queries, or larger by a margin, which allows larger shifts.
        cases: `[M]` numbers, from 0 on, of the reference patches' cases; patches of a case are contiguous.
        own: `[N]` number of the query's own case, which it is not compared with; -1 for none.
        count: maximum number of cases for each query.
        progress: called with the number of queries processed since the last call.

    Returns:
        correlation: `[N, count]`, best first.
        index: `[N, count]`, of the reference patches.
    """
    starts = np.flatnonzero(np.diff(cases, prepend=-1))
    count = min(count, len(starts) - (own is not None))
    found = []
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        scores = coarse_correlation(queries[part], reference)
        index = best_of_cases(scores, starts, cases, None if own is None else own[part], count)  # [n, count, each]
        partners, exact = index.flatten(1), []
        size = max(1, BLOCK_BYTES // (4 * math.prod(reference.shape[1:]) * partners.shape[1]))
        for query, candidates in zip(queries[part].split(size), partners.split(size), strict=True):
            exact.append(largest_correlation(query, reference[candidates]))
            progress(len(query))
        best = torch.cat(exact).reshape(index.shape).max(dim=2)
        index = index.gather(2, best.indices.unsqueeze(2)).squeeze(2)
        order = best.values.argsort(dim=1, descending=True)
        found.append((best.values.gather(1, order), index.gather(1, order)))
    return torch.cat([c for c, _ in found]), torch.cat([i for _, i in found])


def largest_correlation(queries: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Each query's largest normalised cross-correlation with its partners, over all shifts that they allow.

    Args:
        queries: `[N, C, *spatial]`.
        partners: `[N, K, C, *size]`.

    Returns:
        `[N, K]`, between -1 and 1.
    """
    return correlations(queries, partners).flatten(2).amax(dim=2).clamp(-1, 1)


def correlations(queries: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Normalised cross-correlations at all places (Lewis 1995, Fast Template Matching).

    The query without its rim is compared with every window of the partner that it fits. Correlations of the channels
    are averaged; constant windows have correlation 0.

    Args:
        queries: `[N, C, *spatial]`.
        partners: `[N, K, C, *size]`.

    Returns:
        `[N, K, *places]`.
    """
    inner = without_rim(queries)
    axes, size = list(range(3, partners.ndim)), partners.shape[3:]
    template = _normalise(inner).reshape(inner.shape).unsqueeze(1) * math.sqrt(inner.shape[1])
    partners = partners - partners.mean(dim=axes, keepdim=True)
    fast = [next_fast_len(length, real=True) for length in size]  # padding reaches no valid place
    spectrum = torch.fft.rfftn(template, s=fast, dim=axes).conj() * torch.fft.rfftn(partners, s=fast, dim=axes)
    products = torch.fft.irfftn(spectrum, s=fast, dim=axes)
    valid = (..., *(slice(whole - length + 1) for whole, length in zip(size, inner.shape[2:], strict=True)))
    flat = partners.flatten(0, 1)
    sums, squares = _box_sum(flat, inner.shape[2:]), _box_sum(flat.square(), inner.shape[2:])
    norm = (squares - sums.square() / math.prod(inner.shape[2:])).clamp_min(0).sqrt().unflatten(0, partners.shape[:2])
    return torch.where(norm > SMALLEST_NORM, products[valid] / norm.clamp_min(SMALLEST_NORM), 0).mean(dim=2)


def align(query: np.ndarray, partner: np.ndarray) -> tuple[int, ...]:
    """The lower corner in the partner, `[C, *size]`, where the query without its rim, `[C, *spatial]`, fits best."""
    found = correlations(torch.from_numpy(query)[None], torch.from_numpy(partner)[None, None])[0, 0]
    return tuple(int(place) for place in np.unravel_index(int(found.argmax()), found.shape))


def coarse_correlation(queries: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """`[N, M]`: approximate `largest_correlation` of all pairs, from patches of about `COARSE_VOXELS`."""
    inner = without_rim(queries)
    side = round(COARSE_VOXELS ** (1 / (inner.ndim - 2)))
    factors = [-(-length // side) for length in inner.shape[2:]]
    template = _box_sum(inner, factors)[(..., *(slice(None, None, factor) for factor in factors))]
    reach = [1 + factor * (length - 1) for factor, length in zip(factors, template.shape[2:], strict=True)]
    template = _normalise(template)
    scores = queries.new_full((len(queries), len(reference)), -1)
    for start in range(0, len(reference), REFERENCES):
        best = scores[:, start : start + REFERENCES]
        block = _box_sum(reference[start : start + REFERENCES], factors)
        places = [
            range(0, whole - length + 1, -(-factor // 2))
            for whole, length, factor in zip(block.shape[2:], reach, factors, strict=True)
        ]
        for corner in itertools.product(*places):
            box = (..., *(slice(c, c + r, f) for c, r, f in zip(corner, reach, factors, strict=True)))
            torch.maximum(best, template @ _normalise(block[box]).T, out=best)
    return scores


def without_rim(image: torch.Tensor) -> torch.Tensor:
    """`[N, C, *spatial]` without what `rims` says at each end of each axis."""
    patch_size = image.shape[2:]
    return image[(..., *(slice(rim, length - rim) for rim, length in zip(rims(patch_size), patch_size, strict=True)))]


def rims(patch_size: Sequence[int]) -> list[int]:
    """`RIM` voxels, or an eighth of a short axis."""
    return [min(RIM, length // 8) for length in patch_size]


def _box_sum(image: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Sums over all boxes within the image, axis by axis as products with banded matrices.

    For boxes of 122², pooling takes 8 times as long.
    """
    for axis, length in enumerate(lengths, start=image.ndim - len(lengths)):
        size = image.shape[axis]
        place, start = torch.arange(size).unsqueeze(1), torch.arange(size - length + 1)
        band = ((place >= start) & (place < start + length)).to(image.dtype)
        image = (image.movedim(axis, -1) @ band).movedim(-1, axis)
    return image


def best_of_cases(
    scores: torch.Tensor, starts: np.ndarray, cases: np.ndarray, own: np.ndarray | None, count: int
) -> torch.Tensor:
    """`[n, M]` scores → `[n, count, EACH]` indices of the best patches of the best cases, without `own` cases."""
    by_case = torch.from_numpy(np.maximum.reduceat(scores.numpy(), starts, axis=1))
    if own is not None:
        rows = np.flatnonzero(own >= 0)
        by_case[rows, own[rows]] = -torch.inf
    chosen = by_case.topk(count, dim=1).indices.numpy()  # [n, count]
    lengths = np.diff(np.append(starts, len(cases)))
    places = starts[chosen][..., None] + np.minimum(np.arange(lengths.max()), lengths[chosen][..., None] - 1)
    within = scores.gather(1, torch.from_numpy(places.reshape(len(places), -1))).reshape(places.shape)
    beyond = np.arange(lengths.max()) >= lengths[chosen][..., None]  # a short case's last patch, repeated
    within = within.masked_fill(torch.from_numpy(beyond), -torch.inf)
    best = within.topk(min(EACH, within.shape[2]), dim=2).indices
    return torch.from_numpy(places).gather(2, best)


def _normalise(window: torch.Tensor) -> torch.Tensor:
    """`[N, C, *size]` → `[N, C · voxels]`; the inner product of two is the mean of their channels' correlations."""
    flat = window.flatten(2)
    flat = flat - flat.mean(dim=2, keepdim=True)
    norm = flat.norm(dim=2, keepdim=True)
    flat = torch.where(norm > SMALLEST_NORM, flat / norm.clamp_min(SMALLEST_NORM), torch.zeros_like(flat))
    return flat.flatten(1) / math.sqrt(window.shape[1])
