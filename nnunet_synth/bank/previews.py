"""Pictures of a bank's first samples and of refused ones, and what is printed about it in the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_synth.bank.format import BankRecord
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, fold_command
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.planning import Plan
from stylegan2_cond.visualization import overlay_grid, save_picture

PREVIEW = "previews.png"
PREVIEW_SAMPLES = {2: 48, 3: 8}  # by the number of axes


def save_preview(folder: Path, record: BankRecord, plan: Plan) -> None:
    """Save a grid of the bank's first samples."""
    save_grid(folder / PREVIEW, *first_samples(folder, record, PREVIEW_SAMPLES[len(record.origin.patch_size)]), plan)


def first_samples(folder: Path, record: BankRecord, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `[N, C, *spatial]` and label `[N, *spatial]` of a bank's first samples."""
    bank, images, labels = BankDataset(str(folder)), [], []
    for shard in record.shards:
        image, label, _, _ = bank.load_case(shard.name)
        two_dimensional = len(record.origin.patch_size) == 2
        images += list(image[:].swapaxes(0, 1)) if two_dimensional else [image[:]]
        labels += list(label[0]) if two_dimensional else [label[0]]
        if len(images) >= count:
            break
    return np.stack(images[:count]), np.stack(labels[:count])


def refused_picture(folder: Path, filter_: str) -> Path:
    """Path of the picture of samples that a filter refused."""
    return folder / f"refused_{filter_}.png"


def save_grid(path: Path, image: np.ndarray | Sequence, label: np.ndarray | Sequence, plan: Plan) -> None:
    """Save images `[N, C, *spatial]`, C may be 0, with their masks `[N, *spatial]` as a picture."""
    codec = plan.codec
    image = np.nan_to_num(np.stack(image), nan=0.0)
    low, high = (bound[: image.shape[1]] for bound in (codec.low, codec.high))
    ranges = {"low": low, "high": high, "labels": codec.labels, "rgb": codec.rgb}
    save_picture(path, overlay_grid(image, np.stack(label), **ranges))


def next_commands(folder: Path) -> tuple[str, str]:
    """What to type next for a bank: look at it, and train with it."""
    source = BankRecord.load(folder / RECORD_FILE).source
    place = source.dataset_name, source.configuration, source.fold
    train = fold_command("nnunet-synth train", *place, plans_name=source.plans_name)
    return f"nnunet-synth inspect {shlex.quote(str(folder))}", train


def describe_filters(record: BankRecord) -> str:
    """What the filters did, in one or two lines."""
    refused = [f"{name} {filter_.refused}" for name, filter_ in record.filters.items() if not filter_.off]
    line = f"{record.samples} of {record.generated} samples entered. Refused by: {', '.join(refused) or 'no filter'}."
    corrected = [f"{name} {filter_.corrected}" for name, filter_ in record.filters.items() if filter_.corrected]
    line += f" A few voxels corrected by: {', '.join(corrected)}." if corrected else ""
    off = [f"{name} ({filter_.off})" for name, filter_ in record.filters.items() if filter_.off]
    return f"{line}\nFilters off: {', '.join(off)}." if off else line
