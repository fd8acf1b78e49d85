"""Pairs, masks alone, images for given masks: each is trained by the same command and generated on request."""

import json
import sys

import numpy as np
import pytest
import torch
from raw_cases import run_options
from tolerance import NETWORK, assert_rounded

from stylegan2_cond.cli import main
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, planner
from stylegan2_cond.planning.heuristics import choose_factors
from stylegan2_cond.snapshot import SampleRequest, find_snapshots, load_generator, mask_sources, open_masks
from stylegan2_cond.training import snapshot_evaluation
from stylegan2_cond.training.train import describe_outcome, train

PATCH_SIZE = (20, 16)
SHOWN = [1, 2]


@pytest.fixture(scope="module")
def runs(preprocessed, tmp_path_factory):
    """The folder of a run of each variant, that of images by the command; all of a few steps."""
    stages = len(choose_factors(PATCH_SIZE, preprocessed.configuration.pool_op_kernel_sizes)) + 1
    narrow = {"batch_size": 8, "latent_dim": 8, "style_dim": 8, "channels": [8] * stages}
    typed = [part for key, value in narrow.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [
        "stylegan2-cond",
        "train",
        "901",
        "2d",
        "0",
        "--variant",
        "image",
        "--patch-size",
        "20,16",
        "--kimg",
        "0.032",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("variants")))
        patch.setattr(planner, "CONDITION_PATCHES", 100)
        patch.setattr(snapshot_evaluation, "SAMPLES", {2: 24})
        found = {
            variant: train(
                run_options(preprocessed, "0", variant=variant, patch_size=PATCH_SIZE, kimg=0.032, overrides=narrow)
            )
            for variant in ("pair", "mask")
        }
        patch.setattr(sys, "argv", [*command, "--device", "cpu", *typed])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return found | {"image": found["pair"].parents[1] / "StyleGAN2Cond_image__nnUNetPlans__2d" / "fold_0"}


@pytest.fixture(scope="module")
def snapshots(runs):
    return {variant: find_snapshots(folder)[-1] for variant, folder in runs.items()}


@pytest.fixture(scope="module")
def illustrator(snapshots):
    return load_generator(snapshots["image"])


def real_patches(preprocessed, plan, seed, count):
    """Labels and positions, as training samples patches."""
    names, share = plan.source.training_cases, plan.foreground_share
    stream = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=share, seed=seed)
    patches = stream.batch(0, count)
    return patches.label, patches.position


# --- training


@pytest.mark.parametrize("variant", ["pair", "mask", "image"])
def test_each_variant_has_a_run_of_its_own_with_everything_in_it(runs, variant):
    folder = runs[variant]
    assert folder.parent.name == f"StyleGAN2Cond_{variant}__nnUNetPlans__2d"
    plan = Plan.load(folder / "plan.json")
    assert (plan.variant, plan.patch_size) == (variant, PATCH_SIZE)
    assert plan.codec.image_channels == (0 if variant == "mask" else 2)
    (snapshot,) = find_snapshots(folder)
    assert (folder / "previews" / f"{snapshot.name}.png").exists()
    figures = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert {"images", "loss_generator", "loss_discriminator", "spread"} <= figures.keys()
    assert ("l1" in figures) == (variant == "image")
    options = {"pair": "", "mask": " --masks generated --variant image", "image": " --variant image"}[variant]
    last = describe_outcome(folder, plan).splitlines()[-1]
    assert last == f"Next: nnunet-synth bank {plan.source.dataset_name} 2d 0 -n 1000{options}"


# --- sampling


def test_a_mask_snapshot_generates_masks_without_images(snapshots):
    drawn = load_generator(snapshots["mask"]).sample(5, seed=1)
    assert drawn.image.shape == (5, 0, *PATCH_SIZE)
    assert drawn.label.shape == (5, *PATCH_SIZE)
    assert set(np.unique(drawn.label)) <= {-1, 0, 1, 2}


@pytest.mark.parametrize("variant", ["pair", "mask", "image"])
def test_no_samples_are_empty_arrays_of_the_same_shape(snapshots, variant):
    generator = load_generator(snapshots[variant])
    masks = open_masks("real", generator.plan) if variant == "image" else None
    none, one = generator.sample(0, masks=masks), generator.sample(1, masks=masks)
    for empty, full in ((none.image, one.image), (none.label, one.label), (none.condition, one.condition)):
        assert empty.shape == (0, *full.shape[1:])
        assert empty.dtype == full.dtype


