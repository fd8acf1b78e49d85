"""What is shown of a bank: its first samples, and what each filter refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankDataset, BankRecord
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import overlay_grid, save_picture

PREVIEW = "previews.png"
PREVIEW_SAMPLES = {2: 48, 3: 8}  # by the number of axes


def save_preview(folder: Path, record: BankRecord, plan: Plan) -> None:
    """Grid of the first samples, as they lie in the bank."""
    save_grid(folder / PREVIEW, *first_samples(folder, record, PREVIEW_SAMPLES[len(record.patch_size)]), plan)


def first_samples(folder: Path, record: BankRecord, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `[N, C, *spatial]` and label `[N, *spatial]` of a bank's first samples."""
    bank, images, labels = BankDataset(str(folder)), [], []
    for shard in record.shards:
        image, label, _, _ = bank.load_case(shard.name)
        two_dimensional = len(record.patch_size) == 2
        images += list(image[:].swapaxes(0, 1)) if two_dimensional else [image[:]]
        labels += list(label[0]) if two_dimensional else [label[0]]
        if len(images) >= count:
            break
    return np.stack(images[:count]), np.stack(labels[:count])


def refused_picture(folder: Path, filter_: str) -> Path:
    """Where a filter's refused samples are shown."""
    return folder / f"refused_{filter_}.png"


def save_grid(path: Path, image: np.ndarray | Sequence, label: np.ndarray | Sequence, plan: Plan) -> None:
    """image: `[N, C, *spatial]`, label: `[N, *spatial]`."""
    codec = plan.codec
    image = np.nan_to_num(np.stack(image), nan=0.0)
    ranges = {"low": codec.low, "high": codec.high, "labels": codec.labels, "rgb": codec.rgb}
    save_picture(path, overlay_grid(image, np.stack(label), **ranges))


def tell_filters(record: BankRecord) -> str:
    """What the filters did, in a line or two."""
    refused = [f"{name} {filter_.refused}" for name, filter_ in record.filters.items() if not filter_.off]
    line = f"{record.samples} of {record.drawn} samples entered. Refused: {', '.join(refused) or 'no filter looked'}."
    clipped = sum(filter_.clipped for filter_ in record.filters.values())
    line += f" A few voxels of {clipped} samples were clipped to the range of real ones." if clipped else ""
    off = [f"{name} ({filter_.off})" for name, filter_ in record.filters.items() if filter_.off]
    return f"{line}\nGates off: {', '.join(off)}." if off else line
