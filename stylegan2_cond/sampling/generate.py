"""The whole way: open, check what is asked, draw what is missing, show; the same command goes on after a stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.sampling.files import sample_files, sample_name, save_preview, scratch_folder, write_sample
from stylegan2_cond.sampling.manifest import Sample, SamplesRecord, begin_folder, describe, save_record
from stylegan2_cond.snapshot import Ask, MaskSource, PairGenerator, Pairs, load_generator, open_masks
from stylegan2_cond.snapshot.mask_sources import DrawnMasks

DEFAULT_MASKS = "deformed"
SAVE_SECONDS = 10.0  # between two writings of the record
MOST_NAMED = 5  # combinations of classes


def generate(
    snapshot: Path,
    folder: Path,
    *,
    samples: int,
    seed: int = 0,
    truncation: float = 1.0,
    with_classes: Sequence[int] | None = None,
    position: float | None = None,
    areas: Mapping[int, float] | None = None,
    masks: str | None = None,
    device: str = "cpu",
) -> SamplesRecord:
    """Draw samples into a folder, or go on with one that was begun with the same settings.

    Files: `images/sample_00000_0000.nii.gz`, one per channel, float32 in nnU-Net's normalised units;
    `labels/sample_00000.nii.gz`, int16; `samples.json`; `preview.png`.

    Args:
        snapshot: folder of the snapshot.
        folder: for the files; a new one, an empty one, or one that this function began.
        samples: how many the folder is to hold; more that it holds already are kept.
        seed, truncation, with_classes, position, areas: as for `PairGenerator.sample`.
        masks: what a snapshot of the variant `image` draws for: `real`, `deformed` (when None), or the folder of a
            mask snapshot.
        device: that draws.

    Raises:
        UserError: bad input, something asked for that can't be, a folder of other settings or contents, a full disk.
        Stopped: after Ctrl-C.
    """
    if samples < 1:
        raise UserError(f"-n {samples} is no number of samples to draw. Type for example -n 100")
    if not (math.isfinite(truncation) and truncation >= 0):
        raise UserError(f"--truncation {truncation:g} is no number from 0 on. Type for example --truncation 0.7")
    ask = Ask(None if with_classes is None else sorted(set(with_classes)), position, areas or None)
    try:
        generator = load_generator(snapshot, device)
        source = _open_source(generator, masks, device)
        _check(ask, generator.plan.conditions, source, seed)
        if warning := _unseen(ask, generator.plan.conditions):
            write_line(warning)
        record = _new_record(snapshot, generator, ask, source, masks)
        record = record.model_copy(update={"seed": seed, "truncation": truncation, "requested": samples})
        record = _draw(folder, begin_folder(folder, record), generator, ask, source)
        save_preview(folder, [sample.name for sample in record.samples], generator.plan)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; whole samples in {folder} are kept. The same command goes on.") from None
    return record


def _draw(
    folder: Path, record: SamplesRecord, generator: PairGenerator, ask: Ask, source: MaskSource | None
) -> SamplesRecord:
    """Draw what is missing. Batches begin at the same numbers always, so that a sample is the same to the last bit."""
    channels, size, saved_at = record.image_channels, generator.plan.batch_size, time.monotonic()
    done = {one.name: one for one in record.samples if _is_whole(folder, one, channels)}
    with (
        scratch_folder(folder) as scratch,
        ProgressBar(total=record.requested, initial=len(done), unit="sample") as bar,
    ):
        try:
            for start in range(0, record.requested, size):
                batch = range(start, min(start + size, record.requested))
                if all(sample_name(number) in done for number in batch):
                    continue
                pairs = _sample(generator, batch, record, ask, source)
                drawn = describe(pairs, [sample_name(number) for number in batch], generator.plan.conditions)
                for sample, image, label in zip(drawn, pairs.image, pairs.label, strict=True):
                    if sample.name not in done:
                        write_sample(folder, scratch, sample.name, [*image, label], record.spacing)
                        done[sample.name] = sample
                        bar.update()
                if time.monotonic() - saved_at > SAVE_SECONDS:
                    save_record(folder, record, done.values())
                    saved_at = time.monotonic()
        finally:
            record = save_record(folder, record, done.values())
    return record


def _is_whole(folder: Path, sample: Sample, channels: int) -> bool:
    return all(path.exists() for path in sample_files(folder, sample.name, channels))


def _sample(
    generator: PairGenerator, batch: range, record: SamplesRecord, ask: Ask, source: MaskSource | None
) -> Pairs:
    with _naming(ask):
        return generator.sample(
            len(batch),
            seed=record.seed,
            first=batch.start,
            truncation=record.truncation,
            with_classes=ask.classes,
            position=ask.position,
            areas=ask.areas,
            masks=source,
        )


def _open_source(generator: PairGenerator, masks: str | None, device: str) -> MaskSource | None:
    if generator.plan.given_mask:
        return open_masks(masks or DEFAULT_MASKS, generator.plan, device)
    if masks is not None:
        raise UserError(f"--masks {masks}: a snapshot of the variant {generator.plan.variant} draws its own. Leave it.")
    return None


def _check(ask: Ask, conditions: Conditions, source: MaskSource | None, seed: int) -> None:
    """Refuse what can't be, before anything is written; an option that is wrong by itself is named alone.

    Raises:
        UserError: names the options.
    """
    for part in (Ask(classes=ask.classes), Ask(position=ask.position), Ask(areas=ask.areas), ask):
        with _naming(part):
            rng = np.random.default_rng(seed)
            conditions.draw(rng, classes=part.classes, position=part.position, areas=part.areas)
    if source is not None and ask != Ask():
        with _naming(ask):
            source.draw(seed, [0], ask)


def _unseen(ask: Ask, conditions: Conditions) -> str | None:
    """What to say where no training patch shows just the classes that are asked for."""
    seen = conditions.combinations()
    if ask.classes is None or tuple(ask.classes) in seen:
        return None
    frequent = [f"{_together(classes)} ({share:.0%})" for classes, share in list(seen.items())[:MOST_NAMED]]
    return (
        f"No training patch shows just {_together(ask.classes)}, so the generator could not learn it. They show: "
        f"{', '.join(frequent)}{', …' if len(seen) > MOST_NAMED else ''}."
    )


def _together(classes: Sequence[int]) -> str:
    return f"class {' + '.join(map(str, classes))}" if classes else "no class"


@contextlib.contextmanager
def _naming(ask: Ask) -> Iterator[None]:
    """Lead errors that come from what was asked for back to what was typed."""
    try:
        yield
    except ValueError as error:
        typed = [f"--with-class {label}" for label in ask.classes or ()]
        typed += [] if ask.position is None else [f"--position {ask.position:g}"]
        typed += [f"--area {label}={area:g}" for label, area in (ask.areas or {}).items()]
        if not typed:
            raise
        raise UserError(f"{' '.join(typed)}: {error}") from None


def _new_record(
    snapshot: Path, generator: PairGenerator, ask: Ask, source: MaskSource | None, masks: str | None
) -> SamplesRecord:
    plan, drawn = generator.plan, isinstance(source, DrawnMasks)
    if plan.given_mask:
        masks = str(Path(masks).resolve()) if drawn else masks or DEFAULT_MASKS
    return SamplesRecord(
        snapshot=str(snapshot.resolve()),
        weights_sha256=generator.card.weights_sha256,
        variant=plan.variant,
        with_classes=None if ask.classes is None else tuple(ask.classes),
        position=ask.position,
        areas=dict(ask.areas or {}),
        masks=masks,
        masks_sha256=source.generator.card.weights_sha256 if drawn else None,
        patch_size=plan.patch_size,
        spacing=plan.spacing,
        image_channels=plan.codec.image_channels,
        label_values={label: _meaning(label) for label in plan.codec.labels},
        release=version("nnunet-synth"),
    )


def _meaning(label: int) -> str:
    return {OUTSIDE: "outside of the image", 0: "background"}.get(label, f"class {label}")
