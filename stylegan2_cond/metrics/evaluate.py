"""`stylegan2-cond evaluate`: all metrics of a snapshot, and what real patches get in its place."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from stylegan2_cond.data.nnunet_dataset import FOLD_ALL
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.memory import peak_bytes
from stylegan2_cond.metrics.compare import allowed_metrics, check_names
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import (
    CachedExtractor,
    ExtractorSettings,
    build_features,
    content_key,
)
from stylegan2_cond.metrics.features_nnunet import NnUNet, open_newest, open_nnunet
from stylegan2_cond.metrics.memorization import copies_in_pixels
from stylegan2_cond.metrics.reference_sets import ReferenceSet, cache_folder, with_mask_images
from stylegan2_cond.metrics.registry import METRICS, default_metrics
from stylegan2_cond.metrics.report import Baseline, CopyCandidate, Evaluation, Measurement, save_neighbours
from stylegan2_cond.planning import Plan
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import PairGenerator, load_generator, open_same_cases
from stylegan2_cond.snapshot.mask_sources import RealMasks

EVALUATION_FILE = "evaluation.json"
PICTURE_FILE = "evaluation.png"
LISTED = 20  # copy candidates
SAMPLES = {2: 2000, 3: 300}  # by the number of axes
REVISION = "3"  # of the metrics; results of another revision are computed again


def evaluate(
    snapshot: Path,
    *,
    metrics: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    features: str | None = None,
    nnunet: Path | None = None,
    held_out: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Compare samples of a snapshot with patches of its training cases; write the results next to the snapshot.

    Args:
        snapshot: folder.
        metrics: names; all default ones that the data allow, when None.
        samples: number of samples and of real patches; 2,000 in 2-D and 300 in 3-D, when None.
        seed: of the samples, and of whatever a metric samples.
        features: `nnunet`, `random` or `inception-v3-compat`; when None, `nnunet` if one was trained.
        nnunet: folder of a trained nnU-Net; the newest of the fold, when None.
        held_out: also compare the validation cases.
        device: to compute on.

    Raises:
        UserError: no snapshot, cases that are gone or preprocessed differently, an nnU-Net of other data, an unknown
            metric.
    """
    started = time.monotonic()
    generator = load_generator(snapshot, device)
    names = _names(metrics, generator.plan)
    if not os.access(snapshot, os.W_OK):
        raise UserError(f"No permission to write to {snapshot}, where the results go. Copy the snapshot elsewhere.")
    setup = _Setup(generator.plan, samples, seed, features, nnunet, held_out=held_out, device=device)
    names, missing = allowed_metrics(setup.comparison(setup.reference.again), names, required=metrics is not None)
    baseline = _complete_baseline(setup, names, held_out=held_out)
    key = _digest(setup.key, generator.card.weights_sha256)
    earlier = Evaluation.load_if_current(snapshot / EVALUATION_FILE, key)
    generated, candidates = (dict(earlier.generated), earlier.copy_candidates) if earlier else ({}, ())
    todo = [name for name in names if name not in generated]
    if todo:
        comparison = setup.comparison(setup.sample(generator))
        generated |= _measure(comparison, todo, "Evaluating samples")
        if "copies" in todo:
            candidates = _save_copies(snapshot, comparison, generator.plan)
    evaluation = Evaluation(
        key=key,
        snapshot=str(snapshot),
        images_seen=generator.card.images_seen,
        generated={name: generated[name] for name in METRICS if name in generated},
        real=baseline.real,
        held_out={name: figure for name, figure in baseline.held_out.items() if held_out or name == "agreement"},
        copy_candidates=candidates,
        missing=missing,
        **setup.describe(held_out=held_out),
        seconds=round(time.monotonic() - started, 1),
        peak_bytes=peak_bytes(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    )
    if todo or earlier is None:
        evaluation.save(snapshot / EVALUATION_FILE)
    return evaluation


class _Setup:
    """What samples of a plan's generator are compared with, and by what; arguments as for `evaluate`.

    Attributes:
        reference: real patches.
        masks: what a generator of the variant `image` generates images for.
        extractor: of image features.
        network: the fold's nnU-Net; None where there is none.
        no_network: why there is none.
    """

    def __init__(
        self,
        plan: Plan,
        samples: int | None,
        seed: int,
        features: str | None,
        nnunet: Path | None,
        *,
        held_out: bool,
        device: str,
    ):
        self.plan, self.seed = plan, seed
        preprocessed, source = open_same_cases(plan), plan.source
        seen = {*source.training_cases, *(source.scans.cases if source.scans else ())}
        unseen = [name for name in preprocessed.fold(source.fold).validation if name not in seen]
        if held_out and not unseen:
            why = "it was trained on all cases" if source.fold == FOLD_ALL else "its fold has none"
            raise UserError(f"There are no cases that this generator was not trained on: {why}. Remove --held-out.")
        self.network, self.no_network = _find_network(plan, nnunet, device, required=features == NnUNet.name)
        low, high = (plan.codec.low, plan.codec.high) if plan.codec.low else ((0.0,), (1.0,))
        settings = ExtractorSettings(low, high, nnunet=self.network, device=device)
        self.extractor = CachedExtractor(build_features(features, settings), cache_folder(plan))
        count = samples or SAMPLES[len(plan.patch_size)]
        self.reference = ReferenceSet(preprocessed, plan, count, held_out_cases=unseen)
        self.masks = RealMasks.of_cases(preprocessed, plan, "deformed") if plan.given_mask else None

    def comparison(self, generated: SampleSet) -> Comparison:
        """Of the reference's real patches and others."""
        return Comparison(
            self.reference.real,
            generated,
            features=self.extractor,
            nnunet=self.network,
            reference=self.reference.cover.patches,
            conditions=self.plan.conditions,
            seed=self.seed,
            cache_folder=cache_folder(self.plan),
        )

    def sample(self, generator: PairGenerator) -> SampleSet:
        """The first samples of the seed."""
        parts, count, size = [], self.reference.count, 4 * self.plan.batch_size
        with ProgressBar(total=count, desc="Generating samples", unit="sample") as bar:
            for first in range(0, count, size):
                number = min(size, count - first)
                parts.append(generator.sample(number, seed=self.seed, first=first, masks=self.masks))
                bar.update(number)
        return with_mask_images(SampleSet.joined(parts), self.plan)

    @cached_property
    def key(self) -> str:
        """Stands for everything that the figures of real patches depend on."""
        reference = self.reference
        everything = (reference.real, reference.again, reference.held_out, reference.cover.patches)
        contents = [content_key(part) for part in everything if part is not None]
        network = self.network.identity() if self.network else ""
        conditions = self.plan.conditions.model_dump_json()
        return _digest(REVISION, *contents, self.extractor.identity(), network, conditions, str(self.seed))

    def describe(self, *, held_out: bool) -> dict[str, object]:
        """What an `Evaluation` says about it."""
        notes, cover = [], self.reference.cover
        if self.network is None:
            notes.append(
                f"Features are those of random filters, and the fit of masks was not evaluated: {self.no_network}"
            )
        if cover.thinned > 1:
            notes.append(f"Copies were searched for in one of {cover.thinned} patches of the training cases only.")
        if held_out:
            notes.append(
                "The validation cases were compared as well: if you choose a snapshot by these figures, validation "
                "scores on them are no longer trustworthy."
            )
        return {
            "samples": self.reference.count,
            "seed": self.seed,
            "features": self.extractor.name,
            "nnunet": self.network and self.network.model.folder.name,
            "training_cases": len(self.plan.source.training_cases),
            "reference_patches": len(cover.patches),
            "notes": tuple(notes),
        }


def _names(metrics: Sequence[str] | None, plan: Plan) -> list[str]:
    """The chosen metrics, or the default ones that the variant allows."""
    names = default_metrics() if metrics is None else check_names(metrics)
    of_images = [name for name in names if plan.variant == "mask" and "image" in METRICS[name].needs]
    if of_images and metrics is not None:
        raise UserError(f"{', '.join(of_images)}: this snapshot generates masks only, without images.")
    return [name for name in names if name not in of_images]


def _find_network(plan: Plan, folder: Path | None, device: str, *, required: bool) -> tuple[NnUNet | None, str]:
    """The fold's nnU-Net, or why there is none, which is an error where one was named or is required."""
    if plan.variant == "mask":
        return None, "a mask snapshot has no images."
    try:
        if folder is not None:
            return open_nnunet(folder, plan.source, device), ""
        return open_newest(plan.source, device), ""
    except UserError as error:
        if required or folder is not None:
            raise
        return None, str(error)


def _complete_baseline(setup: _Setup, names: Sequence[str], *, held_out: bool) -> Baseline:
    """The metrics of real patches; those that are missing in the cache are computed and added to it."""
    path = cache_folder(setup.plan) / f"real_{setup.key}.json"
    baseline = Baseline.load_if_current(path, setup.key) or Baseline(key=setup.key)
    real, other = dict(baseline.real), dict(baseline.held_out)
    reference = setup.reference
    if todo := [name for name in names if name not in real]:
        real |= _measure(setup.comparison(reference.again), todo, "Evaluating real patches")
    # nnU-Net's Dice on validation cases does not depend on any sample, so it can't bias the choice of a snapshot.
    wanted = names if held_out else [name for name in names if name == "agreement"]
    if reference.held_out is not None and (todo := [name for name in wanted if name not in other]):
        other |= _measure(setup.comparison(reference.held_out), todo, "Evaluating held-out patches")
    if (real, other) != (baseline.real, baseline.held_out):
        baseline = Baseline(key=setup.key, real=real, held_out=other)
        baseline.save(path)
    return baseline


def _save_copies(snapshot: Path, comparison: Comparison, plan: Plan) -> tuple[CopyCandidate, ...]:
    """Plot the samples that are most likely copies, and list them."""
    found = comparison.cached(copies_in_pixels)
    save_neighbours(snapshot / PICTURE_FILE, comparison, found, plan)
    return tuple(
        CopyCandidate(
            sample=int(number),
            case=str(comparison.reference.case[found.generated.index[number]]),
            correlation=round(float(found.generated.nearness[number]), 4),
            alarm=bool(found.alarms[number]),
        )
        for number in found.worst(LISTED)
    )


def _measure(comparison: Comparison, names: Sequence[str], title: str) -> dict[str, Measurement]:
    measured = {}
    with ProgressBar(names, desc=title, unit="metric") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            before = time.monotonic()
            result = METRICS[name](comparison)
            measured[name] = Measurement.of(result, time.monotonic() - before)
    return measured


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
