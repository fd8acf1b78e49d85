"""Conditions: what a sample is asked to be. Measured on real patches, drawn as in them, or as someone asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator
from typing_extensions import Self

from stylegan2_cond.data.condition_sampler import pick, read_rows, write_rows

SMALLEST_SPREAD = 0.1  # of log areas, by which they are standardised
SMALLEST_ROOM = 1e-6  # share of a patch that a class can be squeezed into


class Conditions(BaseModel):
    """Which foreground classes a patch shows, how much of each, and where in its volume a slice lies.

    The condition vector holds, for each class, 1 where it is shown and 0 where not; then, for each class, the log of
    its share of the patch's voxels, standardised, 0 where it is not shown; then, with `has_position`, the position
    of the slice, from -1 to 1.

    Attributes:
        classes: the foreground labels, in the order of the vector.
        has_position: whether patches are slices of volumes, whose place is known.
        log_area_mean, log_area_sd: of each class, over the measured patches that show it.
        rows: measured patches to draw from, one a line: how many it stands for; of each class the log of its share
            of the voxels, `.` where it is not shown; and, with `has_position`, the position from 0 to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: tuple[int, ...]
    has_position: bool
    log_area_mean: tuple[float, ...] = ()
    log_area_sd: tuple[float, ...] = ()
    rows: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.log_area_mean) == len(self.log_area_sd) == len(self.classes):
            raise ValueError(f"log_area_mean and log_area_sd need a number for each of the classes {self.classes}")
        if not all(sd > 0 for sd in self.log_area_sd):
            raise ValueError("log_area_sd must be above 0")
        read_rows(self.rows, len(self.classes), has_position=self.has_position)
        return self

    @property
    def width(self) -> int:
        """Length of the condition vector."""
        return 2 * len(self.classes) + self.has_position

    @classmethod
    def from_patches(cls, classes: Sequence[int], labels: np.ndarray, positions: np.ndarray | None) -> Conditions:
        """Measure patches drawn as the generator's training draws them.

        Args:
            classes: the foreground labels.
            labels: `[N, *spatial]`, in random order.
            positions: `[N]`, of slices in their volumes, from 0 to 1; None for volumes. Where all are the same, they
                say nothing, and are no part of the conditions.
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
            rows=write_rows(areas, positions if has_position else None),
        )

    def combinations(self) -> dict[tuple[int, ...], float]:
        """Which classes the training patches show together, and the share of each combination; the largest first."""
        if not self.rows:
            return {}
        table = read_rows(self.rows, len(self.classes), has_position=self.has_position)
        shares: Counter[tuple[int, ...]] = Counter()
        for row, weight in zip(table.shown, table.weights / table.weights.sum(), strict=True):
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
        mean, sd = shares.new_tensor(self.log_area_mean), shares.new_tensor(self.log_area_sd)
        parts = [(shares > 0).float(), torch.where(shares > 0, (shares.log() - mean) / sd, 0)]
        if self.has_position:
            if position is None:
                raise ValueError("the position of each slice is part of these conditions, and must be given")
            parts.append(2 * position.to(shares).reshape(-1, 1) - 1)
        return torch.cat(parts, dim=1)

    def parts(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What vectors `[N, width]` ask for: classes shown and log areas (NaN where not), `[N, classes]`; positions.

        Positions, `[N]`, go from 0 to 1; None where they are no part of the conditions.
        """
        count = len(self.classes)
        shown, areas = vectors[:, :count] > 0.5, vectors[:, count : 2 * count]
        areas = areas * vectors.new_tensor(self.log_area_sd) + vectors.new_tensor(self.log_area_mean)
        return shown, torch.where(shown, areas, torch.nan), (vectors[:, -1] + 1) / 2 if self.has_position else None

    def draw(
        self,
        rng: np.random.Generator,
        *,
        classes: Sequence[int] | None = None,
        position: float | None = None,
        areas: Mapping[int, float] | None = None,
    ) -> torch.Tensor:
        """One condition vector `[width]`; what is asked for is met exactly, and the rest is as patches have it then.

        A smoothed bootstrap (Silverman 1986, section 6.4): one measured patch, of those that are nearest to what is
        asked for, its log areas and position moved by a Gaussian kernel, within the range that was measured. The
        state of `rng` afterwards does not depend on what was asked for, so the same latents can follow.

        Args:
            rng: of the draw.
            classes: exactly these are shown, and those of `areas`; as patches show them, when None.
            position: of the slice, from 0 to 1.
            areas: shares of the patch's voxels, above 0 and up to 1, of classes that are then shown.

        Raises:
            ValueError: an unknown class, a position or area out of range, or areas that do not fit into one patch.
        """
        asked = _Asked.of(self, classes, position, areas or {})
        picks, steps = self._variates(rng)
        table = read_rows(self.rows, len(self.classes), has_position=self.has_position)
        row = pick(table.nearness(asked.showing, asked.others, asked.areas, position), picks[0])
        place = table.move_position(row, steps[-1]) if position is None else position
        shown = asked.showing | (table.shown[row] & asked.others)
        rows = np.full(len(shown), row)
        for column in np.flatnonzero(shown & ~table.shown[row]):  # another patch must tell
            rows[column] = pick(table.nearness(np.arange(len(shown)) == column, position=place), picks[1 + column])
        known = table.shown[rows, np.arange(len(shown))]
        drawn = np.where(known, table.move_areas(rows, steps[:-1]), self.log_area_mean)
        return self._encode(shown, asked.fit_in(drawn, shown), place)

    def skip(self, rng: np.random.Generator) -> None:
        """Advance `rng` as `draw` does, where a condition is measured instead, so that the same latents follow."""
        self._variates(rng)

    def _variates(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.random(1 + len(self.classes)), rng.standard_normal(len(self.classes) + 1)

    def describe(self, vector: torch.Tensor) -> str:
        """What a vector `[width]` asks for, in words."""
        shown, areas, position = self.parts(vector.unsqueeze(0))
        told = [
            f"class {label} ({100 * math.exp(area):.3g} %)"
            for label, there, area in zip(self.classes, shown[0].tolist(), areas[0].tolist(), strict=True)
            if there
        ]
        return ", ".join(told or ["no class"]) + ("" if position is None else f", slice at {position.item():.2f}")

    def _encode(self, shown: np.ndarray, areas: np.ndarray, position: float) -> torch.Tensor:
        standardised = np.where(shown, (areas - self.log_area_mean) / self.log_area_sd, 0)
        place = [2 * position - 1] if self.has_position else []
        return torch.from_numpy(np.concatenate([shown, standardised, place]).astype(np.float32))


@dataclass(frozen=True)
class _Asked:
    """What was asked for, checked.

    Attributes:
        showing: `[classes]`, those to be shown.
        others: whether others may be shown as well.
        areas: `[classes]`, logs of shares; NaN where they are free.
        room: share of the patch that is left for classes whose area is free.
    """

    showing: np.ndarray
    others: bool
    areas: np.ndarray
    room: float

    @classmethod
    def of(
        cls, conditions: Conditions, classes: Sequence[int] | None, position: float | None, areas: Mapping[int, float]
    ) -> _Asked:
        known = conditions.classes
        if unknown := sorted({*(classes or ()), *areas} - set(known)):
            raise ValueError(f"class {unknown[0]} is not one that this generator knows: {list(known)}")
        if position is not None and not conditions.has_position:
            raise ValueError("this generator can't be asked for a position: its patches are no slices of volumes")
        if position is not None and not 0 <= position <= 1:
            raise ValueError(f"position {position:g} is not between 0, the first slice, and 1, the last")
        for label, area in areas.items():
            if not 0 < area <= 1:
                raise ValueError(f"area {area:g} of class {label} is no share of the patch, above 0 and up to 1")
        room = 1 - sum(areas.values())
        free = sorted(set(classes or ()) - set(areas))
        if room < -SMALLEST_ROOM or (free and room < SMALLEST_ROOM):
            room_for = f", which leaves no room for class {free[0]}" if free else ""
            raise ValueError(f"the areas asked for add up to {1 - room:.3g} of the patch{room_for}")
        showing = np.array([label in (classes or ()) or label in areas for label in known], bool)
        logs = np.array([math.log(areas.get(label, math.nan)) for label in known], float)
        return cls(showing, classes is None and room >= SMALLEST_ROOM, logs, room)

    def fit_in(self, areas: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Log areas, those asked for set, and the others made smaller where they would not fit beside them."""
        needed = np.exp(areas[shown & np.isnan(self.areas)]).sum()
        smaller = areas + np.log(self.room / needed) if needed > max(self.room, 0) else areas
        return np.where(np.isnan(self.areas), smaller, self.areas)


def _shares(label: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    flat = label.flatten(1)
    counts = [(flat == value).sum(dim=1) for value in classes]
    return torch.stack(counts, dim=1) / flat.shape[1] if counts else flat.new_zeros((len(flat), 0), dtype=torch.float32)


def _moments(areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each class's log areas, `[N, classes]`, -inf where it is not shown.

    For what few patches can't tell, one more stands in, larger by a factor of e; a class that none shows is taken to
    be as large as the others.
    """
    shown = areas > -np.inf
    count = shown.sum(axis=0)
    everything = areas[shown].mean() if shown.any() else 0.0
    mean = np.where(count, np.where(shown, areas, 0).sum(axis=0) / count.clip(1), everything)
    squares = np.square(np.where(shown, areas - mean, 0)).sum(axis=0)
    return mean, np.sqrt((squares + 1) / (count + 1)).clip(SMALLEST_SPREAD)
