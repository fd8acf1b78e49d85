"""Patches of the training cases, sampled as nnU-Net's loader samples its patches."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Case, CaseLoader
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.memory import available_bytes, cache_bytes, open_files_limit

WHOLE_SHARE = 0.75  # of a cache, for whole cases; the rest is for cases that are open
OPEN_BYTES = 2**18  # of an open case, besides the voxels of its classes
OPEN_FILES = 2  # of an open case
OPEN_SHARE = 0.25  # of the files that a process may have open
IMAGE_PADDING = 0  # as nnU-Net's loader pads images
SCAN_SHARE = 0.5  # of the patches, if there are scans: labelled cases and scans teach alike, however many there are


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of a case.

    Attributes:
        image: `[C, *spatial]` float32, in nnU-Net's normalised units.
        label: `[*spatial]` int16.
        case: the name of the case.
        centre: `[3]`, where the middle of the patch lies in the volume, from 0 to 1 along each axis.
        labelled: whether the label is a person's, not a pseudo-label.
    """

    image: np.ndarray
    label: np.ndarray
    case: str
    centre: np.ndarray
    labelled: bool

    @property
    def position(self) -> float:
        """Of a slice, where its middle lies in the volume, from 0 to 1; 0.5 for volumes."""
        return float(self.centre[0]) if self.label.ndim == 2 else 0.5


@dataclass(frozen=True, eq=False)
class PatchBatch:
    """Patches, stacked.

    Attributes:
        image: `[N, C, *spatial]`.
        label: `[N, *spatial]`.
        case: `[N]`, names.
        position: `[N]` float32.
        labelled: `[N]` booleans.
    """

    image: np.ndarray
    label: np.ndarray
    case: np.ndarray
    position: np.ndarray
    labelled: np.ndarray

    @classmethod
    def stack(cls, patches: Sequence[Patch]) -> PatchBatch:
        """Stack patches of one size."""
        return cls(
            image=np.stack([patch.image for patch in patches]),
            label=np.stack([patch.label for patch in patches]),
            case=np.array([patch.case for patch in patches]),
            position=np.array([patch.position for patch in patches], np.float32),
            labelled=np.array([patch.labelled for patch in patches]),
        )


class CaseCache:
    """Cases in memory: the first ones whole, further ones open, and the rest not at all.

    An open case is read from its files, of which only the parts of a patch are decompressed; opening them takes as
    long as a 2-D patch, and reading the voxels of its classes longer if there are many classes.

    Args:
        size: of all cases together, in bytes.
    """

    def __init__(self, size: int):
        self.size = size
        self._cases: dict[str, Case] = {}
        self._used = self._open = 0

    def load(self, name: str, source: CaseLoader) -> Case:
        """A case of a source; names of different sources differ.

        Raises:
            UserError: it cannot be read.
        """
        if name in self._cases:
            return self._cases[name]
        case = source.load(name)
        voxels = sum(np.asarray(places).nbytes for places in case.class_locations.values())
        whole = int(np.prod(case.image.shape)) * 4 + int(np.prod(case.label.shape)) * 2 + voxels
        can_be_open = type(case.image) is not np.ndarray  # but mapped into memory
        if self._used + whole <= WHOLE_SHARE * self.size:
            self._keep(replace(case, image=case.image[:], label=case.label[:]), whole)
        elif can_be_open and self._used + OPEN_BYTES + voxels <= self.size and self._may_open():
            self._keep(case, OPEN_BYTES + voxels)
            self._open += 1
        return self._cases.get(name, case)

    def _keep(self, case: Case, size: int) -> None:
        if self._cases.setdefault(case.name, case) is case:  # another thread may have read it meanwhile
            self._used += size

    def _may_open(self) -> bool:
        return (self._open + 1) * OPEN_FILES <= OPEN_SHARE * open_files_limit()


