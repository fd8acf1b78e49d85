"""What a metric is, and the one table of those that there are; command line, API and docs read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from stylegan2_cond.metrics.comparison import Comparison

Better = Literal["lower", "higher", "one"]


@dataclass(frozen=True)
class Result:
    """One figure.

    Attributes:
        value: of the metric.
        standard_error: of the value over other draws of as many patches; NaN where it can't be told.
        details: further figures with their names.
        warning: what to know before believing the value.
    """

    value: float
    standard_error: float
    details: dict[str, float] = field(default_factory=dict)
    warning: str | None = None


class Metric(ABC):
    """Compares drawn patches with real ones. A subclass is registered by its name.

    Attributes:
        name: as typed.
        title: as shown in tables.
        better: `lower`, `higher`, or `one` for ratios that should be 1.
        least: patches that each side must have.
        needs: of `label`, `nnunet`; a comparison without them can't have the metric.
        default: whether `evaluate` shows it unasked.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    better: ClassVar[Better] = "lower"
    least: ClassVar[int] = 20
    needs: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, comparison: Comparison) -> Result:
        """The figure; deterministic, given the comparison's seed."""

    def refusal(self, comparison: Comparison) -> str | None:
        """Why this comparison can't have the metric; None where it can."""
        fewest = min(len(comparison.real), len(comparison.drawn))
        if fewest < self.least:
            return f"needs {self.least} patches on each side, there are {fewest}"
        if "label" in self.needs and (comparison.real.label is None or comparison.drawn.label is None):
            return "needs masks on both sides"
        if "nnunet" in self.needs and comparison.nnunet is None:
            return "needs an nnU-Net trained on the real cases of this fold"
        return None


METRICS: dict[str, Metric] = {}
MetricClass = TypeVar("MetricClass", bound=type[Metric])


def register(metric: MetricClass) -> MetricClass:
    """Class decorator: make a metric known by its name."""
    METRICS[metric.name] = metric()
    return metric


def default_metrics() -> tuple[str, ...]:
    """Names of the metrics that are shown unasked, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.default)
