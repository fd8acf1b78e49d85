"""Is a generator any good, and are its samples new? A registry of metrics, each with its standard error.

The order of the imports is the order of the table.
"""

from stylegan2_cond.metrics import kid, frechet, prdc, swd, mask_statistics, segmentation_agreement  # noqa: F401, I001
from stylegan2_cond.metrics import condition_accuracy, diversity, memorization, features_torch_fidelity  # noqa: F401
from stylegan2_cond.metrics.compare import compare
from stylegan2_cond.metrics.features import FEATURES
from stylegan2_cond.metrics.registry import METRICS, Result, default_metrics
from stylegan2_cond.data.sample_set import SampleSet

__all__ = ["FEATURES", "METRICS", "Result", "SampleSet", "compare", "default_metrics"]