def test_images_for_real_masks_come_with_exactly_those_masks(illustrator, preprocessed):
    plan = illustrator.plan
    drawn = illustrator.sample(10, seed=3, masks=open_masks("real", plan))
    label, position = real_patches(preprocessed, plan, 3, 10)
    assert drawn.image.shape == (10, 2, *PATCH_SIZE)
    assert np.isfinite(drawn.image).all()
    np.testing.assert_array_equal(drawn.label, label)
    condition = plan.conditions.measure(torch.from_numpy(label), torch.from_numpy(position))
    np.testing.assert_array_equal(drawn.condition, condition)


def test_the_image_depends_on_the_mask_that_is_given(illustrator):
    class Striped:
        def __init__(self, label):
            self.label = label

        def sample(self, seed, numbers, request):
            return np.full((len(numbers), *PATCH_SIZE), self.label, np.int16), np.full(len(numbers), 0.5, np.float32)

    one, other = (illustrator.sample(2, masks=Striped(label)) for label in (1, 2))
    assert (one.label == 1).all()
    assert np.abs(one.image - other.image).max() > 1e-3


def test_deformed_masks_are_like_real_ones_with_the_same_classes(illustrator, preprocessed):
    drawn = illustrator.sample(8, seed=4, masks=open_masks("deformed", illustrator.plan))
    real, _ = real_patches(preprocessed, illustrator.plan, 4, 8)
    assert (drawn.label != real).any(axis=(1, 2)).sum() >= 6
    assert (drawn.label == real).mean() > 0.7
    for one, other in zip(drawn.label, real, strict=True):
        assert set(np.unique(one)) == set(np.unique(other))


def test_blended_masks_show_the_same_classes_in_other_shapes_at_a_position_nearby(illustrator, preprocessed):
    real, position = real_patches(preprocessed, illustrator.plan, 4, 8)
    label, between = open_masks("blended", illustrator.plan).sample(4, range(8))
    assert (label.dtype, between.dtype) == (np.int16, np.float32)
    assert (label != real).any(axis=(1, 2)).sum() >= 6
    assert (label == real).mean() > 0.6
    for one, other in zip(label, real, strict=True):
        assert set(np.unique(one)) - {-1} == set(np.unique(other)) - {-1}
    assert np.abs(between - position).max() < 0.2


def test_masks_are_blended_with_those_of_other_cases_at_a_like_position(illustrator, monkeypatch):
    masks, met, sample = open_masks("blended", illustrator.plan), [], PatchSampler.sample
    masks.sample(4, [0])
    monkeypatch.setattr(PatchSampler, "sample", lambda *asked, **how: met.append(sample(*asked, **how)) or met[-1])
    masks.sample(4, range(1, 9))
    for patch, partner in zip(met[::2], met[1::2], strict=True):
        assert patch.case != partner.case
        assert np.abs(patch.centre - partner.centre).max() < 0.2


def test_sample_i_depends_on_seed_and_i_alone_whatever_the_masks(illustrator, snapshots):
    for source in ("real", "deformed", "blended", str(snapshots["mask"])):
        chosen = open_masks(source, illustrator.plan)
        together = illustrator.sample(10, seed=5, masks=chosen)
        alone = illustrator.sample(1, seed=5, first=9, masks=open_masks(source, illustrator.plan))
        np.testing.assert_array_equal(together.label[9], alone.label[0])
        assert_rounded(together.image[9], alone.image[0], terms=NETWORK)
        assert not np.array_equal(illustrator.sample(1, seed=6, first=9, masks=chosen).image, alone.image)


def test_masks_of_a_mask_snapshot_are_those_that_it_generates(illustrator, snapshots):
    chosen, author = open_masks(str(snapshots["mask"]), illustrator.plan), load_generator(snapshots["mask"])
    drawn = illustrator.sample(4, seed=7, first=2, masks=chosen)
    for number in range(4):
        own = author.sample(1, seed=7, first=2 + number)
        np.testing.assert_array_equal(drawn.label[number], own.label[0])


# --- requests


