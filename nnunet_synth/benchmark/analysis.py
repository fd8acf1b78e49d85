"""Everything that is computed from a benchmark's results: the table that report, verdict and figure read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_synth.benchmark.design import DESIGN_FILE, Design, Stop
from nnunet_synth.benchmark.protocol import Effect
from nnunet_synth.benchmark.results import METRICS, Benchmark, read_benchmark
from nnunet_synth.benchmark.statistics import Noise, compare, holm, mean, run_noise, set_gains

CLASSES = "mean"  # in the column label: the mean over classes
DECISIONS = (Effect.HELPS, Effect.HARMS, Effect.EQUIVALENT)
LEVELS = ["metric", "arm", "size", "label"]


@dataclass(frozen=True)
class Analysis:
    """What was computed.

    Attributes:
        table: a row for each metric, arm, size and label (or `CLASSES`); tests and verdicts for Dice of `CLASSES` only.
        noise: of nnU-Net alone in Dice, by size.
        costs: by arm, seconds of computing of the median run with all that it needs, and how many times that of nnU-Net
            alone.
    """

    benchmark: Benchmark
    table: pd.DataFrame
    noise: Mapping[int, Noise]
    costs: Mapping[str, tuple[float, float]]

    def row(self, arm: str, size: int, label: str = CLASSES, metric: str = "dice") -> pd.Series:
        """A row of the table."""
        return self.table.loc[(metric, arm, size, label)]

    def gains(self, arm: str, size: int) -> np.ndarray:
        """`[sets]`: gain in Dice with each training set."""
        scores = self.benchmark.run_scores("dice", self.benchmark.design.sizes.index(size))
        index = next(i for i, one in enumerate(self.benchmark.arms) if one.name == arm)
        return set_gains(scores[index], scores[self.benchmark.baseline])


def analyse(benchmark: Benchmark) -> Analysis:
    """Compute everything."""
    design, rows, noise = benchmark.design, [], {}
    for metric in METRICS:
        for place, size in enumerate(design.sizes):
            for position, label in enumerate((None, *design.labels)):
                scores = benchmark.run_scores(metric, place, position - 1 if label else None)
                rows += _rows(benchmark, scores, {"metric": metric, "size": size, "label": label or CLASSES})
                if metric == "dice" and label is None:
                    noise[size] = run_noise(scores[benchmark.baseline])
    table = pd.DataFrame(rows).set_index(LEVELS)
    tested = [("dice", arm.name, size, CLASSES) for arm in design.arms if not arm.baseline for size in design.sizes]
    table.loc[~table.index.isin(tested), ["p", "p_equivalence"]] = np.nan
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"])
    table.loc[tested, "effect"] = [_effect(benchmark, row) for _, row in table.loc[tested].iterrows()]
    return Analysis(benchmark, table.sort_index(), noise, _costs(benchmark))


def _rows(benchmark: Benchmark, scores: np.ndarray, key: Mapping[str, object]) -> list[dict]:
    """A row for each arm, by its `[arms, sets, runs, subjects]` scores."""
    protocol, rows = benchmark.design.protocol, []
    for index, arm in enumerate(benchmark.arms):
        own = mean(scores[index], axis=2)
        row = {**key, "arm": arm.name, "runs": int(np.isfinite(own).sum()), "mean": float(mean(mean(own, axis=1)))}
        if not arm.baseline:
            pair = scores[index], scores[benchmark.baseline]
            row |= asdict(compare(*pair, margin=protocol.margin, equivalence=protocol.equivalence))
        row["share_of_oracle"] = np.nan
        if benchmark.oracle is not None and not arm.baseline:
            gains = np.stack([set_gains(scores[i], scores[benchmark.baseline]) for i in (index, benchmark.oracle)])
            ours, oracle = mean(gains[:, np.isfinite(gains).all(axis=0)], axis=1)
            row["share_of_oracle"] = ours / oracle if oracle > 0 else np.nan
        rows.append(row)
    return rows


def decide(folder: Path, design: Design, sets: int) -> Design:
    """The design after a look: arms on which there is a decision by so many training sets are stopped.

    Args:
        folder: the benchmark's, with its tables.
    """
    if sets not in design.protocol.looks or sets <= design.looked:
        return design
    analysis, stops = analyse(read_benchmark(folder)), [*design.stopped]
    for arm in design.arms:
        for size in design.sizes:
            if not arm.baseline and not design.stop_of(arm.name, size):
                effect = Effect(analysis.row(arm.name, size)["effect"])
                if effect in DECISIONS:
                    stops.append(Stop(arm=arm.name, size=size, sets=sets, effect=effect))
    looked = design.model_copy(update={"looked": sets, "stopped": tuple(stops)})
    looked.save(folder / DESIGN_FILE)
    return looked


def _effect(benchmark: Benchmark, row: pd.Series) -> str:
    _, arm, size, _ = row.name
    if stop := benchmark.design.stop_of(arm, size):  # other arms' later runs would change Holm's correction
        return stop.effect.value
    interval = row["equivalence_low"], row["equivalence_high"]
    return benchmark.design.protocol.effect(int(row["sets"]), row["difference"], row["p_holm"], *interval).value


def _costs(benchmark: Benchmark) -> dict[str, tuple[float, float]]:
    """Medians over the runs that are done, since a run that was paused counts its pause; what is unknown is NaN."""
    done = benchmark.runs[benchmark.runs["state"] == "done"]
    costs = {}
    for index, arm in enumerate(benchmark.arms):
        runs = done[done["arm"] == arm.name]
        more = runs["seconds_generator"] if index in benchmark.synthetic else runs["seconds_generator"].fillna(0)
        costs[arm.name] = (runs["seconds_nnunet"] + more).median()
    baseline = costs[benchmark.design.baseline.name]
    return {name: (seconds, seconds / baseline) for name, seconds in costs.items()}
