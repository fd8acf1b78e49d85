"""What counts as an effect: written into `design.json` before the first run, and read from there by the analysis."""

from __future__ import annotations

import math
from bisect import bisect
from enum import Enum

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

LOOKS = (6, 12, 18)  # numbers of training sets
# Bound of the z statistic at the last of three equally spaced looks, two-sided 5 %; at look k it is √(3/k) times that
# (O'Brien & Fleming 1979, Biometrics 35:549; Jennison & Turnbull 2000, Group Sequential Methods, table 2.3).
OBRIEN_FLEMING = 2.004


class Effect(Enum):
    """What can be said of an arm; the value is how a report says it."""

    HELPS = "helps"
    HARMS = "harms"
    EQUIVALENT = "equivalent within ±1"
    NO_EVIDENCE = "no evidence"
    NOTHING = "no runs yet"


class Protocol(BaseModel):
    """The analysis and its stopping rule.

    Attributes:
        primary, test, stopping: in words.
        margin: in Dice; gains that are certainly smaller do not matter.
        looks: numbers of training sets at which the benchmark may stop.
        levels: nominal two-sided significance levels of the looks.
        equivalence: level of the interval that must lie within the margin, which is two one-sided tests at half of what
            is outside (Schuirmann 1987).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    primary: str = "Dice; mean over classes, test cases, then runs; arm minus nnU-Net alone with the same training set"
    test: str = "sign-flip permutation test over training sets, Holm's correction over arms and sizes"
    stopping: str = (
        "at each look, an arm helps or harms if its corrected p is at most the level of the look (O'Brien-Fleming), "
        "and is given up if its interval of the level `equivalence` lies within the margin"
    )
    margin: float = 0.01
    looks: tuple[int, ...] = LOOKS
    levels: tuple[float, ...] = tuple(
        round(2 * float(stats.norm.sf(OBRIEN_FLEMING * np.sqrt(len(LOOKS) / look))), 5)
        for look in range(1, 1 + len(LOOKS))
    )
    equivalence: float = 0.9

    def level(self, sets: int) -> float:
        """Significance level with so many training sets: that of the last look; 0 before the first."""
        return (0.0, *self.levels)[bisect(self.looks, sets)]

    def next_look(self, sets: int) -> int | None:
        """The number of training sets at the next look; None after the last one."""
        return next((look for look in self.looks if look > sets), None)

    def effect(self, sets: int, difference: float, p: float, low: float, high: float) -> Effect:
        """The verdict on an arm.

        Args:
            sets: number of compared training sets.
            difference: mean of arm minus nnU-Net alone, in Dice.
            p: corrected.
            low, high: interval of the level `equivalence`.
        """
        if not math.isfinite(difference):
            return Effect.NOTHING
        if p <= self.level(sets) and difference:
            return Effect.HELPS if difference > 0 else Effect.HARMS
        if sets >= self.looks[0] and -self.margin < low and high < self.margin:
            return Effect.EQUIVALENT
        return Effect.NO_EVIDENCE
