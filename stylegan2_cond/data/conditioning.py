"""Conditions: what a sample is asked to be. Measured on real pairs, drawn as in the training canvases, encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict


class Conditions(BaseModel):
    """Which foreground classes a canvas shows, and how often each combination occurs in training canvases.

    Attributes:
        classes: the foreground labels, in the order of the condition vector.
        combinations: the combinations that occur, as tuples of labels.
        shares: how often each of them occurs; they sum to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: tuple[int, ...]
    combinations: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    @property
    def width(self) -> int:
        """Length of the condition vector."""
        return len(self.classes)

    @classmethod
    def from_labels(cls, classes: Sequence[int], labels: np.ndarray) -> Conditions:
        """Count the combinations in `labels`, `[N, *canvas]`, drawn as the generator's training draws them."""
        flat = labels.reshape(len(labels), -1)
        present = np.array([(flat == label).any(axis=1) for label in classes], dtype=bool).reshape(-1, len(flat)).T
        rows, counts = np.unique(present, axis=0, return_counts=True)
        combinations = tuple(tuple(label for label, shown in zip(classes, row, strict=True) if shown) for row in rows)
        return cls(classes=tuple(classes), combinations=combinations, shares=tuple((counts / counts.sum()).tolist()))

    def measure(self, label: torch.Tensor) -> torch.Tensor:
        """Condition vectors of label maps. label: `[N, *canvas]` → `[N, width]`, 1 where the class is shown."""
        flat = label.flatten(1)
        shown = [(flat == value).any(dim=1) for value in self.classes]
        return torch.stack(shown, dim=1).float() if shown else flat.new_zeros((len(flat), 0), dtype=torch.float32)

    def encode(self, combination: Sequence[int]) -> torch.Tensor:
        """The condition vector `[width]` that asks for exactly these classes.

        Raises:
            ValueError: a class that the generator does not know.
        """
        if unknown := sorted(set(combination) - set(self.classes)):
            raise ValueError(f"class {unknown[0]} is not one that this generator knows: {list(self.classes)}")
        return torch.tensor([float(label in combination) for label in self.classes])

    def draw(self, rng: np.random.Generator) -> torch.Tensor:
        """One condition vector `[width]`, as often as training canvases show it."""
        return self.encode(self.combinations[rng.choice(len(self.combinations), p=self.shares)])