def test_classes_are_requested_of_the_source_of_masks(illustrator, snapshots):
    request, deformed = SampleRequest(SHOWN), open_masks("deformed", illustrator.plan)
    drawn = illustrator.sample(4, seed=1, request=request, masks=deformed)
    assert all(set(np.unique(label)) - {-1, 0} == set(SHOWN) for label in drawn.label)
    source = open_masks(str(snapshots["mask"]), illustrator.plan)
    asked = []
    author = source.generator.sample_numbers
    source.generator.sample_numbers = lambda *given, **wanted: asked.append(wanted) or author(*given, **wanted)
    request = SampleRequest(classes=[1], areas={1: 0.1})
    illustrator.sample(1, request=request, masks=source)
    assert asked[0]["request"] == request


def test_a_request_that_real_masks_cannot_meet_is_refused(illustrator, monkeypatch):
    real = open_masks("real", illustrator.plan)
    with pytest.raises(ValueError, match="areas and positions"):
        illustrator.sample(1, request=SampleRequest(areas={1: 0.1}), masks=real)
    with pytest.raises(ValueError, match="areas and positions"):
        illustrator.sample(1, request=SampleRequest(position=0.5), masks=real)
    with pytest.raises(ValueError, match="class 7"):
        illustrator.sample(1, request=SampleRequest([7]), masks=real)
    monkeypatch.setattr(mask_sources, "TRIES", 3)
    monkeypatch.setattr(mask_sources, "condition_patches", lambda patch_size: 4)
    monkeypatch.setattr(real, "_shown", lambda label: np.array([True, True]))
    with pytest.raises(ValueError, match=r"7 patches .*\[1\]"):  # white matter is never without grey
        illustrator.sample(1, request=SampleRequest([1]), masks=real)


@pytest.mark.parametrize("variant", ["pair", "mask"])
def test_masks_for_a_snapshot_that_generates_its_own_are_refused(snapshots, illustrator, variant):
    generator = load_generator(snapshots[variant])
    with pytest.raises(ValueError, match=f"the variant '{variant}'"):
        generator.sample(1, masks=open_masks("real", illustrator.plan))


def test_an_image_snapshot_needs_masks(illustrator):
    with pytest.raises(ValueError, match="needs masks"):
        illustrator.sample(1)


def test_masks_of_an_image_snapshot_of_another_patch_or_other_cases_are_refused(illustrator, snapshots, tmp_path):
    plan, source = illustrator.plan, illustrator.plan.source
    with pytest.raises(UserError, match="variant mask"):
        open_masks(str(snapshots["image"]), plan)
    with pytest.raises(UserError, match=r"another patch.*--variant mask"):
        open_masks(str(snapshots["mask"]), plan.model_copy(update={"patch_size": (24, 16)}))
    fewer = source.model_copy(
        update={"training_cases": source.training_cases[1:], "training_sha256": source.training_sha256[1:]}
    )
    with pytest.raises(UserError, match="other cases"):
        open_masks(str(snapshots["mask"]), plan.model_copy(update={"source": fewer}))
    with pytest.raises(UserError, match=r"card\.json does not exist"):
        open_masks(str(tmp_path), plan)


def test_masks_of_cases_that_are_gone_or_changed_are_refused(illustrator):
    plan, source = illustrator.plan, illustrator.plan.source
    missing = source.model_copy(
        update={
            "training_cases": (*source.training_cases, "virtual_999"),
            "training_sha256": (*source.training_sha256, "0" * 64),
        }
    )
    with pytest.raises(UserError, match=r"1 of the cases .*virtual_999"):
        open_masks("real", plan.model_copy(update={"source": missing}))
    changed = source.model_copy(update={"preprocessing": "other"})
    with pytest.raises(UserError, match="was preprocessed differently"):
        open_masks("deformed", plan.model_copy(update={"source": changed}))


def test_a_run_is_not_continued_as_another_variant(runs, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(runs["mask"].parents[2]))
    plan = Plan.load(runs["mask"] / "plan.json")
    (runs["mask"] / "plan.json").rename(runs["mask"] / "kept.json")
    try:
        plan.model_copy(update={"variant": "pair"}).save(runs["mask"] / "plan.json")
        with pytest.raises(UserError, match="another variant: pair, not mask"):
            train(run_options(open_preprocessed(901, "2d"), "0", variant="mask"))
    finally:
        (runs["mask"] / "kept.json").rename(runs["mask"] / "plan.json")
