"""Conditions: which classes a sample shows, how large, and where; measured on real patches and sampled like them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator
from typing_extensions import Self

from stylegan2_cond.data.condition_sampler import ConditionTable, Row, measured_rows, weighted_choice
from stylegan2_cond.data.transfer import constant

MIN_SPREAD = 0.1  # of log areas, by which they are standardised
MIN_ROOM = 1e-6  # share of a patch that a class can be squeezed into


class Conditions(BaseModel):
    """Which foreground classes a patch shows, how much of each, and where in its volume a slice lies.

    The condition vector holds, for each class, 1 where it is shown and 0 where not; then, for each class, the log of
    its share of the patch's voxels, standardised, 0 where it is not shown; then, with `has_position`, the position
    of the slice, from -1 to 1.

    Attributes:
        classes: the foreground labels, in the order of the vector.
        has_position: whether patches are slices of volumes, with a known position.
        log_area_mean, log_area_sd: of each class, over the measured patches that show it.
        rows: measured patches to sample from. Each row holds how many patches it stands for; the log of each class's
            share of the voxels, None where it is not shown; and, with `has_position`, the position from 0 to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: tuple[int, ...]
    has_position: bool
    log_area_mean: tuple[float, ...] = ()
    log_area_sd: tuple[float, ...] = ()
    rows: tuple[Row, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.log_area_mean) == len(self.log_area_sd) == len(self.classes):
            raise ValueError(f"log_area_mean and log_area_sd need a number for each of the classes {self.classes}")
        if not all(sd > 0 for sd in self.log_area_sd):
            raise ValueError("log_area_sd must be above 0")
        self.table  # noqa: B018  (raises where rows are wrong)
        return self

    @cached_property
    def table(self) -> ConditionTable:
        """The rows as arrays."""
        return ConditionTable.from_rows(self.rows, len(self.classes), has_position=self.has_position)

    @property
    def width(self) -> int:
        """Length of the condition vector."""
        return 2 * len(self.classes) + self.has_position

    @classmethod
    def from_patches(cls, classes: Sequence[int], labels: np.ndarray, positions: np.ndarray | None) -> Conditions:
        """Measure patches that are sampled as the generator's training samples them.

        Args:
            classes: the foreground labels.
            labels: `[N, *spatial]`, in random order.
            positions: `[N]`, of slices in their volumes, from 0 to 1; None for volumes. Positions that are all equal
                are not part of the conditions.
        """
        shares = _shares(torch.from_numpy(np.ascontiguousarray(labels)), classes)
        areas = shares.double().log().numpy()
        has_position = positions is not None and bool(np.ptp(positions) > 0)
        mean, sd = _moments(areas)
        return cls(
            classes=tuple(int(label) for label in classes),
            has_position=has_position,
            log_area_mean=tuple(mean.round(4).tolist()),
            log_area_sd=tuple(sd.round(4).tolist()),
            rows=measured_rows(areas, positions if has_position else None),
        )

    def combinations(self) -> dict[tuple[int, ...], float]:
        """Which classes the training patches show together, and the share of each combination; the largest first."""
        if not self.rows:
            return {}
        shares: Counter[tuple[int, ...]] = Counter()
        for row, weight in zip(self.table.shown, self.table.weights / self.table.weights.sum(), strict=True):
            shares[tuple(label for label, there in zip(self.classes, row, strict=True) if there)] += float(weight)
        return dict(shares.most_common())

    def shares(self, label: torch.Tensor) -> torch.Tensor:
        """`[N, classes]` float32: how much of each patch, `[N, *spatial]`, each class fills, from 0 to 1."""
        return _shares(label, self.classes)

    def measure(self, label: torch.Tensor, position: torch.Tensor | None = None) -> torch.Tensor:
        """Condition vectors `[N, width]` float32 of label maps `[N, *spatial]`, and of positions `[N]` from 0 to 1.

        Raises:
            ValueError: position is None, though it is part of the conditions.
        """
        shares = self.shares(label)
        moments = self.log_area_mean, self.log_area_sd
        mean, sd = (constant(tuple(values), shares.dtype, shares.device) for values in moments)
        parts = [(shares > 0).float(), torch.where(shares > 0, (shares.log() - mean) / sd, 0)]
        if self.has_position:
            if position is None:
                raise ValueError("the position of each slice is part of these conditions, and must be given")
            parts.append(2 * position.to(shares).reshape(-1, 1) - 1)
        return torch.cat(parts, dim=1)

    def decode(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The classes shown and their log areas (NaN where not shown), `[N, classes]`, and the positions of vectors.

        Positions, `[N]`, go from 0 to 1; None where they are not part of the conditions.
        """
        count = len(self.classes)
        shown, areas = vectors[:, :count] > 0.5, vectors[:, count : 2 * count]
        areas = areas * vectors.new_tensor(self.log_area_sd) + vectors.new_tensor(self.log_area_mean)
        return shown, torch.where(shown, areas, torch.nan), (vectors[:, -1] + 1) / 2 if self.has_position else None

    def sample(
        self,
        rng: np.random.Generator,
        *,
        classes: Sequence[int] | None = None,
        position: float | None = None,
        areas: Mapping[int, float] | None = None,
    ) -> torch.Tensor:
        """One condition vector `[width]` that meets the request exactly; the rest follows the measured patches.

        A smoothed bootstrap (Silverman 1986, section 6.4): one of the measured patches that are nearest to the
        request, its log areas and position moved by a Gaussian kernel within the measured range. The state of `rng`
        afterwards does not depend on the request, so the same latents can follow.

        Args:
            rng: source of the random numbers.
            classes: exactly these are shown, and those of `areas`; as in the measured patches if None.
            position: of the slice, from 0 to 1.
            areas: shares of the patch's voxels, above 0 and up to 1, of classes that are then shown.

        Raises:
            ValueError: an unknown class, a position or area out of range, or areas that do not fit into one patch.
        """
        request, table = _Request.checked(self, classes, position, areas or {}), self.table
        picks, steps = self._variates(rng)
        row = weighted_choice(table.row_weights(request.classes, request.others, request.areas, position), picks[0])
        place = table.move_position(row, steps[-1]) if position is None else position
        shown = request.classes | (table.shown[row] & request.others)
        rows = np.full(len(shown), row)
        for column in np.flatnonzero(shown & ~table.shown[row]):  # the area comes from another patch
            weights = table.row_weights(np.arange(len(shown)) == column, position=place)
            rows[column] = weighted_choice(weights, picks[1 + column])
        known = table.shown[rows, np.arange(len(shown))]
        sampled = request.fit(np.where(known, table.move_areas(rows, steps[:-1]), self.log_area_mean), shown)
        standardised = np.where(shown, (sampled - self.log_area_mean) / self.log_area_sd, 0)
        vector = np.concatenate([shown, standardised, [2 * place - 1] if self.has_position else []])
        return torch.from_numpy(vector.astype(np.float32))

    def skip(self, rng: np.random.Generator) -> None:
        """Advance `rng` as `sample` does, where a condition is measured instead, so that the same latents follow."""
        self._variates(rng)

    def _variates(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.random(1 + len(self.classes)), rng.standard_normal(len(self.classes) + 1)


@dataclass(frozen=True)
class _Request:
    """A checked request for one condition.

    Attributes:
        classes: `[classes]` booleans, those to be shown.
        others: whether others may be shown as well.
        areas: `[classes]`, logs of shares; NaN where they are free.
        room: share of the patch that is left for classes whose area is free.
    """

    classes: np.ndarray
    others: bool
    areas: np.ndarray
    room: float

    @classmethod
    def checked(
        cls, conditions: Conditions, classes: Sequence[int] | None, position: float | None, areas: Mapping[int, float]
    ) -> _Request:
        known = conditions.classes
        if unknown := sorted({*(classes or ()), *areas} - set(known)):
            raise ValueError(f"class {unknown[0]} is not one that this generator knows: {list(known)}")
        if position is not None and not conditions.has_position:
            raise ValueError("this generator has no positions, since its patches are not slices of volumes")
        if position is not None and not 0 <= position <= 1:
            raise ValueError(f"position {position:g} is not between 0, the first slice, and 1, the last")
        for label, area in areas.items():
            if not 0 < area <= 1:
                raise ValueError(f"area {area:g} of class {label} is not a share of the patch, above 0 and up to 1")
        room = 1 - sum(areas.values())
        free = sorted(set(classes or ()) - set(areas))
        if room < -MIN_ROOM or (free and room < MIN_ROOM):
            room_for = f", which leaves no room for class {free[0]}" if free else ""
            raise ValueError(f"the requested areas add up to {1 - room:.3g} of the patch{room_for}")
        shown = np.array([label in (classes or ()) or label in areas for label in known], bool)
        logs = np.array([math.log(areas.get(label, math.nan)) for label in known], float)
        return cls(shown, classes is None and room >= MIN_ROOM, logs, room)

    def fit(self, areas: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Log areas with the requested ones set, and the others reduced where they would not fit next to them."""
        needed = np.exp(areas[shown & np.isnan(self.areas)]).sum()
        smaller = areas + np.log(self.room / needed) if needed > max(self.room, 0) else areas
        return np.where(np.isnan(self.areas), smaller, self.areas)


def _shares(label: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    flat = label.flatten(1)
    counts = [(flat == value).sum(dim=1) for value in classes]
    return torch.stack(counts, dim=1) / flat.shape[1] if counts else flat.new_zeros((len(flat), 0), dtype=torch.float32)


def _moments(areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each class's log areas, `[N, classes]`, -inf where it is not shown.

    One more patch, larger by a factor of e, is added to the deviation, for classes that few patches show; a class
    that none shows gets the mean of all.
    """
    shown = areas > -np.inf
    count = shown.sum(axis=0)
    everything = areas[shown].mean() if shown.any() else 0.0
    mean = np.where(count, np.where(shown, areas, 0).sum(axis=0) / count.clip(1), everything)
    squares = np.square(np.where(shown, areas - mean, 0)).sum(axis=0)
    return mean, np.sqrt((squares + 1) / (count + 1)).clip(MIN_SPREAD)
