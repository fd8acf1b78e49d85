"""Snapshots: save, open, and generate samples."""

from stylegan2_cond.snapshot.mask_sources import RealMasks, open_masks, open_same_cases
from stylegan2_cond.snapshot.request import MaskSource, SampleRequest
from stylegan2_cond.snapshot.sampler import PairGenerator, load_generator, open_device
from stylegan2_cond.snapshot.snapshot import (
    BEST,
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    find_best,
    find_snapshots,
    save_snapshot,
    sha256,
)

__all__ = [
    "BEST",
    "CARD_FILE",
    "WEIGHTS_FILE",
    "Card",
    "MaskSource",
    "PairGenerator",
    "RealMasks",
    "SampleRequest",
    "find_best",
    "find_snapshots",
    "load_generator",
    "open_device",
    "open_masks",
    "open_same_cases",
    "save_snapshot",
    "sha256",
]
