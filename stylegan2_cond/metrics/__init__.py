"""Metrics that compare generated patches with real ones, each with its standard error.

The order of the imports is the order of tables.
"""

from stylegan2_cond.metrics import kid, frechet, prdc, swd, mask_statistics, segmentation_agreement  # noqa: F401, I001
from stylegan2_cond.metrics import condition_accuracy, diversity, memorization, features_torch_fidelity  # noqa: F401
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.metrics.compare import compare
from stylegan2_cond.metrics.features import FEATURES
from stylegan2_cond.metrics.registry import METRICS, Result, default_metrics

__all__ = ["FEATURES", "METRICS", "Result", "SampleSet", "compare", "default_metrics"]
