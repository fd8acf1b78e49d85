"""The releases that are installed here, for a container in which the model predicts the same."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@functools.cache
def pin_requirements(package: str) -> tuple[str, ...]:
    """`name==version` of a package and of all that it needs, as installed here.

    PyTorch itself names the exact releases of its CUDA libraries, which differ between platforms, so they are left out.
    """
    pinned, pending = {}, [package]
    while pending:
        name = canonicalize_name(pending.pop())
        if name in pinned:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # optional, or for other platforms
            continue
        pinned[name] = Version(found.version).public  # without the kind of build, such as +cpu
        needed = map(Requirement, found.requires or ()) if name != "torch" else ()
        pending += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return tuple(f"{name}=={version}" for name, version in sorted(pinned.items()))