class PatchSampler:
    """An endless stream of patches; number i depends on the seed and on i alone.

    A case is chosen at random, half of the time among the scans if there are any; then, with probability
    `foreground_share`, a voxel of a class that it shows, around which the patch lies (nnU-Net's foreground
    oversampling), else any place, or any annotated place if the dataset has an ignore label. An image smaller than the
    patch lies in the middle, and the rest is `OUTSIDE`.

    Args:
        cases: where the cases are.
        names: the cases.
        patch_size: spatial size; 2-D patches are slices along the first axis, as nnU-Net's are.
        foreground_share: between 0 and 1.
        seed: of the random stream.
        scans: with pseudo-labels; None if there are none.
        cache: bytes of cases to keep in memory; a share of the free memory if None.
    """

    def __init__(
        self,
        cases: CaseLoader,
        names: Sequence[str],
        patch_size: Sequence[int],
        *,
        foreground_share: float,
        seed: int,
        scans: ScanBank | None = None,
        cache: int | None = None,
    ):
        self.cases = cases
        self.names = list(names)
        self.patch_size = tuple(patch_size)
        self.foreground_share = foreground_share
        self.seed = seed
        self.scans = scans
        self._cache = CaseCache(cache_bytes(available_bytes()) if cache is None else cache)

    def batch(self, first: int, count: int) -> PatchBatch:
        """Patches `first` … `first + count - 1`, stacked."""
        return PatchBatch.stack([self.sample(index) for index in range(first, first + count)])

    def sample(self, index: int, *, with_image: bool = True) -> Patch:
        """Patch `index`; without its image, which is then not read and has no channels, if only the label is needed."""
        rng = np.random.default_rng([self.seed, index])
        if self.scans is not None and rng.random() < SCAN_SHARE:
            name, source = self.scans.draw(rng), self.scans
        else:
            name, source = self.names[rng.integers(len(self.names))], self.cases
        try:
            case = self._cache.load(name, source)
            return _cut(case, self.patch_size, self._place(case, _size(self.patch_size), rng), with_image=with_image)
        except (OSError, RuntimeError) as error:  # of blosc2, where a file is damaged
            raise source.unreadable(name, error) from error

    def with_seed(self, seed: int) -> PatchSampler:
        """The stream of another seed, with the same cases in memory."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def _place(self, case: Case, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The lower corner of a patch of `size` in a case."""
        room = np.array(case.image.shape[1:]) - size
        voxel = self._voxel(case, rng, annotated=rng.random() >= self.foreground_share)
        anywhere = rng.integers(0, np.maximum(room, 0) + 1)
        wanted = anywhere if voxel is None else np.clip(voxel - size // 2, 0, np.maximum(room, 0))
        return np.where(room < 0, room // 2, wanted)

    @staticmethod
    def _voxel(case: Case, rng: np.random.Generator, *, annotated: bool) -> np.ndarray | None:
        """A voxel `[z, y, x]` of a class that the case shows, the class chosen first; None if it shows none.

        With an ignore label, nnU-Net lists all annotated voxels under a key that holds `OUTSIDE`: `annotated` ones.
        """
        shown = [
            voxels
            for key, voxels in case.class_locations.items()
            if len(voxels) and (isinstance(key, tuple) and OUTSIDE in key) == annotated
        ]
        if not shown:
            return None
        voxels = shown[rng.integers(len(shown))]
        return np.asarray(voxels[rng.integers(len(voxels))])[1:]


def cover(case: Case, patch_size: Sequence[int], *, reach: int, margin: int = 0, every: int = 1) -> Iterator[Patch]:
    """Patches of a case such that each possible patch lies within `reach` voxels of one of them, along each axis.

    2-D patches are cut from every slice. Each has a margin of `margin` voxels, padded where the image ends. An image
    smaller than the patch lies in the middle. Only every `every`-th patch is returned.
    """
    wide = [length + 2 * margin for length in patch_size]
    before = _size(wide) // 2 - _size(patch_size) // 2
    for lower in covering_places(case.image.shape[1:], patch_size, reach)[::every]:
        yield _cut(case, wide, lower - before)


def covering_places(shape: Sequence[int], patch_size: Sequence[int], reach: int) -> np.ndarray:
    """`[places, 3]`: lower corners of the patches that `cover` cuts from an image of this shape."""
    places = []
    for axis, room in enumerate(np.array(shape) - _size(patch_size)):
        step = 1 if len(patch_size) == 2 and axis == 0 else 2 * reach + 1
        count = -(-(max(room, 0) + 1) // step)
        spaced = np.linspace(0, room, 2 * count + 1)[1::2].round().astype(int) if step > 1 else np.arange(room + 1)
        places.append([room // 2] if room < 0 else spaced)
    return np.array(list(itertools.product(*places)), int)


def _size(patch_size: Sequence[int]) -> np.ndarray:
    """Size of a patch in a case `[z, y, x]`; a 2-D patch is one slice thick."""
    return np.array((1,) * (3 - len(patch_size)) + tuple(patch_size))


def _cut(case: Case, patch_size: Sequence[int], lower: Sequence[int], *, with_image: bool = True) -> Patch:
    box = [[int(low), int(low + length)] for low, length in zip(lower, _size(patch_size), strict=True)]
    image = crop_and_pad_nd(case.image, box, IMAGE_PADDING) if with_image else np.empty((0, *patch_size))
    return Patch(
        image=image.reshape(-1, *patch_size).astype(np.float32),
        label=crop_and_pad_nd(case.label, box, OUTSIDE).reshape(patch_size).astype(np.int16),
        case=case.name,
        centre=(np.asarray(lower) + _size(patch_size) / 2) / case.image.shape[1:],
        labelled=case.labelled,
    )
