"""What a metric is, and the registry of all metrics, which command line, API and reports read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stylegan2_cond.metrics.comparison import Comparison

Better = Literal["lower", "higher", "one"]


@dataclass(frozen=True)
class Result:
    """The result of a metric.

    Attributes:
        value: of the metric.
        standard_error: of the value, over other samples of as many patches; NaN where unknown.
        details: further figures by name.
        warning: what to know before trusting the value.
    """

    value: float
    standard_error: float
    details: dict[str, float] = field(default_factory=dict)
    warning: str | None = None


class Metric(ABC):
    """Compares generated patches with real ones. A subclass is registered by its name.

    Attributes:
        name: as typed.
        title: as shown in tables.
        better: `lower`, `higher`, or `one` for ratios whose best value is 1.
        least: number of patches that each side must have.
        needs: of `image`, `label`, `class` and `nnunet`, what the metric can't be computed without. A mask snapshot
            has no images: its masks stand in for them, and metrics that need images are left out.
        default: whether `evaluate` computes it unless other metrics are chosen.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    better: ClassVar[Better] = "lower"
    least: ClassVar[int] = 20
    needs: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, comparison: Comparison) -> Result:
        """The result; deterministic, given the comparison's seed."""

    def refusal(self, comparison: Comparison) -> str | None:
        """Why the metric can't be computed; None where it can."""
        fewest = min(len(comparison.real), len(comparison.generated))
        if fewest < self.least:
            return f"needs {self.least} patches on each side (found {fewest})"
        if "label" in self.needs and (comparison.real.label is None or comparison.generated.label is None):
            return "needs masks on both sides"
        if "nnunet" in self.needs and comparison.nnunet is None:
            return "needs an nnU-Net trained on the real cases of this fold"
        if "class" in self.needs and not comparison.labels:
            return "needs masks with a foreground class"
        return None


METRICS: dict[str, Metric] = {}


def register(metric: type[Metric]) -> type[Metric]:
    """Class decorator: add a metric to the registry."""
    METRICS[metric.name] = metric()
    return metric


def default_metrics() -> tuple[str, ...]:
    """Names of the default metrics, in the order of the registry."""
    return tuple(name for name, metric in METRICS.items() if metric.default)
