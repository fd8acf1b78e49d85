"""From a snapshot to a bank, shard by shard; the same command goes on after a stop."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_synth.bank.format import (
    RECORD_FILE,
    BankDataset,
    BankRecord,
    SnapshotReference,
    banks_folder,
    write_shard,
)
from nnunet_synth.bank.gates import GATES, pass_gates
from stylegan2_cond.data.preprocessed import Preprocessed
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.pictures import overlay_grid, save_picture
from stylegan2_cond.planning import Source, run_folder
from stylegan2_cond.snapshot import PairGenerator, find_best, load_generator

SLICES_PER_SHARD = 64  # as one volume of a real case; a 3-D sample is a case of its own
PREVIEW_SAMPLES = 48
MOST_REFUSED = 0.9  # share of a shard's draws above which filling gives up


def fill_bank(
    preprocessed: Preprocessed,
    fold_name: str,
    *,
    samples: int,
    snapshot: Path | None = None,
    name: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Draw samples into a bank, or go on with one that was begun with the same snapshot and seed.

    Args:
        preprocessed: dataset and configuration that the bank is for.
        fold_name: fold that the bank is for.
        samples: how many the bank is to hold.
        snapshot: folder of the snapshot; the best one of the fold's pair generator, when None.
        name: of the bank; the variant and the images that the generator saw, when None.
        seed: of the stream of samples.
        device: that draws.

    Returns:
        The bank's folder.

    Raises:
        UserError: bad input, a snapshot of other data, a bank of that name with other contents, a full disk.
        Stopped: after Ctrl-C.
    """
    source = Source.of(preprocessed, preprocessed.fold(fold_name))
    snapshot = snapshot or _best_snapshot(source)
    generator = load_generator(snapshot, device)
    _refuse_foreign(generator, source, snapshot)
    name = name or f"{generator.plan.variant}_{generator.card.images_seen // 1000}k"
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name} is no plain folder name. Type for example --name {generator.plan.variant}_1")
    folder = banks_folder(preprocessed, source.fold) / name
    record = _begin(folder, name, generator, snapshot, samples, seed)
    try:
        record = _fill(folder, record, generator, preprocessed)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; whole shards of {folder} are kept. The same command goes on.") from None
    _save_preview(folder, record, generator)
    return folder


def _fill(folder: Path, record: BankRecord, generator: PairGenerator, preprocessed: Preprocessed) -> BankRecord:
    per_shard = SLICES_PER_SHARD if len(record.canvas) == 2 else 1
    with tqdm(total=record.requested, initial=record.samples, unit="sample", desc=f"Filling {record.name}") as bar:
        while not record.complete:
            first = record.shards[-1].next_sample if record.shards else 0
            wanted = min(per_shard, record.requested - record.samples)
            image, label, next_sample, refused = _draw(generator, record.seed, first, wanted)
            if len(canvas := record.canvas) == 2:
                image, label = image.swapaxes(0, 1), label[None]
            else:
                image = image.reshape(-1, *canvas)
            shard = write_shard(folder, f"synth_{len(record.shards):05d}", image, label, next_sample, preprocessed)
            record = record.model_copy(
                update={
                    "shards": (*record.shards, shard),
                    "refused": {gate: record.refused.get(gate, 0) + refused[gate] for gate in GATES},
                }
            )
            record.save(folder / RECORD_FILE)
            bar.update(shard.samples)
    return record


def _draw(
    generator: PairGenerator, seed: int, first: int, wanted: int
) -> tuple[np.ndarray, np.ndarray, int, Counter[str]]:
    """`wanted` samples that pass the gates: image `[N, C, *canvas]`, label `[N, *canvas]`, where the stream goes on."""
    images, labels, refused, number = [], [], Counter(), first
    while (missing := wanted - sum(map(len, images))) > 0:
        pairs, turned_away = pass_gates(generator.sample(missing, seed=seed, first=number))
        number += missing
        refused.update(turned_away)
        images.append(pairs.image)
        labels.append(pairs.label)
        if sum(refused.values()) > MOST_REFUSED * max(number - first, SLICES_PER_SHARD):
            worst = refused.most_common(1)[0][0]
            raise UserError(
                f"The gate '{worst}' refused {refused[worst]} of {number - first} samples: the generator is not good "
                f"enough. Train it longer, or choose another --snapshot."
            )
    return np.concatenate(images), np.concatenate(labels), number, refused


def _begin(folder: Path, name: str, generator: PairGenerator, snapshot: Path, samples: int, seed: int) -> BankRecord:
    """The record of the bank to go on with, or of a new one."""
    reference = SnapshotReference(
        path=str(snapshot.resolve()),
        weights_sha256=generator.card.weights_sha256,
        images_seen=generator.card.images_seen,
    )
    if (folder / RECORD_FILE).exists():
        record = BankRecord.load(folder / RECORD_FILE)
        if (record.snapshot.weights_sha256, record.seed) != (reference.weights_sha256, seed):
            raise UserError(f"Bank {folder} exists, of another snapshot or seed. Choose another name with --name.")
        for scratch in folder.glob(".filling_*"):
            shutil.rmtree(scratch)
        return record.model_copy(update={"requested": max(samples, record.samples)})
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is no bank. Choose another name with --name.")
    record = BankRecord(
        name=name,
        source=generator.plan.source,
        snapshot=reference,
        canvas=generator.plan.canvas,
        seed=seed,
        requested=samples,
        created=datetime.now(timezone.utc).isoformat(),
        release=version("nnunet-synth"),
    )
    record.save(folder / RECORD_FILE)
    return record


def _refuse_foreign(generator: PairGenerator, source: Source, snapshot: Path) -> None:
    """A bank is filled for the data that its generator learnt from, nothing else."""
    learnt = generator.plan.source
    if generator.plan.variant == "mask":
        raise UserError(f"Snapshot {snapshot} draws masks alone. Choose one of the variant pair or image.")
    for key, what in (
        ("dataset_name", "dataset"),
        ("data_identifier", "preprocessed data"),
        ("fold", "fold"),
        ("preprocessing", "preprocessing"),
    ):
        if getattr(learnt, key) != getattr(source, key):
            raise UserError(
                f"Snapshot {snapshot} learnt from another {what} ({getattr(learnt, key)}, here it is "
                f"{getattr(source, key)}). Train a generator here: stylegan2-cond train {source.dataset_name} "
                f"{source.configuration} {source.fold}"
            )


def _best_snapshot(source: Source) -> Path:
    if found := find_best(run_folder(source)):
        return found
    raise UserError(
        f"No snapshot in {run_folder(source)}. Train a generator first: stylegan2-cond train "
        f"{source.dataset_name} {source.configuration} {source.fold}"
    )


def _save_preview(folder: Path, record: BankRecord, generator: PairGenerator) -> None:
    """Grid of the first samples, as they lie in the bank."""
    codec = generator.plan.codec
    bank = BankDataset(str(folder), [record.shards[0].name])
    image, label, _, _ = bank.load_case(record.shards[0].name)
    if len(record.canvas) == 2:
        image, label = image[:, :PREVIEW_SAMPLES].swapaxes(0, 1), label[0, :PREVIEW_SAMPLES]
    else:
        image, label = image[:][None], label[:]
    save_picture(
        folder / "previews.png", overlay_grid(image, label, low=codec.low, high=codec.high, labels=codec.labels)
    )
