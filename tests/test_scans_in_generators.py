"""Generators that learn from unlabelled scans: what is drawn, what is hidden, what is recorded, what is refused."""

import json
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from conftest import STRICT
from raw_cases import run_options
from raw_files import Format, dataset, make_bank, write_record
from tiny import tiny_patches, tiny_plan, tiny_state

from nnunet_synth.bank.fill import fill_bank
from nnunet_synth.bank.format import BankRecord, PseudoLabels, Teacher, write_shard
from nnunet_synth.bank.inspection import inspect_bank
from nnunet_synth.bank.provenance import provenance
from nnunet_synth.bank.request import FillRequest
from nnunet_synth.export.model_card import _describe
from nnunet_synth.training.leak_guard import LeakError, refuse_leaks
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_folders import RECORD_FILE, banks_folder
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.data.scans import LabelledScan, ScanBank
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source, make_plan, run_folder
from stylegan2_cond.snapshot import Card, find_snapshots
from stylegan2_cond.training import run_logger, snapshot_evaluation
from stylegan2_cond.training.run_setup import load_or_make_plan
from stylegan2_cond.training.step import take_step
from stylegan2_cond.training.train import train

SPLITS = [
    {"train": ["case_0", "case_1"], "val": ["case_2"]},
    {"train": ["case_0", "case_1"], "val": ["case_4"]},  # which is among the scans of fold 0
]
CONFIDENCE = {"case_3": 0.9, "case_4": 0.3, "case_5": 0.6}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six cases, of which fold 0 labels two."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(snapshot_evaluation, "SAMPLES", {2: 24})
    monkeypatch.setattr(run_logger, "save_progress", lambda _: None)
    found = dataset(tmp_path, Format("SimpleITKIO", ".nii.gz"))
    (found.base / "splits_final.json").write_text(json.dumps(SPLITS))
    return found


def make_scans(data, name="pseudo", *, refused=(), requested=3, evaluation=()):
    """A bank of cases 3 to 5, whose labels are shifted, so that they are pseudo-labels."""
    folder = banks_folder(data.base, data.configuration.data_identifier, 0) / name
    folder.mkdir(parents=True)
    hashes, shards, scans = case_hashes(data, [*CONFIDENCE]), [], []
    for case, confidence in CONFIDENCE.items():
        image, label = (np.asarray(part[:]) for part in (data.load(case).image, data.load(case).label))
        why = "anatomy: too large" if case in refused else None
        if not why:
            place = len(shards)
            label = np.roll(label, 1, axis=-1).astype(np.int16)
            shards.append(write_shard(folder, f"synth_{place:05d}", image, label, [place], place + 1, data))
        found = {"refused": why, "evaluation_case": "case_x" if case in evaluation else None}
        scans.append(
            LabelledScan(name=case, image_sha256=hashes[case], confidence={"a": confidence, "b": 1.0}, **found)
        )
    BankRecord(
        name=name,
        source=Source.of(data, data.fold(0)),
        origin=PseudoLabels(
            scans=tuple(scans), teachers=(Teacher(path="/x/model", sha256="1" * 64, configuration="2d"),)
        ),
        requested=requested,
        shards=tuple(shards),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        release="0",
    ).save(folder / RECORD_FILE)
    return folder


def options(data, **more):
    return run_options(data, "0", with_bank="pseudo", kimg=0.032, **more)


def plan_of(data, **more):
    fold = data.fold(0)
    return make_plan(options(data, **more), data, fold, ScanBank.open(data, fold, "pseudo"))


# --- what is drawn


def test_half_of_the_patches_are_of_scans_with_their_pseudo_labels(data):
    make_scans(data)
    scans = ScanBank.open(data, data.fold(0), "pseudo")
    stream = PatchSampler(data, ["case_0", "case_1"], (16, 16), foreground_share=0.5, seed=0, scans=scans)
    patches = [stream.sample(number) for number in range(400)]
    of_scans = [patch for patch in patches if not patch.labelled]
    assert {patch.case for patch in of_scans} == {*CONFIDENCE}
    assert {patch.case for patch in patches if patch.labelled} == {"case_0", "case_1"}
    assert abs(len(of_scans) - 200) < 4 * np.sqrt(400 / 4)
    for patch in of_scans[:20]:
        case = data.load(patch.case)
        z = int(patch.centre[0] * case.image.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(case.image[:])[:, z], (16, 16), axis=(1, 2))
        ((y, x),) = np.argwhere((windows == patch.image[:, None, None]).all(axis=(0, 3, 4)))
        shifted = np.roll(np.asarray(case.label[:]), 1, axis=-1)[0, z]
        assert np.array_equal(patch.label, shifted[y : y + 16, x : x + 16])


