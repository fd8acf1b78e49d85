"""The mixed dataset: the ratio that was asked for, followed by running workers, and nnU-Net itself at ratio 0."""

import copy
import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_PLANS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_synth.bank.verify import verify_bank
from nnunet_synth.training.leak_guard import LeakError, refuse_leaks
from nnunet_synth.training.mirror_padding import NO_MARGINS, Margins, MirrorPaddedArray
from nnunet_synth.training.mixed_dataset import MixedBank, MixedDataset, MixingControl
from nnunet_synth.training.schedule import ratio_at
from nnunet_synth.training.settings import make_settings, read_settings, write_plans
from nnunet_synth.training.trainer import nnUNetTrainerSynth
from stylegan2_cond.data.case_hashes import case_hashes
from stylegan2_cond.data.nnunet_dataset import open_preprocessed
from stylegan2_cond.data.scans import BankDataset
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Source


@pytest.fixture
def mixed(bank, preprocessed):
    record = verify_bank(bank)
    real = preprocessed.dataset_class(str(preprocessed.folder), list(preprocessed.fold(0).training))
    return MixedDataset(real, [MixedBank(BankDataset(str(bank)), record, NO_MARGINS)], MixingControl())


@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.9])
def test_the_realised_share_is_the_ratio(mixed, ratio):
    mixed.control.ratios = [ratio]
    mixed.real.load_case = mixed.banks[0].dataset.load_case = lambda name: (None, np.zeros(1), name, None)
    drawn = [mixed.load_case("real")[2].startswith("synth") for _ in range(10_000)]
    assert mixed.control.take() == [10_000 - sum(drawn), sum(drawn)]
    assert abs(np.mean(drawn) - ratio) < 4 * np.sqrt(ratio * (1 - ratio) / 10_000)


def test_shards_are_drawn_in_proportion_to_their_samples(mixed):
    mixed.control.ratios = [1]
    mixed.banks[0].dataset.load_case = lambda name: (None, np.zeros(1), name, None)
    drawn = [mixed.load_case("real")[2] for _ in range(5_000)]
    assert abs(drawn.count("synth_00000") / 5_000 - 0.64) < 4 * np.sqrt(0.64 * 0.36 / 5_000)


def test_several_banks_have_their_shares_and_are_counted_apart(mixed):
    part = mixed.banks[0]
    both = MixedDataset(mixed.real, [part, copy.copy(part)], MixingControl(2))
    names = []
    for number, bank in enumerate(both.banks):
        bank.load_random = lambda number=number: (None, None, number, None)
    mixed.real.load_case = lambda name: (None, None, "real", None)
    for ratios in ([0.3, 0.2], [0.0, 0.5], [0.5, 0.5]):
        both.control.ratios = ratios
        names = [both.load_case("case")[2] for _ in range(10_000)]
        counts = [names.count(source) for source in ("real", 0, 1)]
        assert both.control.take() == counts
        for count, ratio in zip(counts, (1 - sum(ratios), *ratios), strict=True):
            assert abs(count / 10_000 - ratio) <= 4 * np.sqrt(ratio * (1 - ratio) / 10_000)


@pytest.mark.parametrize(
    ("block", "shares"),
    [
        ({}, ((None, None),)),
        ({"bank": "a"}, (("a", None),)),
        ({"ratio": 0}, ()),
        ({"banks": [{"name": "a", "ratio": 0.5}, {"name": "b", "ratio": 0}]}, (("a", 0.5),)),
        ({"banks": [{"name": "a", "ratio": 0.5}, {"name": "b", "ratio": 0.1}]}, (("a", 0.5), ("b", 0.1))),
    ],
)
def test_the_block_names_one_bank_or_several(block, shares):
    assert read_settings({"synth": block}, "here").shares == shares


