"""Makes the generator's plan from nnU-Net's plans, the training cases and a memory budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import Fingerprint, read_fingerprint
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Fold, Preprocessed
from stylegan2_cond.data.patch_sampler import SCAN_SHARE, PatchBatch, PatchSampler
from stylegan2_cond.data.scans import ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.memory import cache_bytes
from stylegan2_cond.planning import heuristics
from stylegan2_cond.planning.heuristics import PlanInputs, Setting, choose_batch_size, training_settings
from stylegan2_cond.planning.memory import fit_memory
from stylegan2_cond.planning.plan import BY_HAND, Plan, RunOptions, Source, Variant, check_overrides

CONDITION_PATCHES = 2000  # on which conditions are measured
CONDITION_BYTES = 2**28  # of their labels together; large patches are fewer, but at least
MIN_CONDITION_PATCHES = 100
MAX_LABELS = 8  # in a reason; of more, the first and the last are listed
REQUESTED = "asked for"
OUTPUT = {"pair": "image and mask together", "mask": "masks alone", "image": "images for given masks"}


def make_plan(
    options: RunOptions,
    preprocessed: Preprocessed,
    fold: Fold,
    scans: ScanBank | None = None,
    *,
    budget: int | None = None,
    processes: int = 1,
) -> Plan:
    """Make a plan; reads each training case and each scan once.

    Args:
        options: what the user asks for.
        preprocessed: the dataset that `options` names.
        fold: the fold that `options` names.
        scans: of the bank that `options` names.
        budget: memory that training may take, in bytes; unlimited if None.
        processes: number of processes that train together, each on its share of a batch; on GPUs of their own, or all
            on one CPU.

    Raises:
        UserError: the patch does not fit nnU-Net's, the pyramid or the memory, an override is wrong, or there is
            nothing to learn.
    """
    device, fingerprint = torch.device(options.device), read_fingerprint(preprocessed, fold.training, scans)
    _refuse_unlearnable(fingerprint, options.variant, preprocessed)
    shape = _shape_settings(preprocessed, fingerprint, options)
    patch_size, stages = shape["patch_size"].value, len(shape["channels"].value)
    overrides = check_overrides(options.overrides, stages)
    batch_size = choose_batch_size(patch_size, device)
    inputs = PlanInputs(
        variant=options.variant,
        patch_size=patch_size,
        patches=fingerprint.patches(patch_size),
        device=device,
        batch_size=overrides.get("batch_size", batch_size.value),
    )
    settings = shape | {"batch_size": batch_size} | training_settings(inputs) | _scan_settings(options, scans)
    settings |= {key: Setting(value, BY_HAND) for key, value in overrides.items()}
    requested = {"kimg": options.kimg, "seed": options.seed}
    settings |= {key: Setting(value, REQUESTED) for key, value in requested.items() if value is not None}
    values = {key: setting.value for key, setting in settings.items()}
    if values["batch_size"] % values["accumulate"]:
        raise UserError(
            f"--set: a batch_size of {values['batch_size']} cannot be computed in {values['accumulate']} equal parts "
            f"(accumulate)."
        )
    share, seed = values["foreground_share"], values["seed"]
    scans = scans and replace(scans, by_confidence=values["trust_masks"])
    sampler = PatchSampler(preprocessed, fold.training, patch_size, foreground_share=share, seed=seed, scans=scans)
    numbers = range(condition_patches(patch_size))
    measured = PatchBatch.stack([sampler.sample(number, with_image=False) for number in numbers])
    source = Source.of(preprocessed, fold, scans)
    plan = Plan(
        source=source,
        conditions=Conditions.from_patches(_classes(preprocessed), measured.label, measured.position),
        reasons={
            "source": f"{source.describe_cases()}, {inputs.patches:,} patches that do not overlap",
            "conditions": _describe_conditions(fingerprint, preprocessed, len(fingerprint.sizes)),
            **{key: setting.reason for key, setting in settings.items()},
        },
        **values,
    )
    if budget is not None and device.type == "cpu":  # processes share it, and each caches cases in its part
        budget //= processes
        budget -= min(cache_bytes(budget), fingerprint.bytes)
    return fit_memory(plan, budget, processes, device.type)


def _scan_settings(options: RunOptions, scans: ScanBank | None) -> dict[str, Setting]:
    """What scans teach."""
    if scans is None:
        return {"trust_masks": Setting(False, "the generator learns from labelled cases alone")}
    if options.variant == "image":
        return {"trust_masks": Setting(True, "the masks of scans are given to the generator, by their confidence")}
    if options.trust_masks:
        return {"trust_masks": Setting(True, REQUESTED + "; scans are drawn by the confidence of their masks")}
    if options.variant == "mask":
        raise UserError(
            "--with-bank: a generator of masks learns nothing from scans whose masks it does not see. Show it their "
            "pseudo-labels (--trust-masks), or leave out --with-bank."
        )
    reason = f"{SCAN_SHARE:.0%} of the patches are of scans, of which the discriminator sees the image alone"
    return {"trust_masks": Setting(False, reason)}


def _shape_settings(preprocessed: Preprocessed, fingerprint: Fingerprint, options: RunOptions) -> dict[str, Setting]:
    """What the networks generate, and in which steps."""
    variant, limits = options.variant, preprocessed.patch_size
    if options.patch_size is None:
        size = heuristics.choose_patch_size(limits, fingerprint.sizes)
        within, share = "×".join(map(str, limits)), heuristics.FILLED_SHARE
        reason = f"within nnU-Net's patch {within}, filled by {share:.0%} of the images"
    else:
        size, reason = heuristics.check_patch_size(options.patch_size, limits), REQUESTED
    factors = heuristics.choose_factors(size, preprocessed.configuration.pool_op_kernel_sizes)
    codec = heuristics.choose_codec(preprocessed, fingerprint, size, variant)
    names = ["outside" if label == OUTSIDE else str(label) for label in codec.labels]
    coded = [f"labels {', '.join(names if len(names) <= MAX_LABELS else [*names[:2], '…', *names[-2:]])}"]
    if variant != "mask":
        coded.append("robust intensity range of the training cases")
        if any(fingerprint.constant):
            constant = [str(channel) for channel, same in enumerate(fingerprint.constant) if same]
            coded.append(f"channel {', '.join(constant)} is the same everywhere")
    spacing = tuple(float(length) for length in preprocessed.configuration.spacing[-len(size) :])
    return {
        "variant": Setting(variant, OUTPUT[variant]),
        "patch_size": Setting(size, reason),
        "spacing": Setting(spacing, "nnU-Net's"),
        "factors": Setting(
            factors, f"nnU-Net's strides in reverse, with more stages while the base exceeds {heuristics.MAX_BASE}"
        ),
        "channels": Setting(
            heuristics.choose_channels(size, len(factors) + 1),
            f"{heuristics.FINEST_CHANNELS} at full resolution, doubling to a limit that grows with the patch",
        ),
        "codec": Setting(codec, "; ".join(coded)),
    }


def _refuse_unlearnable(fingerprint: Fingerprint, variant: Variant, preprocessed: Preprocessed) -> None:
    ignore = preprocessed.label_manager.ignore_label
    if variant == "image" and ignore is not None:
        raise UserError(
            f"Masks of {preprocessed.dataset_name} have voxels to be ignored (label {ignore}), so that no image can be "
            f"generated for them. Generate both together: --variant pair"
        )
    where = f"the training cases in {preprocessed.folder}"
    if variant == "mask" and not fingerprint.shown:
        raise UserError(
            f"None of {where} shows any class, so there is no mask to learn. Check the labels in nnUNet_raw, or "
            f"generate images with their empty masks: --variant pair"
        )
    if variant != "mask" and all(fingerprint.constant):
        raise UserError(
            f"Each image channel has one value in all of {where}, so there is no image to learn. Check the images in "
            f"nnUNet_raw, or learn the masks: --variant mask"
        )


def _describe_conditions(fingerprint: Fingerprint, preprocessed: Preprocessed, cases: int) -> str:
    """What the conditions are measured on, and which classes are so rare that their samples will be copies."""
    rare = [
        f"class {label} is shown by " + (f"1 of {cases} cases" if label in fingerprint.shown else "no case")
        for label in _classes(preprocessed)
        if fingerprint.shown.get(label, 0) < min(2, cases)
    ]
    return "; ".join(["measured on training patches", *rare[:3], *([f"{len(rare) - 3} more such"] if rare[3:] else [])])


def _classes(preprocessed: Preprocessed) -> list[int]:
    return [int(label) for label in preprocessed.label_manager.all_labels if label != 0]


def condition_patches(patch_size: Sequence[int]) -> int:
    """Number of patches on which the conditions of a plan are measured."""
    return min(CONDITION_PATCHES, max(MIN_CONDITION_PATCHES, CONDITION_BYTES // (2 * math.prod(patch_size))))