def test_trusted_scans_are_drawn_in_proportion_to_their_least_confidence(data):
    make_scans(data)
    scans = ScanBank.open(data, data.fold(0), "pseudo", by_confidence=True)
    rng = np.random.default_rng(0)
    drawn = [scans.draw(rng) for _ in range(3000)]
    for case, confidence in CONFIDENCE.items():
        share = confidence / sum(CONFIDENCE.values())
        assert abs(drawn.count(case) / 3000 - share) < 4 * np.sqrt(share * (1 - share) / 3000)


def test_refused_scans_are_not_drawn(data):
    make_scans(data, refused=("case_3",))
    scans = ScanBank.open(data, data.fold(0), "pseudo")
    assert scans.names == ["case_4", "case_5"]
    assert np.array_equal(scans.load("case_5").image[:], data.load("case_5").image[:])


# --- what the discriminator sees


def shown(plan, labelled):
    """What the discriminator sees of generated and real pairs in a step, and what the generator's output is taught."""
    state, seen, raw = tiny_state(plan), [], []
    state.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))

    def keep(_, inputs, drawn):
        drawn.retain_grad()
        raw.append(drawn)

    state.generator.synthesis.register_forward_hook(keep)
    take_step(state, *tiny_patches(plan.patch_size, 0, plan.batch_size), labelled)
    return seen, raw[0].grad


@pytest.mark.parametrize("apart_share", [0.0, 0.5])
def test_of_scans_the_image_alone_is_shown_and_of_the_samples_next_to_them(apart_share):
    plan = tiny_plan(r1_weight=0.0, apart_share=apart_share)
    plan = plan.model_copy(update={"codec": plan.codec.model_copy(update={"outside": None})})
    labelled = np.arange(plan.batch_size) % 2 == 0
    seen, taught = shown(plan, labelled)
    for pairs in (*seen, taught):
        assert pairs[~labelled, :2].flatten(1).any(dim=1).all()
        assert not pairs[~labelled, 2:].any()
    if not apart_share:
        for pairs in (*seen, taught):
            assert pairs[labelled].unflatten(1, (3, 2)).flatten(2).any(dim=2).all()


@pytest.mark.parametrize("variant", ["pair", "image"])
def test_trusted_masks_are_shown(variant):
    plan = tiny_plan(variant, r1_weight=0.0, trust_masks=True)
    seen, _ = shown(plan, np.zeros(plan.batch_size, bool))
    expected, _ = shown(plan, None)
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))


# --- from the bank to the record of what it filled


def test_a_generator_of_a_bank_has_a_folder_a_card_and_banks_of_its_own(data, tmp_path):
    make_scans(data)
    plan = plan_of(data, variant="pair")
    folder = run_folder(plan.source)
    assert folder.parent.name.startswith("StyleGAN2Cond_pair_with_pseudo__")
    plan.model_copy(update={"channels": (8,) * len(plan.channels), "batch_size": 8}).save(folder / "plan.json")
    assert train(options(data)) == folder
    (snapshot, *_) = find_snapshots(folder)
    scans = Card.load(snapshot / "card.json").plan.source.scans
    assert dict(zip(scans.cases, scans.sha256, strict=True)) == case_hashes(data, [*CONFIDENCE])

    bank = fill_bank(data, "0", FillRequest(samples=8, with_bank="pseudo", without=STRICT))
    assert bank.name.startswith("pair_with_pseudo_")
    said = "2 training cases and 3 unlabelled scans"
    inspect_bank(bank, tmp_path / "page.html")
    assert said in (tmp_path / "page.html").read_text()
    assert said in _describe(provenance(bank))
    record = BankRecord.load(bank / RECORD_FILE)
    for fold, leaks in ((0, False), (1, True)):
        validation = case_hashes(data, data.fold(fold).validation)
        here = Source.of(data, data.fold(fold))
        if leaks:
            with pytest.raises(LeakError, match=r"generator that saw 1 of the 1 validation cases.*case_4"):
                refuse_leaks(bank, record, here, validation)
        else:
            refuse_leaks(bank, record, here, validation)


