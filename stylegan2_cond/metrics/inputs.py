"""Patches as users have them, checked once, so that no metric works on meaningless values."""

from __future__ import annotations

import numpy as np
import torch

from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError


def as_sample_set(patches: object, name: str = "patches") -> SampleSet:
    """Convert and check patches.

    Args:
        patches: an object with `.image` and `.label`, and perhaps `.case` and `.condition`, such as a `SampleSet`; an
            array or tensor `[N, C, *spatial]`; a tuple of images and labels `[N, *spatial]`; or a sequence of pairs of
            image `[C, *spatial]` and label `[*spatial]`, such as a torch `Dataset`.
        name: what an error calls the patches.

    Raises:
        UserError: there are no patches, values are not finite, or shapes do not match.
    """
    case = getattr(patches, "case", None)
    condition = getattr(patches, "condition", None)
    if hasattr(patches, "image") and hasattr(patches, "label"):
        image, label = patches.image, patches.label
    elif isinstance(patches, (np.ndarray, torch.Tensor)):
        image, label = patches, None
    elif isinstance(patches, tuple) and len(patches) == 2:
        image, label = patches
    else:
        try:
            length = len(patches)  # a torch Dataset does not end by itself
            images, labels = zip(*((_array(part) for part in patches[index]) for index in range(length)), strict=True)
            image, label = np.stack(images), np.stack(labels)
        except (TypeError, ValueError, LookupError) as error:
            raise UserError(
                f"The {name} are neither an array [N, C, *spatial], nor a tuple of images and labels, nor a sequence "
                f"of pairs of one size ({type(error).__name__}: {error})."
            ) from None
    image = _array(image).astype(np.float32, copy=False)
    label = None if label is None else _array(label)
    case = None if case is None else np.asarray(case)
    condition = None if condition is None else _array(condition).astype(np.float32, copy=False)
    _check(image, label, case, condition, name)
    return SampleSet(image, None if label is None else label.astype(np.int16, copy=False), case, condition)


def check_comparable(real: SampleSet, other: SampleSet, name: str, *, larger: bool = False) -> None:
    """Refuse two sets that can't be compared; `larger` allows the other one a margin.

    Raises:
        UserError: patch sizes or channels differ.
    """
    fits = real.patch_size == other.patch_size
    if larger and len(real.patch_size) == len(other.patch_size):
        fits = all(ours <= theirs for ours, theirs in zip(real.patch_size, other.patch_size, strict=True))
    if real.channels != other.channels or not fits:
        what = "channels" if real.channels != other.channels else "patch_size"
        ours, theirs = getattr(real, what), getattr(other, what)
        raise UserError(
            f"The real patches have {what.replace('_', ' ')} {ours}, the {name} ones {theirs}. They must be the same."
        )


def _array(values: object) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _check(
    image: np.ndarray, label: np.ndarray | None, case: np.ndarray | None, condition: np.ndarray | None, name: str
) -> None:
    if image.ndim not in (4, 5) or not image.size:
        raise UserError(
            f"The {name} have shape {image.shape}; it must be [N, C, H, W] or [N, C, D, H, W], with at least one patch."
        )
    if not np.isfinite(image).all():
        broken = np.flatnonzero(~np.isfinite(image.reshape(len(image), -1)).all(axis=1))
        raise UserError(
            f"{len(broken)} of the {len(image)} {name} have values that are NaN or infinite, the first is number "
            f"{broken[0]}. Fix or remove them; metrics would be undefined."
        )
    if label is not None and label.shape != (len(image), *image.shape[2:]):
        raise UserError(f"The {name} have images {image.shape} and labels {label.shape}; labels must be [N, *spatial].")
    if label is not None and not np.array_equal(label, label.astype(np.int16)):
        raise UserError(f"The labels of the {name} are not 16-bit integers. Pass label maps, not probabilities.")
    if case is not None and len(case) != len(image):
        raise UserError(f"The {name} have {len(image)} images and {len(case)} case names.")
    if condition is not None and (condition.ndim != 2 or len(condition) != len(image)):
        raise UserError(f"The {name} have {len(image)} images and conditions {condition.shape}; must be [N, width].")
