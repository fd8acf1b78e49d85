"""Snapshots: saved, opened, drawn from."""

from stylegan2_cond.snapshot.mask_sources import MaskSource, open_same_cases
from stylegan2_cond.snapshot.sampler import Ask, PairGenerator, Pairs, load_generator, open_device, open_masks
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
    "Ask",
    "Card",
    "MaskSource",
    "PairGenerator",
    "Pairs",
    "find_best",
    "find_snapshots",
    "load_generator",
    "open_device",
    "open_masks",
    "open_same_cases",
    "save_snapshot",
    "sha256",
]