@pytest.mark.parametrize(
    ("block", "scans", "shares"),
    [
        ({}, False, ((None, 0.25),)),
        ({"bank": "a"}, True, (("a", 0.5),)),
        ({"ratio": 0.1}, True, ((None, 0.1),)),
        ({"ratio": 0}, True, ()),
        ({"banks": [{"name": "a", "ratio": 0.3}]}, True, (("a", 0.3),)),
    ],
)
def test_the_default_ratio_is_that_of_the_banks_kind(block, scans, shares):
    assert read_settings({"synth": block}, "here").with_default_ratio(scans).shares == shares


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"bank": "a", "banks": [{"name": "b", "ratio": 0.5}]}, "a single bank"),
        ({"ratio": 0.5, "banks": [{"name": "b", "ratio": 0.5}]}, "a single bank"),
        ({"banks": [{"name": "a", "ratio": 0.6}, {"name": "b", "ratio": 0.5}]}, r"exceed 1 .*1\.1"),
        ({"banks": [{"name": "a", "ratio": 0.1}, {"name": "a", "ratio": 0.5}]}, "different names"),
        ({"banks": [{"name": "a"}]}, "ratio"),
        ({"cutmix": 1.5}, "cutmix"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(block, told):
    with pytest.raises(UserError, match=told):
        read_settings({"synth": block}, "here")


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({"banks": ["a"], "ratio": 0.5}, {"bank": "a", "ratio": 0.5, "schedule": "linear"}),
        ({"ratio": 0.5, "cutmix": 0.3}, {"ratio": 0.5, "schedule": "linear", "cutmix": 0.3}),
        (
            {"banks": ["a=0.5", "b=0.1"], "schedule": "cosine"},
            {"banks": [{"name": "a", "ratio": 0.5}, {"name": "b", "ratio": 0.1}], "schedule": "cosine"},
        ),
        ({"banks": ["a=0.5"]}, {"banks": [{"name": "a", "ratio": 0.5}], "schedule": "linear"}),
        ({}, {"schedule": "linear"}),
    ],
)
def test_options_become_the_shortest_block(options, block):
    assert json.loads(make_settings(**options).model_dump_json(exclude_unset=True)) == block


@pytest.mark.parametrize(
    "options", [{"banks": ["a", "b"], "ratio": 0.5}, {"banks": ["a=0.5", "b"]}, {"banks": ["a=x"]}]
)
def test_several_banks_without_a_ratio_for_each_are_refused(options):
    with pytest.raises(UserError, match="ratio"):
        make_settings(**options)


def test_ratio_0_draws_nothing_from_numpys_random_state(mixed):
    before = np.random.get_state()[1].copy()
    mixed.load_case(mixed.identifiers[0])
    assert np.array_equal(np.random.get_state()[1], before)


def loader_of(dataset, preprocessed, box=None, **options):
    patch = preprocessed.patch_size
    return nnUNetDataLoader(dataset, 8, box or patch, patch, preprocessed.label_manager, **options)


def test_foreground_is_oversampled_in_synthetic_cases(mixed, preprocessed):
    mixed.control.ratios = [1]
    mixed.banks[0].margins = Margins((0, 2, 1), (0, 2, 2))
    loader = loader_of(mixed, preprocessed, oversample_foreground_percent=1.0)
    for _ in range(5):
        assert (next(loader)["target"].numpy() > 0).reshape(8, -1).any(axis=1).all()


@given(
    arrays(np.int16, (1, 3, 7, 6), elements=st.integers(0, 9)),
    st.tuples(*[st.integers(0, 5)] * 4),
    st.tuples(*[st.integers(0, 20)] * 6),
)
def test_a_mirrored_array_is_numpys_padded_one(array, margins, corners):
    margins = Margins((0, *margins[:2]), (0, *margins[2:]))
    grown = np.pad(array, [(0, 0), *zip(margins.before, margins.after, strict=True)], mode="reflect")
    mirrored = MirrorPaddedArray(array, margins)
    assert mirrored.shape == grown.shape
    box = (slice(None), *(slice(min(pair), max(pair)) for pair in zip(corners[:3], corners[3:], strict=True)))
    assert np.array_equal(mirrored[box], grown[box])


