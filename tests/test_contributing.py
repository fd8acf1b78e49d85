"""What CONTRIBUTING and the page on adding a metric or a filter show works as it stands there."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_synth.bank import filters
from nnunet_synth.bank.calibration import FilterCalibration
from nnunet_synth.bank.filters import FILTERS
from stylegan2_cond.metrics import METRICS, SampleSet, compare, swd

ROOT = Path(__file__).parent.parent
SHOWN = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXTEND = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
METRIC, FILTER = re.findall(r"```python\n(.*?)```", EXTEND, flags=re.DOTALL)


def samples(random, contrast=1.0, brightness=0.0):
    image = brightness + contrast * random.standard_normal((200, 2, 8, 8)).astype(np.float32)
    return SampleSet(image=image, label=np.zeros((200, 8, 8), np.int16))


def test_the_tree_that_is_shown_is_that_of_the_folders():
    (tree,) = re.findall(r"## Layout\n\n```text\n(.*?)```", SHOWN, flags=re.DOTALL)
    shown, parents = set(), []
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name.rstrip("/")]
        shown.add("/".join(parents))
    packages = [ROOT / "nnunet_synth", ROOT / "stylegan2_cond"]
    folders = {file.parent for package in packages for file in package.rglob("*.py")}
    files = {file for package in packages for file in package.glob("*.py") if not file.name.startswith("__")}
    assert shown == {path.relative_to(ROOT).as_posix() for path in folders | files}


def test_the_metric_that_is_shown_is_one():
    try:
        exec(METRIC, vars(swd) | {})
        random = np.random.default_rng(0)
        brighter = compare(samples(random), samples(random, brightness=0.5), metrics=["brightness"])["brightness"]
        alike = compare(samples(random), samples(random), metrics=["brightness"])["brightness"]
    finally:
        METRICS.pop("brightness", None)
    assert brighter.value > 10 * brighter.standard_error
    assert alike.value < 4 * alike.standard_error


@pytest.mark.parametrize(("contrast", "allowed"), [(1.0, True), (0.5, False)])
def test_the_filter_that_is_shown_is_one(contrast, allowed):
    random = np.random.default_rng(0)
    real = samples(random)
    try:
        exec(FILTER, vars(filters) | {})
        filter_ = FILTERS["contrast"](FilterCalibration(SimpleNamespace(real=real), (0, 1), None, margin=0.0))
    finally:
        FILTERS.pop("contrast", None)
    assert (filter_.allows(samples(random, contrast)).mean() > 0.95) == allowed
    assert filter_.limits["least"] == pytest.approx(1, abs=0.3)