def test_scans_declared_as_evaluation_cases_are_let_through_and_named(data):
    make_scans(data, evaluation=("case_4",))
    source = plan_of(data).source
    assert "case_4" not in dict(source.cases())
    assert "3 unlabelled scans (1 of them validation or test cases)" in source.describe_cases()


def test_statistics_are_those_of_cases_and_scans(data):
    make_scans(data)
    fold = data.fold(0)
    alone = make_plan(run_options(data, "0"), data, fold)
    assert alone.source.scans is None
    both = plan_of(data)
    assert alone.reasons["source"] == "2 training cases, 10 patches that do not overlap"
    assert both.reasons["source"] == "2 training cases and 3 unlabelled scans, 25 patches that do not overlap"
    assert both.conditions != alone.conditions
    assert not both.trust_masks
    assert plan_of(data, trust_masks=True).trust_masks
    assert plan_of(data, variant="image").trust_masks


# --- what is refused


def change_record(bank, **changes):
    content = json.loads((bank / RECORD_FILE).read_text()) | changes
    content.pop("checksum")
    write_record(bank, content)


def test_a_bank_that_is_not_there_names_those_that_are(data):
    make_scans(data)
    with pytest.raises(UserError, match=r"no bank 'psuedo'.*The banks there are: pseudo.*nnunet-synth pseudo-label"):
        load_or_make_plan(run_options(data, "0", with_bank="psuedo"), data, data.fold(0), torch.device("cpu"))


def test_generated_pairs_unfinished_banks_and_other_cases_are_refused(data):
    make_bank(data, np.zeros((4, 2, 16, 16)), np.zeros((4, 16, 16)), name="pairs")
    make_scans(data, "begun", requested=5)
    make_scans(data, "other")
    for name, told in (("pairs", "holds generated pairs"), ("begun", "has 3 of 5 scans. Repeat")):
        with pytest.raises(UserError, match=told):
            ScanBank.open(data, data.fold(0), name)
    (data.base / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_1"]}]))
    with pytest.raises(UserError, match="other training cases than fold 0 has now"):
        ScanBank.open(data, data.fold(0), "other")


def test_a_bank_of_which_all_scans_were_refused_says_so(data):
    make_scans(data, refused=[*CONFIDENCE])
    with pytest.raises(UserError, match=r"has no scan: all 3 were refused. nnunet-synth inspect"):
        ScanBank.open(data, data.fold(0), "pseudo")


def test_a_bank_that_changed_after_the_plan_was_made_is_refused(data):
    bank = make_scans(data)
    plan = plan_of(data)
    plan.save(run_folder(plan.source) / "plan.json")
    change_record(bank, created="2020")
    with pytest.raises(UserError, match=r"other source .cases, scans or preprocessing changed"):
        load_or_make_plan(options(data), data, data.fold(0), torch.device("cpu"))


def test_trust_needs_scans_and_masks_alone_need_trust(data):
    make_scans(data)
    with pytest.raises(UserError, match=r"--trust-masks is about the masks of scans.*--with-bank"):
        run_options(data, "0", trust_masks=True)
    with pytest.raises(UserError, match="learns nothing from scans whose masks it does not see"):
        plan_of(data, variant="mask")
    assert plan_of(data, variant="mask", trust_masks=True).trust_masks


def test_a_missing_shard_is_named(data):
    bank = make_scans(data)
    (bank / "synth_00001.b2nd").unlink()
    with pytest.raises(UserError, match=r"Scan case_4 of bank .*pseudo.* cannot be read|synth_00001"):
        ScanBank.open(data, data.fold(0), "pseudo").load("case_4")
