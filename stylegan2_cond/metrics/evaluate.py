"""The whole judgement of a snapshot: its training cases, what it draws, every metric, and what real cases would get."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from stylegan2_cond.data.nnunet_dataset import FOLD_ALL, Preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.memory import peak_bytes
from stylegan2_cond.metrics.compare import check_names, refusals
from stylegan2_cond.metrics.comparison import Comparison
from stylegan2_cond.metrics.features import (
    EVALUATION_FOLDER,
    Features,
    KeptFeatures,
    Setting,
    build_features,
    content_key,
)
from stylegan2_cond.metrics.features_nnunet import NnUNet, open_newest, open_nnunet
from stylegan2_cond.metrics.memorization import copies_of
from stylegan2_cond.metrics.reference_sets import ReferenceSet, as_judged
from stylegan2_cond.metrics.registry import METRICS, default_metrics
from stylegan2_cond.metrics.report import Baseline, Evaluation, Measured, Neighbour, save_neighbours
from stylegan2_cond.planning import Plan, run_folder
from stylegan2_cond.progress_bar import ProgressBar
from stylegan2_cond.snapshot import MaskSource, PairGenerator, load_generator, open_same_cases
from stylegan2_cond.snapshot.mask_sources import RealMasks

EVALUATION_FILE = "evaluation.json"
PICTURE_FILE = "evaluation.png"
OF_IMAGES = ("kid-pair", "swd", "agreement", "copies", "copies-features")  # not told of masks alone
LISTED = 20  # samples that are most like copies
SAMPLES = {2: 2000, 3: 300}  # by the number of axes
REVISION = "2"  # of the metrics; another one makes what was found before stale


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
    """Judge a snapshot by the training cases of its generator; written beside it as JSON and as a picture.

    Args:
        snapshot: folder.
        metrics: names; all the default ones that the data allow, when None.
        samples: to draw, and patches to cut; 2,000 in 2-D and 300 in 3-D, when None.
        seed: of the drawn samples, and of whatever a metric draws.
        features: `nnunet`, `random`, or a network of torch-fidelity; `nnunet` where one was trained, when None.
        nnunet: folder of a trained nnU-Net; the newest of the fold, when None.
        held_out: judge by the validation cases too.
        device: that draws, and that nnU-Net runs on.

    Raises:
        UserError: no snapshot, cases that are gone or preprocessed anew, an nnU-Net of other data, an unknown metric.
    """
    started = time.monotonic()
    generator = load_generator(snapshot, device)
    names = _names(metrics, generator.plan)
    if not os.access(snapshot, os.W_OK):
        raise UserError(f"No permission to write into {snapshot}, where the results go. Copy the snapshot elsewhere.")
    samples = samples or SAMPLES[len(generator.plan.patch_size)]
    judge = _Judge.of(generator.plan, samples, seed, features, nnunet, held_out=held_out, device=device)
    missing = refusals(judge.comparison(judge.reference.again), names)
    if metrics is not None and missing:
        raise UserError("; ".join(f"{name} {reason}" for name, reason in missing.items()) + ".")
    names = [name for name in names if name not in missing]
    baseline = _complete_baseline(judge, names, held_out=held_out)
    key = _digest(judge.key, generator.card.weights_sha256)
    earlier = Evaluation.same(snapshot / EVALUATION_FILE, key)
    drawn, worst = (dict(earlier.drawn), earlier.worst) if earlier else ({}, ())
    todo = [name for name in names if name not in drawn]
    if todo:
        comparison = judge.comparison(as_judged(_draw(generator, samples, seed, judge.masks), generator.plan))
        drawn |= _measure(comparison, todo, "Judging the samples")
        if "copies" in todo:
            worst = _worst(comparison)
            save_neighbours(snapshot / PICTURE_FILE, comparison, comparison.once(copies_of), generator.plan)
    evaluation = Evaluation(
        key=key,
        snapshot=str(snapshot),
        images_seen=generator.card.images_seen,
        samples=samples,
        seed=seed,
        features=judge.extractor.name,
        nnunet=judge.network and judge.network.model.folder.name,
        training_cases=len(generator.plan.source.training_cases),
        reference_patches=len(judge.reference.cover.patches),
        drawn={name: drawn[name] for name in METRICS if name in drawn},
        real=baseline.real,
        held_out={name: figure for name, figure in baseline.held_out.items() if held_out or name == "agreement"},
        worst=worst,
        missing=missing,
        notes=_notes(judge, held_out=held_out),
        seconds=round(time.monotonic() - started, 1),
        peak_bytes=peak_bytes(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release=version("nnunet-synth"),
    )
    if todo or earlier is None:
        evaluation.save(snapshot / EVALUATION_FILE)
    return evaluation


@dataclass(frozen=True)
class _Judge:
    """Everything that samples are judged by.

    Attributes:
        plan: of the generator.
        reference: real patches.
        masks: what a generator of the variant `image` generates images for.
        extractor: of image features.
        network: the fold's nnU-Net; None where there is none.
        no_network: why there is none.
        seed: of whatever a metric draws.
        keep: folder for what depends on real cases alone.
    """

    plan: Plan
    reference: ReferenceSet
    masks: MaskSource | None
    extractor: Features
    network: NnUNet | None
    no_network: str
    seed: int
    keep: Path

    @classmethod
    def of(
        cls,
        plan: Plan,
        samples: int,
        seed: int,
        features: str | None,
        nnunet: Path | None,
        *,
        held_out: bool,
        device: str,
    ) -> _Judge:
        preprocessed = open_same_cases(plan)
        validation = _validation_cases(preprocessed, plan, requested=held_out)
        network, no_network = _find_network(plan, nnunet, device, needed=features == NnUNet.name)
        low, high = (plan.codec.low, plan.codec.high) if plan.codec.low else ((0.0,), (1.0,))
        setting = Setting(low, high, nnunet=network, device=device)
        keep = run_folder(plan.source, plan.variant) / EVALUATION_FOLDER
        extractor = KeptFeatures(build_features(features, setting), keep)
        reference = ReferenceSet(preprocessed, plan, samples, held_out_cases=validation)
        masks = RealMasks.of_cases(preprocessed, plan, deformed=True) if plan.given_mask else None
        return cls(plan, reference, masks, extractor, network, no_network, seed, keep)

    def comparison(self, drawn: SampleSet) -> Comparison:
        return Comparison(
            self.reference.real,
            drawn,
            features=self.extractor,
            nnunet=self.network,
            reference=self.reference.cover.patches,
            conditions=self.plan.conditions,
            seed=self.seed,
            keep=self.keep,
        )

    @cached_property
    def key(self) -> str:
        """Stands for everything that the figures of real patches depend on."""
        reference = self.reference
        everything = (reference.real, reference.again, reference.held_out, reference.cover.patches)
        contents = [content_key(part) for part in everything if part is not None]
        network = self.network.identity() if self.network else ""
        conditions = self.plan.conditions.model_dump_json()
        return _digest(REVISION, *contents, self.extractor.identity(), network, conditions, str(self.seed))


def _names(metrics: Sequence[str] | None, plan: Plan) -> tuple[str, ...]:
    """Of the metrics that were asked for, or else of the default ones, those that the variant can have."""
    names = default_metrics() if metrics is None else check_names(metrics)
    silent = [name for name in names if name in OF_IMAGES] if plan.variant == "mask" else []
    if silent and metrics is not None:
        raise UserError(f"{', '.join(silent)}: this snapshot draws masks alone, without images.")
    return tuple(name for name in names if name not in silent)


def _validation_cases(preprocessed: Preprocessed, plan: Plan, *, requested: bool) -> tuple[str, ...]:
    """Those of the fold that the generator did not see."""
    seen = set(plan.source.training_cases)
    names = tuple(name for name in preprocessed.fold(plan.source.fold).validation if name not in seen)
    if requested and not names:
        why = "it was trained on all cases" if plan.source.fold == FOLD_ALL else "its fold has none"
        raise UserError(f"There are no cases that this generator has not seen: {why}. Leave out --held-out.")
    return names


def _find_network(plan: Plan, folder: Path | None, device: str, *, needed: bool) -> tuple[NnUNet | None, str]:
    """The fold's nnU-Net, or why there is none; a reason is an error where one was named or is needed."""
    if plan.variant == "mask":
        return None, "masks are judged without their images."
    source = plan.source
    try:
        if folder is not None:
            return NnUNet(open_nnunet(folder, source), device), ""
        return open_newest(source, device), ""
    except UserError as error:
        if needed or folder is not None:
            raise
        return None, str(error)