@pytest.mark.parametrize(
    ("patch_size", "box", "usual", "before", "after"),
    [
        ((44, 33), (70, 70), (50, 35), (0, 3, 1), (0, 3, 1)),  # as large as real cases are
        ((44, 33), (48, 33), (500, 500), (0, 2, 0), (0, 2, 0)),  # no larger than the box
        ((48, 48), (90, 90), (48, 40), (0, 0, 0), (0, 0, 0)),  # never smaller
        ((3, 40), (90, 90), (90, 43), (0, 2, 1), (0, 2, 2)),  # no further than a mirror reaches
        ((8, 16, 16), (12, 20, 20), (9.6, 17.2, 99), (1, 0, 2), (1, 1, 2)),
    ],
)
def test_patches_grow_to_the_size_of_real_cases(patch_size, box, usual, before, after):
    assert Margins.to_size(patch_size, box, usual) == Margins(before, after)


def test_synthetic_patches_show_no_more_frame_than_real_cases(mixed, preprocessed):
    """The share of voxels that the loader fills (label -1), in the box that it cuts before it rotates and scales."""
    box = tuple(int(1.5 * length) for length in preprocessed.patch_size)
    patch_size = mixed.banks[0].dataset.load_case("synth_00000")[0].shape[2:]
    usual = preprocessed.configuration.configuration["median_image_size_in_voxels"]
    filled = {}
    for kind, ratio, margins in (
        ("real", 0, None),
        ("bare", 1, NO_MARGINS),
        ("grown", 1, Margins.to_size(patch_size, box, usual)),
    ):
        mixed.control.ratios, mixed.banks[0].margins = [ratio], margins
        loader = loader_of(mixed, preprocessed, box)
        filled[kind] = np.mean([(next(loader)["target"].numpy() == -1).mean() for _ in range(20)])
    assert filled["grown"] < filled["real"] + 0.02
    assert filled["bare"] > filled["grown"]


def draw_and_count(control, ready, go):
    ready.set()
    go.wait()
    for _ in range(500):
        control.count(int(control.ratios[0] == 0.75))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_new_ratio_reaches_running_workers_and_their_counts_come_back(method):
    context = multiprocessing.get_context(method)
    control, go = MixingControl(), context.Event()
    readies = [context.Event() for _ in range(2)]
    workers = [context.Process(target=draw_and_count, args=(control, ready, go)) for ready in readies]
    for worker in workers:
        worker.start()
    assert all(ready.wait(120) for ready in readies)
    control.ratios = [0.75]
    go.set()
    for worker in workers:
        worker.join(60)
    assert control.take() == [0, 1000]
    assert control.take() == [0, 0]


