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
    pinned, seen, pending = {}, set(), [Requirement(package)]
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for other platforms
            continue
        pinned[name] = Version(found.version).public  # without the kind of build, such as +cpu
        for needed in map(Requirement, (found.requires or ()) if name != "torch" else ()):
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                pending.append(needed)
    return tuple(f"{name}=={version}" for name, version in sorted(pinned.items()))
