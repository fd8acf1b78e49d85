"""From nnU-Net's plans, the training cases and a memory budget to the generator's plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.fingerprint import Survey, survey
from stylegan2_cond.data.nnunet_dataset import OUTSIDE, Fold, Preprocessed
from stylegan2_cond.data.patch_sampler import CACHE_BYTES, PatchBatch, PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import heuristics
from stylegan2_cond.planning.heuristics import Choice, Facts
from stylegan2_cond.planning.memory import fit_memory
from stylegan2_cond.planning.plan import (
    BY_HAND,
    Plan,
    RunOptions,
    Source,
    Variant,
    check_batch,
    check_overrides,
)

CONDITION_PATCHES = 2000  # drawn to see which conditions occur, and how often
CONDITION_BYTES = 2**28  # of their labels together; in 3-D fewer patches must do, but not fewer than
FEWEST_CONDITION_PATCHES = 100
MOST_LABELS = 8  # that are listed; of more, the first and the last are
ASKED = "asked for"
DRAWN = {"pair": "image and mask together", "mask": "masks alone", "image": "images for given masks"}


def make_plan(
    options: RunOptions, preprocessed: Preprocessed, fold: Fold, *, budget: int | None = None, processes: int = 1
) -> Plan:
    """Derive a plan from nnU-Net's plans and the training cases, each of which is read once.

    Args:
        options: what the user asks for.
        preprocessed: the dataset that `options` names.
        fold: the fold that `options` names.
        budget: memory that training may take, in bytes; unlimited if None.
        processes: that train together, each on its share of a batch; on GPUs of their own, or all on one CPU.

    Raises:
        UserError: the patch does not fit the configuration's, the pyramid or the memory, an override is wrong, or
            there is nothing to learn.
    """
    device, seen = torch.device(options.device), survey(preprocessed, fold.training)
    _refuse_unlearnable(seen, options.variant, preprocessed)
    shape = _choose_shape(preprocessed, seen, options)
    overrides = check_overrides(options.overrides, stages=len(shape["channels"].value))
    training = _choose_training(shape["patch_size"].value, seen, options.variant, device, overrides)
    if options.kimg is not None:
        training["kimg"] = Choice(options.kimg, ASKED)
    seed = Choice(0, "of all randomness") if options.seed is None else Choice(options.seed, ASKED)
    chosen = shape | training | {key: Choice(value, BY_HAND) for key, value in overrides.items()} | {"seed": seed}
    check_batch(chosen["batch_size"].value, chosen["accumulate"].value)
    values = {key: choice.value for key, choice in chosen.items()}
    plan = Plan(
        source=Source.of(preprocessed, fold),
        conditions=_conditions(preprocessed, fold, values["patch_size"], values["foreground_share"], values["seed"]),
        reasons={
            "source": f"{len(fold.training)} training cases, {seen.patches(values['patch_size']):,} patches apart",
            "conditions": _tell_conditions(seen, preprocessed, len(fold.training)),
            **{key: choice.reason for key, choice in chosen.items()},
        },
        **values,
    )
    return fit_memory(plan, _room(budget, seen, device, processes), processes, device.type)


def _choose_shape(preprocessed: Preprocessed, seen: Survey, options: RunOptions) -> dict[str, Choice]:
    """What the networks draw, and in which steps."""
    variant, patch_size = options.variant, options.patch_size
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


def _room(budget: int | None, seen: Survey, device: torch.device, processes: int) -> int | None:
    """What is left for a process's step: on a CPU, they share the memory, and each keeps cases in its part of it."""
    if budget is None or device.type != "cpu":
        return budget
    return max(0, budget // processes - min(CACHE_BYTES, seen.bytes))


def condition_patches(patch_size: Sequence[int]) -> int:
    """How many patches of the plan's stream its conditions are measured on."""
    return min(CONDITION_PATCHES, max(FEWEST_CONDITION_PATCHES, CONDITION_BYTES // (2 * math.prod(patch_size))))


def _conditions(
    preprocessed: Preprocessed, fold: Fold, patch_size: tuple[int, ...], foreground_share: float, seed: int
) -> Conditions:
    stream = PatchSampler(preprocessed, fold.training, patch_size, foreground_share=foreground_share, seed=seed)
    count = condition_patches(patch_size)
    found = PatchBatch.stack([stream.sample(index, with_image=False) for index in range(count)])
    return Conditions.from_patches(_classes(preprocessed), found.label, found.position)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