def trainer_of(cls, preprocessed, **block):
    plans = json.loads((preprocessed.base / f"{TINY_PLANS}.json").read_text()) | {"continue_training": False}
    plans["configurations"]["2d"]["synth"] = block
    trainer = cls(plans, "2d", 0, preprocessed.dataset_json, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 1
    return trainer


def test_ratio_0_is_nnunet_bit_for_bit(preprocessed, bank, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    weights = []
    for cls in (nnUNetTrainer, nnUNetTrainerSynth):
        np.random.seed(0)
        torch.manual_seed(0)
        import random

        random.seed(0)
        trainer = trainer_of(cls, preprocessed, ratio=0)
        trainer.run_training()
        weights.append(trainer.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("changed", [{"ratio": 1}, {"cutmix": 1.0}])
def test_the_same_comparison_notices_a_ratio_that_is_not_0_and_cutmix(
    preprocessed, bank, monkeypatch, tmp_path, changed
):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    weights = []
    for settings in ({}, changed):
        np.random.seed(0)
        torch.manual_seed(0)
        settings = {"ratio": 0, "schedule": "constant"} | settings
        trainer = trainer_of(nnUNetTrainerSynth, preprocessed, **settings)
        trainer.run_training()
        weights.append(trainer.network.state_dict())
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_stays_real(preprocessed, bank):
    trainer = trainer_of(nnUNetTrainerSynth, preprocessed, ratio=1.0)
    trainer.initialize()
    training, validation = trainer.get_tr_and_val_datasets()
    assert isinstance(training, MixedDataset)
    assert type(validation) is preprocessed.dataset_class
    assert sorted(validation.identifiers) == sorted(preprocessed.fold(0).validation)


def test_the_linear_schedule_falls_over_the_last_fifth_to_0():
    ratios = [ratio_at(0.25, "linear", epoch, 1000) for epoch in range(1000)]
    assert ratios[:799] == [0.25] * 799
    assert ratios[899] == pytest.approx(0.125)
    assert ratios[-1] == 0
    assert np.allclose(np.diff(ratios[800:]), -0.25 / 200)
    assert ratio_at(0.25, "linear", 0, 1) == 0.25
    assert {ratio_at(0.25, "constant", epoch, 10) for epoch in range(10)} == {0.25}


def test_the_cosine_schedule_falls_from_1_to_0_along_half_a_cosine():
    ratios = [ratio_at(0.5, "cosine", epoch, 101) for epoch in range(101)]
    assert (ratios[0], ratios[50], ratios[100]) == pytest.approx((0.5, 0.25, 0))
    assert ratios[25] == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
    assert ratio_at(0.5, "cosine", 0, 1) == 0.5


@pytest.mark.parametrize("epochs", [1, 5, 1000])
def test_pretraining_is_synthetic_in_the_first_half_and_real_in_the_last(epochs):
    ratios = [ratio_at(1.0, "pretrain", epoch, epochs) for epoch in range(epochs)]
    assert ratios == [1.0] * math.ceil(epochs / 2) + [0.0] * (epochs // 2)


def test_new_plans_travel_with_the_settings_and_share_the_cases(preprocessed):
    before = (preprocessed.base / f"{TINY_PLANS}.json").read_text()
    settings = make_settings(banks=["one"], ratio=0.5, schedule="cosine")
    path = write_plans(preprocessed, settings, "nnUNetPlansHalf")
    try:
        found = open_preprocessed(preprocessed.dataset_name, "2d", "nnUNetPlansHalf")
        assert found.folder == preprocessed.folder
        assert found.preprocessing_hash == preprocessed.preprocessing_hash
        assert found.plans_name == "nnUNetPlansHalf"
        assert read_settings(found.configuration.configuration, "here") == settings
        assert write_plans(preprocessed, settings, "nnUNetPlansHalf") == path
        with pytest.raises(UserError, match=r"nnUNetPlansHalf\.json exists"):
            write_plans(preprocessed, settings.model_copy(update={"ratio": 0.1}), "nnUNetPlansHalf")
    finally:
        path.unlink()
    assert (preprocessed.base / f"{TINY_PLANS}.json").read_text() == before


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "*", "Half.json"])
def test_plans_of_no_plain_name_are_refused(preprocessed, name):
    with pytest.raises(UserError, match=r"-o .*plain name"):
        write_plans(preprocessed, make_settings(ratio=0.5, schedule="linear"), name)


def test_an_unknown_schedule_is_answered_by_those_that_are_known():
    with pytest.raises(UserError, match=r"'--schedule': .*constant, linear, cosine, pretrain.*sometimes"):
        make_settings(ratio=0.5, schedule="sometimes")


def test_new_plans_tell_of_a_bank_that_no_fold_has(preprocessed, bank, run_here):
    arguments = ["nnunet-synth", "plan", preprocessed.dataset_name, "2d", "--ratio", "0.5", "-p", TINY_PLANS]
    try:
        there = run_here(*arguments, "-o", "nnUNetPlansThere", "--bank", bank.name)
        missing = run_here(*arguments, "-o", "nnUNetPlansMissing", "--bank", "nowhere")
        written = json.loads(run_here(*arguments, "-o", "nnUNetPlansMissing", "--bank", "nowhere", "--json")[1])
        assert written["synth"] == json.loads(Path(written["path"]).read_text())["configurations"]["2d"]["synth"]
        assert ["--name nowhere" in command for command in written["next"]] == [True, False]
    finally:
        for name in ("There", "Missing"):
            (preprocessed.base / f"nnUNetPlans{name}.json").unlink(missing_ok=True)
    assert there[0] == missing[0] == 0
    assert "No fold" not in there[1]
    assert "No fold has a bank nowhere yet" in missing[1]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"ration": 0.5}, "unknown key 'ration' (did you mean 'ratio'?)"),
        ({"ratio": 1.5}, "key 'ratio'"),
        ({"schedule": "sometimes"}, "constant, linear"),
        ({"refresh": 200}, "unknown key 'refresh'"),
    ],
)
def test_a_wrong_synth_block_names_place_key_and_remedy(block, words):
    with pytest.raises(UserError) as error:
        read_settings({"synth": block}, "configuration 2d in plans nnUNetPlans")
    assert words in str(error.value)
    assert "configuration 2d in plans nnUNetPlans" in str(error.value)


