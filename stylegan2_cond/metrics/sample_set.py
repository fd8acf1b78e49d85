"""A set of patches, as a metric takes it: checked once, so that no metric works on what means nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stylegan2_cond.errors import UserError


@dataclass(frozen=True)
class Samples:
    """Patches of one kind.

    Attributes:
        image: `[N, C, *spatial]` float32, finite.
        label: `[N, *spatial]` int16; None where there are no masks.
        case: `[N]` names of the cases that the patches were cut from; None where each stands for itself.
        asked: `[N, width]` condition vectors: what drawn ones were asked to be, or what was measured on real ones;
            None where that is not known.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    case: np.ndarray | None = None
    asked: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def channels(self) -> int:
        return self.image.shape[1]

    @property
    def patch_size(self) -> tuple[int, ...]:
        return self.image.shape[2:]

    def take(self, indices: np.ndarray | slice) -> Samples:
        """Those of `indices`."""
        parts = (self.image, self.label, self.case, self.asked)
        return Samples(*(None if part is None else part[indices] for part in parts))

    @classmethod
    def joined(cls, parts: Sequence) -> Samples:
        """All that several parts hold (anything with `.image` and `.label`), one after the other."""
        asked = [_asked(part) for part in parts]
        return cls(
            np.concatenate([part.image for part in parts]),
            np.concatenate([part.label for part in parts]),
            asked=None if any(one is None for one in asked) else np.concatenate(asked),
        )

    def batches(self, size: int) -> Iterator[Samples]:
        """All of them, `size` at a time."""
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))

    def cropped(self, patch_size: Sequence[int]) -> Samples:
        """Their middle, of this size."""
        starts = [(have - want) // 2 for have, want in zip(self.patch_size, patch_size, strict=True)]
        box = (..., *(slice(start, start + want) for start, want in zip(starts, patch_size, strict=True)))
        return Samples(self.image[box], None if self.label is None else self.label[box], self.case, self.asked)

    def groups(self) -> np.ndarray:
        """`[N]` numbers, the same for patches of one case."""
        return np.arange(len(self)) if self.case is None else np.unique(self.case, return_inverse=True)[1]


def as_samples(patches: object, name: str = "patches") -> Samples:
    """Take patches as users have them.

    Args:
        patches: `Samples`; an object with `.image` and `.label`, and perhaps `.condition` (drawn `Pairs`); an array or
            tensor `[N, C, *spatial]`; a tuple of images and labels `[N, *spatial]`; or a reader that gives image
            `[C, *spatial]` and label `[*spatial]` one after the other, as a torch `Dataset` does.
        name: what an error calls them.

    Raises:
        UserError: no patch, values that are not finite, or shapes that do not fit.
    """
    if isinstance(patches, Samples):
        image, label, case = patches.image, patches.label, patches.case
    elif hasattr(patches, "image") and hasattr(patches, "label"):
        image, label, case = patches.image, patches.label, None
    elif isinstance(patches, (np.ndarray, torch.Tensor)):
        image, label, case = patches, None, None
    elif isinstance(patches, tuple) and len(patches) == 2:
        (image, label), case = patches, None
    else:
        (image, label), case = _read(patches, name), None
    image = _array(image).astype(np.float32, copy=False)
    label = None if label is None else _array(label)
    case = None if case is None else np.asarray(case)
    asked = _asked(patches)
    _check(image, label, case, asked, name)
    return Samples(image, None if label is None else label.astype(np.int16, copy=False), case, asked)


def check_alike(real: Samples, other: Samples, name: str, *, larger: bool = False) -> None:
    """Refuse two sets that can't be compared; `larger` lets the other one have a margin.

    Raises:
        UserError: patches or channels differ.
    """
    fits = real.patch_size == other.patch_size
    if larger and len(real.patch_size) == len(other.patch_size):
        fits = all(ours <= theirs for ours, theirs in zip(real.patch_size, other.patch_size, strict=True))
    problems = [("channels", real.channels, other.channels)] if real.channels != other.channels else []
    problems += [] if fits else [("size", real.patch_size, other.patch_size)]
    if problems:
        what, ours, theirs = problems[0]
        raise UserError(f"The real patches have {what} {ours}, the {name} ones {theirs}. Compare like with like.")


def _read(reader: Iterable | Sequence, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        length = len(reader)  # a Dataset has no end of its own
        pairs = [reader[index] for index in range(length)]
        images, labels = zip(*((_array(image), _array(label)) for image, label in pairs), strict=True)
        return np.stack(images), np.stack(labels)
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"The {name} are neither an array [N, C, *spatial], a tuple of images and labels, nor a reader of pairs of "
            f"one size ({type(error).__name__}: {error})."
        ) from None


def _asked(patches: object) -> np.ndarray | None:
    """Condition vectors that patches come with."""
    asked = patches.asked if isinstance(patches, Samples) else getattr(patches, "condition", None)
    return None if asked is None else _array(asked).astype(np.float32, copy=False)


def _array(values: object) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _check(
    image: np.ndarray, label: np.ndarray | None, case: np.ndarray | None, asked: np.ndarray | None, name: str
) -> None:
    if image.ndim not in (4, 5) or not image.size:
        raise UserError(f"The {name} have shape {image.shape}; wanted are [N, C, H, W] or [N, C, D, H, W], N ≥ 1.")
    if not np.isfinite(image).all():
        broken = np.flatnonzero(~np.isfinite(image.reshape(len(image), -1)).all(axis=1))
        raise UserError(
            f"{len(broken)} of the {len(image)} {name} have values that are NaN or infinite, the first is number "
            f"{broken[0]}. No figure would mean anything; mend or leave out those."
        )
    if label is not None and label.shape != (len(image), *image.shape[2:]):
        raise UserError(f"The {name} have images {image.shape} and labels {label.shape}; labels must be [N, *spatial].")
    if label is not None and not np.array_equal(label, label.astype(np.int16)):
        raise UserError(
            f"The labels of the {name} are no whole numbers of 16 bits. Give label maps, not probabilities."
        )
    if case is not None and len(case) != len(image):
        raise UserError(f"The {name} have {len(image)} images and {len(case)} case names.")
    if asked is not None and (asked.ndim != 2 or len(asked) != len(image)):
        raise UserError(f"The {name} have {len(image)} images and conditions {asked.shape}; wanted are [N, width].")