def _complete_baseline(judge: _Judge, names: Sequence[str], *, held_out: bool) -> Baseline:
    """What real patches get, with whatever is not known yet computed and written."""
    path = judge.keep / f"real_{judge.key}.json"
    baseline = Baseline.same(path, judge.key) or Baseline(key=judge.key)
    real, other = dict(baseline.real), dict(baseline.held_out)
    reference = judge.reference
    if todo := [name for name in names if name not in real]:
        real |= _measure(judge.comparison(reference.again), todo, "Judging real patches")
    # What nnU-Net says of validation cases does not depend on any sample, so knowing it can't mislead a choice.
    wanted = names if held_out else [name for name in names if name == "agreement"]
    if reference.held_out is not None and (todo := [name for name in wanted if name not in other]):
        other |= _measure(judge.comparison(reference.held_out), todo, "Judging held-out patches")
    if (real, other) != (baseline.real, baseline.held_out):
        baseline = Baseline(key=judge.key, real=real, held_out=other)
        baseline.save(path)
    return baseline


def _worst(comparison: Comparison) -> tuple[Neighbour, ...]:
    found = comparison.once(copies_of)
    return tuple(
        Neighbour(
            sample=int(number),
            case=str(comparison.reference.case[found.drawn.index[number]]),
            correlation=round(float(found.drawn.nearness[number]), 4),
            alarm=bool(found.alarms[number]),
        )
        for number in found.worst(LISTED)
    )


def _measure(comparison: Comparison, names: Sequence[str], title: str) -> dict[str, Measured]:
    measured = {}
    with ProgressBar(names, desc=title, unit="metric") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            before = time.monotonic()
            result = METRICS[name](comparison)
            measured[name] = Measured.of(result, time.monotonic() - before)
    return measured


def _draw(generator: PairGenerator, count: int, seed: int, masks: MaskSource | None) -> SampleSet:
    parts = []
    size = 4 * generator.plan.batch_size
    with ProgressBar(total=count, desc="Drawing samples", unit="sample") as bar:
        for first in range(0, count, size):
            parts.append(generator.sample(min(size, count - first), seed=seed, first=first, masks=masks))
            bar.update(len(parts[-1].image))
    return SampleSet.joined(parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _notes(judge: _Judge, *, held_out: bool) -> tuple[str, ...]:
    notes, thinned = [], judge.reference.cover.thinned
    if judge.network is None:
        notes.append(f"Features are those of random filters, and whether masks fit is not told: {judge.no_network}")
    if thinned > 1:
        notes.append(f"Copies were looked for in one of {thinned} patches of the training cases only.")
    if held_out:
        notes.append(
            "Held-out cases were looked at: whoever chooses a snapshot by these figures can no longer trust "
            "validation scores on them."
        )
    return tuple(notes)