def source(preprocessed, fold=0, **changes):
    return Source.of(preprocessed, preprocessed.fold(fold)).model_copy(update=changes)


def hashes(preprocessed, fold):
    return case_hashes(preprocessed, preprocessed.fold(fold).validation)


def test_the_leak_guard_lets_the_banks_own_fold_pass(preprocessed, bank):
    refuse_leaks(bank, verify_bank(bank), source(preprocessed), hashes(preprocessed, 0))


@pytest.mark.parametrize("fold", [1, 2, 3, 4])
def test_the_leak_guard_refuses_a_bank_that_saw_a_validation_case(preprocessed, bank, fold):
    validation = hashes(preprocessed, fold)
    with pytest.raises(LeakError) as error:
        refuse_leaks(bank, verify_bank(bank), source(preprocessed, fold), validation)
    assert f"saw {len(validation)} of the {len(validation)} validation cases of fold {fold}" in str(error.value)
    assert f"stylegan2-cond train Dataset901_Virtual 2d {fold}" in str(error.value)


def test_one_seen_case_is_enough(preprocessed, bank):
    fold = preprocessed.fold(0)
    validation = hashes(preprocessed, 0) | {fold.training[0]: "0" * 64}
    with pytest.raises(LeakError, match=fold.training[0]):
        refuse_leaks(bank, verify_bank(bank), source(preprocessed), validation)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset_name": "Dataset904_Other"}, "this training of Dataset904_Other"),
        ({"preprocessing": "0" * 64}, "other preprocessing"),
        ({"data_identifier": "nnUNetPlans_3d_fullres"}, "other preprocessing"),
    ],
)
def test_banks_of_other_data_are_refused(preprocessed, bank, change, words):
    with pytest.raises(LeakError, match=words):
        refuse_leaks(bank, verify_bank(bank), source(preprocessed, **change), hashes(preprocessed, 0))


def test_fold_all_takes_a_bank_that_saw_every_case(preprocessed, bank):
    everything = preprocessed.fold("all")
    record = verify_bank(bank)
    saw_all = record.model_copy(
        update={"source": record.source.model_copy(update={"training_cases": everything.training, "fold": "all"})}
    )
    refuse_leaks(bank, saw_all, source(preprocessed, "all"), hashes(preprocessed, "all"))


def test_the_trainer_itself_refuses_a_copied_bank_of_another_fold(preprocessed, bank, tmp_path):
    import shutil

    elsewhere = bank.parent.parent / "fold_1" / "copied"
    shutil.copytree(bank, elsewhere)
    try:
        trainer = trainer_of(nnUNetTrainerSynth, preprocessed)
        trainer.fold = 1
        trainer.initialize()
        with pytest.raises(LeakError, match="validation cases of fold 1"):
            trainer.get_tr_and_val_datasets()
    finally:
        shutil.rmtree(elsewhere.parent)


def test_the_second_stage_of_a_cascade_is_refused_plainly(preprocessed, bank):
    trainer = trainer_of(nnUNetTrainerSynth, preprocessed)
    trainer.initialize()
    trainer.is_cascaded = True
    with pytest.raises(UserError, match="second stage of a cascade"):
        trainer.get_tr_and_val_datasets()


def test_no_bank_names_the_command_that_fills_one(preprocessed):
    trainer = trainer_of(nnUNetTrainerSynth, preprocessed)
    trainer.fold = 2
    trainer.initialize()
    with pytest.raises(UserError, match="nnunet-synth bank Dataset901_Virtual 2d 2 -n 1000"):
        trainer.get_tr_and_val_datasets()


def test_workers_see_no_more_threads_or_processes_than_nnunets(mixed):
    before = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else None
    mixed.control.ratios = [0.5]
    for _ in range(20):
        mixed.load_case(mixed.identifiers[0])
    if before is not None:
        assert set(os.listdir("/proc/self/task")) <= set(before)  # those of earlier tests may end
