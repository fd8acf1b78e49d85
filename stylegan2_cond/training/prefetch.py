"""Batches of real patches, read by a thread while the networks train on the batch before."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.patch_sampler import PatchSampler

RealBatch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Prefetcher:
    """Reads the next batch of a stream of patches in a thread.

    Args:
        patches: the stream.
        batch_size: number of patches in a step, over all processes.
        share: those of them that this process needs.
        codec: which labels it must have channels for.
    """

    def __init__(self, patches: PatchSampler, batch_size: int, share: slice, codec: Codec):
        self.patches = patches
        self.batch_size = batch_size
        self.share = share
        self.codec = codec
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="patches")
        self._ahead: tuple[int, Future[RealBatch]] | None = None

    def batch(self, first: int) -> RealBatch:
        """Image, label, position and labelled of the patches from `first` on, as in `PatchBatch`."""
        if self._ahead is not None and self._ahead[0] == first:
            found = self._ahead[1].result()
        else:
            found = self._reader.submit(self._read, first).result()
        following = first + self.batch_size
        self._ahead = following, self._reader.submit(self._read, following)
        return found

    def _read(self, first: int) -> RealBatch:
        start, count = first + self.share.start, self.share.stop - self.share.start
        patches = self.patches.batch(start, count)
        self.codec.check_labels(patches.label)
        return patches.image, patches.label, patches.position, patches.labelled

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.shutdown(cancel_futures=True)
