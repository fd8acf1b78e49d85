"""`stylegan2-cond generate`: samples of a snapshot as files; after a stop, the same call continues."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.nnunet_dataset import OUTSIDE
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.folders import scratch_folder
from stylegan2_cond.progress_bar import ProgressBar, write_line
from stylegan2_cond.sampling.manifest import (
    Manifest,
    describe,
    open_folder,
    sample_files,
    save_manifest,
    save_preview,
    write_sample,
)
from stylegan2_cond.snapshot import MaskSource, PairGenerator, SampleRequest, load_generator, open_masks
from stylegan2_cond.snapshot.mask_sources import GeneratedMasks

DEFAULT_MASKS = "deformed"
SCRATCH = ".generating_"
SAVE_SECONDS = 10.0  # between two writings of samples.json
MOST_NAMED = 5  # combinations of classes


def generate(
    snapshot: Path,
    folder: Path,
    *,
    samples: int,
    seed: int = 0,
    truncation: float = 1.0,
    request: SampleRequest = SampleRequest(),
    masks: str | None = None,
    device: str = "cpu",
) -> Manifest:
    """Generate samples into a folder, or continue one that was started with the same settings.

    Files: `images/sample_00000_0000.nii.gz`, one per channel, float32 in nnU-Net's normalised units;
    `labels/sample_00000.nii.gz`, int16; `samples.json`; `preview.png`.

    Args:
        snapshot: folder of the snapshot.
        folder: for the files; a new one, an empty one, or one that this function started.
        samples: number of samples that the folder is to hold; if it holds more already, they are kept.
        seed, truncation, request: as for `PairGenerator.sample`.
        masks: what a snapshot of the variant `image` generates images for: `deformed` (when None), `blended`, `real`,
            or the folder of a mask snapshot.
        device: to compute on.

    Raises:
        UserError: bad input, a request that can't be met, a folder of other settings or contents, a full disk.
        Stopped: after Ctrl-C.
    """
    if samples < 1:
        raise UserError(f"-n must be at least 1 (got {samples}). Type for example -n 100")
    if not (math.isfinite(truncation) and truncation >= 0):
        raise UserError(f"--truncation must be at least 0 (got {truncation:g}). Type for example --truncation 0.7")
    classes = None if request.classes is None else tuple(sorted(set(request.classes)))
    request = SampleRequest(classes, request.position, request.areas or None)
    try:
        generator = load_generator(snapshot, device)
        source = None
        if generator.plan.given_mask:
            source = open_masks(masks or DEFAULT_MASKS, generator.plan, device)
        elif masks is not None:
            raise UserError(
                f"--masks {masks}: a snapshot of the variant {generator.plan.variant} generates its own masks. Remove "
                f"--masks."
            )
        _check(request, generator.plan.conditions, source, seed)
        if warning := _unseen(request, generator.plan.conditions):
            write_line(warning)
        manifest = _new_manifest(snapshot, generator, request, source, masks)
        manifest = manifest.model_copy(update={"seed": seed, "truncation": truncation, "requested": samples})
        manifest = _fill(folder, open_folder(folder, manifest), generator, request, source)
        save_preview(folder, [sample.name for sample in manifest.samples], generator.plan)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; whole samples in {folder} are kept. Run the same command to continue.") from None
    return manifest


def _fill(
    folder: Path, manifest: Manifest, generator: PairGenerator, request: SampleRequest, source: MaskSource | None
) -> Manifest:
    """Generate what is missing. Batches always start at the same numbers, so that a sample is the same to the bit."""
    channels, size, saved_at = manifest.image_channels, generator.plan.batch_size, time.monotonic()
    done = {
        sample.name: sample
        for sample in manifest.samples
        if all(path.exists() for path in sample_files(folder, sample.name, channels))
    }
    with (
        scratch_folder(folder, SCRATCH) as scratch,
        ProgressBar(total=manifest.requested, initial=len(done), unit="sample") as bar,
    ):
        try:
            for start in range(0, manifest.requested, size):
                numbers = range(start, min(start + size, manifest.requested))
                names = [f"sample_{number:05d}" for number in numbers]
                if all(name in done for name in names):
                    continue
                with _naming_options(request):
                    pairs = generator.sample(
                        len(numbers),
                        seed=manifest.seed,
                        first=start,
                        truncation=manifest.truncation,
                        request=request,
                        masks=source,
                    )
                described = describe(pairs, names, generator.plan.conditions)
                for sample, image, label in zip(described, pairs.image, pairs.label, strict=True):
                    if sample.name not in done:
                        write_sample(folder, scratch, sample.name, [*image, label], manifest.spacing)
                        done[sample.name] = sample
                        bar.update()
                if time.monotonic() - saved_at > SAVE_SECONDS:
                    save_manifest(folder, manifest, done.values())
                    saved_at = time.monotonic()
        finally:
            manifest = save_manifest(folder, manifest, done.values())
    return manifest


def _check(request: SampleRequest, conditions: Conditions, source: MaskSource | None, seed: int) -> None:
    """Refuse a request that can't be met, before anything is written.

    Raises:
        UserError: names the options; one that is wrong by itself is named alone.
    """
    single = [SampleRequest(**{key: value}) for key, value in vars(request).items()]
    for part in (*single, request):
        with _naming_options(part):
            conditions.sample(np.random.default_rng(seed), **vars(part))
    if source is not None and request != SampleRequest():
        with _naming_options(request):
            source.sample(seed, [0], request)


def _unseen(request: SampleRequest, conditions: Conditions) -> str | None:
    """A warning where no training patch shows exactly the requested classes."""
    seen = conditions.combinations()
    if request.classes is None or tuple(request.classes) in seen:
        return None
    frequent = [f"{_combination(classes)} ({share:.0%})" for classes, share in list(seen.items())[:MOST_NAMED]]
    return (
        f"No training patch shows exactly {_combination(request.classes)}, so the generator could not learn it. "
        f"Training patches show: {', '.join(frequent)}{', …' if len(seen) > MOST_NAMED else ''}."
    )


def _combination(classes: Sequence[int]) -> str:
    return f"class {' + '.join(map(str, classes))}" if classes else "no class"


@contextlib.contextmanager
def _naming_options(request: SampleRequest) -> Iterator[None]:
    """Put the options in front of errors that the request causes."""
    try:
        yield
    except ValueError as error:
        typed = [f"--with-class {label}" for label in request.classes or ()]
        typed += [] if request.position is None else [f"--position {request.position:g}"]
        typed += [f"--area {label}={area:g}" for label, area in (request.areas or {}).items()]
        if not typed:
            raise
        raise UserError(f"{' '.join(typed)}: {error}") from None


def _new_manifest(
    snapshot: Path, generator: PairGenerator, request: SampleRequest, source: MaskSource | None, masks: str | None
) -> Manifest:
    plan, generated = generator.plan, isinstance(source, GeneratedMasks)
    if plan.given_mask:
        masks = str(Path(masks).resolve()) if generated else masks or DEFAULT_MASKS
    meanings = {OUTSIDE: "outside of the image", 0: "background"}
    return Manifest(
        snapshot=str(snapshot.resolve()),
        weights_sha256=generator.card.weights_sha256,
        variant=plan.variant,
        with_classes=request.classes,
        position=request.position,
        areas=dict(request.areas or {}),
        masks=masks,
        masks_sha256=source.generator.card.weights_sha256 if generated else None,
        patch_size=plan.patch_size,
        spacing=plan.spacing,
        image_channels=plan.codec.image_channels,
        label_values={label: meanings.get(label, f"class {label}") for label in plan.codec.labels},
        release=version("nnunet-synth"),
    )
