"""From nnU-Net's plans, the training cases and a memory budget to the generator's plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import Survey
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Fold, Preprocessed
from stylegan2_cond.data.patch_sampler import CACHE_BYTES, PatchBatch, PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import heuristics
from stylegan2_cond.planning.fitting import fit_memory
from stylegan2_cond.planning.heuristics import Choice, Facts
from stylegan2_cond.planning.overrides import BY_HAND, check_batch, check_kimg, check_overrides
from stylegan2_cond.planning.plan import Plan, Source, Variant

CONDITION_PATCHES = 2000  # drawn to see which conditions occur, and how often
CONDITION_BYTES = 2**28  # of their labels together; in 3-D fewer patches must do, but not fewer than
FEWEST_CONDITION_PATCHES = 100
MOST_LABELS = 8  # that are listed; of more, the first and the last are
ASKED = "asked for"
DRAWN = {"pair": "image and mask together", "mask": "masks alone", "image": "images for given masks"}


def make_plan(
    preprocessed: Preprocessed,
    fold: Fold,
    seen: Survey,
    *,
    variant: Variant = "pair",
    patch_size: Sequence[int] | None = None,
    kimg: float | None = None,
    seed: int | None = None,
    free_bytes: int | None = None,
    overrides: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> Plan:
    """Derive a plan.

    Args:
        preprocessed: dataset and configuration.
        fold: of which the training cases are learnt from.
        seen: the survey of those cases.
        variant: what to draw.
        patch_size: instead of the derived one.
        kimg: thousands of real images to train on, instead of the derived number.
        seed: of all randomness in training; 0, when None.
        free_bytes: memory that training may take; unlimited, when None.
        overrides: further keys of the plan, instead of what is derived for them.
        device: that will train.
        processes: that will train together, each on its share of a batch; on GPUs of their own, or all on one CPU.

    Raises:
        UserError: the patch does not fit the patch size, the pyramid or the memory, an override is wrong, or there is
            nothing to learn.
    """
    check_kimg(kimg)
    device = torch.device(device)
    _refuse_unlearnable(seen, variant, preprocessed)
    shape = _choose_shape(preprocessed, seen, variant, patch_size)
    asked = check_overrides(overrides or {}, stages=len(shape["channels"].value))
    training = _choose_training(shape["patch_size"].value, seen, variant, device, asked)
    if kimg is not None:
        training["kimg"] = Choice(kimg, ASKED)
    chosen = shape | training | {key: Choice(value, BY_HAND) for key, value in asked.items()}
    check_batch(chosen["batch_size"].value, chosen["accumulate"].value)
    size = chosen["patch_size"].value
    plan = Plan(
        source=Source.of(preprocessed, fold),
        seed=seed or 0,
        conditions=Conditions.from_patches((), np.zeros((1, *size), np.int16), None),
        reasons={
            "source": f"{len(fold.training)} training cases, {seen.patches(size):,} patches apart",
            "conditions": _tell_conditions(seen, preprocessed, len(fold.training)),
            "seed": "of all randomness" if seed is None else ASKED,
            **{key: choice.reason for key, choice in chosen.items()},
        },
        **{key: choice.value for key, choice in chosen.items()},
    )
    plan = fit_memory(plan, _room(free_bytes, seen, device, processes), processes, device.type)
    return plan.model_copy(update={"conditions": _conditions(preprocessed, plan, _classes(preprocessed))})


def _choose_shape(
    preprocessed: Preprocessed, seen: Survey, variant: Variant, patch_size: Sequence[int] | None
) -> dict[str, Choice]:
    """What the networks draw, and in which steps."""
    patch, strides = preprocessed.patch_size, preprocessed.configuration.pool_op_kernel_sizes
    size = (
        heuristics.choose_patch_size(patch, seen.sizes)
        if patch_size is None
        else heuristics.check_patch_size(patch_size, patch)
    )
    factors = heuristics.choose_factors(size, strides)
    filled = f"within the patch {_times(patch)}, filled by {heuristics.FILLED_SHARE:.0%} of the images"
    spacing = tuple(float(length) for length in preprocessed.configuration.spacing[-len(size) :])
    constant = [str(channel) for channel, same in enumerate(seen.constant) if same and variant != "mask"]
    codec = heuristics.choose_codec(preprocessed, seen, size, variant)
    return {
        "variant": Choice(variant, DRAWN[variant]),
        "patch_size": Choice(size, filled if patch_size is None else ASKED),
        "spacing": Choice(spacing, "nnU-Net's"),
        "factors": Choice(
            factors, f"nnU-Net's strides read backwards, stages added while the base exceeds {heuristics.LARGEST_BASE}"
        ),
        "channels": Choice(
            heuristics.choose_channels(size, len(factors) + 1),
            f"{heuristics.FINEST_CHANNELS} at the patch, doubling to a limit that grows with the patch",
        ),
        "codec": Choice(
            codec,
            _tell_labels(codec.labels)
            + ("" if variant == "mask" else "; robust intensity range of the training cases")
            + (f"; channel {', '.join(constant)} is the same everywhere" if constant else ""),
        ),
    }


def _choose_training(
    patch_size: tuple[int, ...], seen: Survey, variant: Variant, device: torch.device, asked: Mapping[str, object]
) -> dict[str, Choice]:
    """How the networks learn; what follows from a key that was set by hand follows from that value."""
    batch_size = heuristics.choose_batch_size(len(patch_size))
    facts = Facts(
        variant=variant,
        patch_size=patch_size,
        patches=seen.patches(patch_size),
        device=device,
        batch_size=asked.get("batch_size", batch_size.value),
        loss=asked.get("loss", heuristics.LOSS),
    )
    return {
        "batch_size": batch_size,
        "accumulate": Choice(1, "a whole batch at once fits the memory"),
        **heuristics.fixed_choices(),
        **{key: choose(facts) for key, choose in heuristics.TRAINING_CHOICES.items()},
    }


def _refuse_unlearnable(seen: Survey, variant: Variant, preprocessed: Preprocessed) -> None:
    ignore = preprocessed.label_manager.ignore_label
    if variant == "image" and ignore is not None:
        raise UserError(
            f"Masks of {preprocessed.dataset_name} have voxels to be ignored (label {ignore}), so that no image can be "
            f"drawn for them. Draw both together: --variant pair"
        )
    where = f"the training cases in {preprocessed.folder}"
    if variant == "mask" and not seen.shown:
        raise UserError(
            f"None of {where} shows any class, so there is no mask to learn. Check the labels in nnUNet_raw, or draw "
            f"images with their empty masks: --variant pair"
        )
    if variant != "mask" and all(seen.constant):
        raise UserError(
            f"Each image channel has one value in all of {where}, so there is no image to learn. Check the images in "
            f"nnUNet_raw, or learn the masks: --variant mask"
        )


def _tell_labels(labels: Sequence[int]) -> str:
    names = ["outside" if label == OUTSIDE else str(label) for label in labels]
    return f"labels {', '.join(names if len(names) <= MOST_LABELS else [*names[:2], '…', *names[-2:]])}"


def _tell_conditions(seen: Survey, preprocessed: Preprocessed, cases: int) -> str:
    """What the conditions are of, and which classes are so rare that what is drawn of them will be a copy."""
    rare = [
        f"class {label} is shown by " + (f"1 of {cases} cases" if label in seen.shown else "no case")
        for label in _classes(preprocessed)
        if seen.shown.get(label, 0) < min(2, cases)
    ]
    return "; ".join(["measured on training patches", *rare[:3], *([f"{len(rare) - 3} more such"] if rare[3:] else [])])


def _classes(preprocessed: Preprocessed) -> list[int]:
    return [int(label) for label in preprocessed.label_manager.all_labels if label != 0]


def _room(free_bytes: int | None, seen: Survey, device: torch.device, processes: int) -> int | None:
    """What is left for a process's step: on a CPU, they share the memory, and each keeps cases in its part of it."""
    if free_bytes is None or device.type != "cpu":
        return free_bytes
    return max(0, free_bytes // processes - min(CACHE_BYTES, seen.bytes))


def condition_patches(patch_size: Sequence[int]) -> int:
    """How many patches of the plan's stream its conditions are measured on."""
    return min(CONDITION_PATCHES, max(FEWEST_CONDITION_PATCHES, CONDITION_BYTES // (2 * math.prod(patch_size))))


def _conditions(preprocessed: Preprocessed, plan: Plan, classes: Sequence[int]) -> Conditions:
    stream = PatchSampler(
        preprocessed,
        plan.source.training_cases,
        plan.patch_size,
        foreground_share=plan.foreground_share,
        seed=plan.seed,
    )
    count = condition_patches(plan.patch_size)
    found = PatchBatch.stack([stream.sample(index, with_image=False) for index in range(count)])
    return Conditions.from_patches(classes, found.label, found.position)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
