"""The plan's choices: patches that images fill, pyramids that reach them, and messages for patches that can't be."""

import itertools
import json
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from raw_cases import LABELS, SHAPE, brain, cohort, own_folders, preprocess, run_options
from tiny import tiny_plan

from stylegan2_cond import memory
from stylegan2_cond.data.encoding import Codec
from stylegan2_cond.data.fingerprint import read_fingerprint
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.memory import available_bytes, free_bytes
from stylegan2_cond.planning import (
    Plan,
    fit_memory,
    heuristics,
    make_plan,
    next_smaller,
    parse_overrides,
    planner,
    training_bytes,
)
from stylegan2_cond.planning.heuristics import (
    FILLED_SHARE,
    FINEST_CHANNELS,
    MAX_BASE,
    PlanInputs,
    check_patch_size,
    choose_channels,
    choose_factors,
    choose_patch_size,
    training_settings,
)
from stylegan2_cond.planning.memory import TRIED, activations_at_once
from stylegan2_cond.planning.plan import BY_HAND, RunOptions, check_overrides
from stylegan2_cond.planning.table import table

# --- patch size

fingerprints = st.tuples(st.integers(1, 45), st.integers(2, 3)).flatmap(
    lambda shape: st.tuples(
        st.tuples(*[st.integers(1, 60)] * shape[1]),
        hnp.arrays(np.int64, shape, elements=st.integers(1, 60)),
    )
)


@settings(max_examples=150, deadline=None)
@given(fingerprints)
def test_the_patch_size_is_within_the_limits_and_nearly_all_images_fill_it(fingerprint):
    patch, sizes = fingerprint
    patch_size = choose_patch_size(patch, sizes)
    assert len(patch_size) == len(patch)
    for length, limit, lengths in zip(patch_size, patch, sizes.T, strict=True):
        assert length <= limit
        assert (lengths >= length).mean() >= FILLED_SHARE


@settings(max_examples=150, deadline=None)
@given(fingerprints)
def test_no_larger_patch_would_be_filled_as_well(fingerprint):
    patch, sizes = fingerprint
    for length, limit, lengths in zip(choose_patch_size(patch, sizes), patch, sizes.T, strict=True):
        assert length == limit or (lengths >= length + 1).mean() < FILLED_SHARE


def test_one_small_image_in_twenty_is_no_reason_for_a_small_patch_but_one_in_ten_is():
    sizes = np.full((20, 2), 50)
    sizes[3] = 10
    assert choose_patch_size((40, 60), sizes) == (40, 50)
    assert choose_patch_size((40, 60), sizes[:10]) == (10, 10)


# --- pyramid


def base_of(patch_size, factors):
    for stage in reversed(factors):
        patch_size = tuple(math.ceil(length / factor) for length, factor in zip(patch_size, stage, strict=True))
    return patch_size


@st.composite
def plans_of_nnunet(draw):
    dims = draw(st.integers(2, 3))
    patch_size = draw(st.tuples(*[st.integers(1, 300)] * dims))
    stage = st.tuples(*[st.sampled_from([1, 2])] * dims)
    return patch_size, [(1,) * dims, *draw(st.lists(stage, max_size=7))]


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_the_base_of_the_pyramid_is_small_but_no_axis_is_made_smaller_than_four(case):
    patch_size, strides = case
    factors = choose_factors(patch_size, strides)
    base = base_of(patch_size, factors)
    assert max(base) <= MAX_BASE
    assert all(small >= min(4, length) for small, length in zip(base, patch_size, strict=True))
    assert all(any(factor > 1 for factor in stage) for stage in factors)  # no stage that changes nothing


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_the_pyramid_reaches_the_patch(case):
    patch_size, strides = case
    factors = choose_factors(patch_size, strides)
    reached = base_of(patch_size, factors)
    for stage in factors:
        reached = tuple(length * factor for length, factor in zip(reached, stage, strict=True))
    assert all(most >= length for most, length in zip(reached, patch_size, strict=True))


@settings(max_examples=150, deadline=None)
@given(plans_of_nnunet())
def test_strides_that_leave_every_axis_at_four_are_taken_as_they_are_read_backwards(case):
    patch_size, strides = case
    taken, lengths = [], patch_size
    for stride in strides:
        lengths = tuple(math.ceil(length / s) for length, s in zip(lengths, stride, strict=True))
        if min(lengths) < 4:
            break
        taken += [stride] if max(stride) > 1 else []
    assert choose_factors(patch_size, strides)[::-1][: len(taken)] == tuple(taken)


@pytest.mark.parametrize(
    ("patch_size", "strides", "factors"),
    [
        # thick slices: the plane is halved first, all axes after; one stage is added since 16 > 8
        ((32, 64, 64), [[1, 1, 1], [1, 2, 2], [2, 2, 2]], ((2, 2, 2), (2, 2, 2), (1, 2, 2))),
        # 6 would become 3: this axis keeps its length where the others go on
        ((6, 64, 64), [[1, 1, 1], [2, 2, 2], [1, 2, 2], [1, 2, 2]], ((1, 2, 2), (1, 2, 2), (1, 2, 2))),
        # non-square: the added stages halve only what is still long
        ((8, 40), [[1, 1]], ((1, 2), (1, 2), (1, 2))),
        # nothing to do
        ((8, 5), [[1, 1]], ()),
        # the order of the plan's strides is kept where they differ
        ((40, 40), [[1, 1], [1, 2], [2, 1], [2, 2]], ((2, 2), (2, 2), (2, 1), (1, 2))),
        # odd lengths are rounded up: 9 → 5 and 37 → 19 → 10 → 5
        ((9, 37), [[1, 1], [2, 2], [2, 2]], ((1, 2), (1, 2), (2, 2))),
    ],
)
def test_the_pyramid_is_nnunets_read_backwards(patch_size, strides, factors):
    assert choose_factors(patch_size, strides) == factors


# --- channels and memory


@pytest.mark.parametrize("patch_size", [(16, 16), (64, 48), (128, 128), (512, 512), (32, 48, 32), (96, 160, 160)])
@pytest.mark.parametrize("stages", [1, 3, 7])
def test_channels_start_at_the_patch_and_at_most_double_towards_the_base(patch_size, stages):
    channels = choose_channels(patch_size, stages)
    assert len(channels) == stages
    assert channels[-1] == FINEST_CHANNELS
    for coarse, fine in itertools.pairwise(channels):
        assert coarse == min(2 * fine, channels[0])


def test_the_most_channels_grow_with_the_patch_and_depend_on_its_size_alone():
    most = [choose_channels((side, side), 8)[0] for side in (32, 64, 65, 128, 129, 512)]
    assert most == sorted(most)
    assert most[0] < most[-1]
    assert choose_channels((32, 128), 8) == choose_channels((64, 64), 8) == choose_channels((64, 64, 64), 8)


def plan_of(patch_size, factors=((2, 2), (1, 2)), **changes):
    channels = (128, 96, 48)[-len(factors) - 1 :]
    return tiny_plan().model_copy(
        update={"patch_size": patch_size, "factors": factors, "channels": channels, **changes}
    )


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(4, 80), st.integers(4, 80)), st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_a_larger_patch_needs_more_memory(patch_size, growth):
    larger = tuple(length + more for length, more in zip(patch_size, growth, strict=True))
    needed = training_bytes(plan_of(patch_size)), training_bytes(plan_of(larger))
    assert needed[0] <= needed[1]
    assert (needed[0] < needed[1]) == (larger != patch_size)


def test_memory_is_at_least_that_of_one_activation_per_stage_and_network():
    plan = plan_of((12, 20))
    activations = 48 * 12 * 20 + 96 * 12 * 10 + 128 * 6 * 5  # a stage each
    assert training_bytes(plan) >= 2 * 4 * plan.batch_size * activations  # bytes of float32, two networks


@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_memory_for_activations_is_in_proportion_to_the_part_of_the_batch_that_is_computed_at_once(batch_size):
    def needed(batch_size, accumulate=1):
        plan = plan_of((36, 36), ((2, 2),) * 2, batch_size=batch_size, accumulate=accumulate)
        return training_bytes(plan) - training_bytes(plan.model_copy(update={"batch_size": 0}))  # without weights

    assert needed(batch_size) == pytest.approx(batch_size * needed(1), rel=0.01)
    assert needed(4 * batch_size, accumulate=4) == pytest.approx(needed(batch_size), rel=0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "image"},
        {"codec": Codec(low=(0.0,), high=(1.0,), labels=tuple(range(40)))},
    ],
)
def test_whatever_makes_a_step_richer_makes_it_larger(changes):
    assert training_bytes(plan_of((64, 64), **changes)) > 1.01 * training_bytes(plan_of((64, 64)))


# --- a plan that fits


def below(plan):
    return training_bytes(plan) - 1


def test_a_plan_that_fits_is_left_as_it_is():
    plan = plan_of((64, 64), batch_size=16)
    assert fit_memory(plan, training_bytes(plan)) == plan
    assert fit_memory(plan, None) == plan


def test_a_plan_that_does_not_fit_is_computed_in_parts_before_it_loses_channels():
    plan = smaller = plan_of((64, 64), batch_size=16)
    for parts in (2, 4, 8, 16):
        smaller = fit_memory(plan, below(smaller))
        assert (smaller.accumulate, smaller.channels) == (parts, plan.channels)
    narrower = fit_memory(plan, below(smaller))
    assert narrower.channels == (*plan.channels[:-1], plan.channels[-1] * 3 // 4)


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_that_share_a_batch_need_the_memory_of_a_share_each(processes):
    plan, share = (plan_of((64, 64), batch_size=size) for size in (32, 32 // processes))
    assert fit_memory(plan, training_bytes(share), processes) == plan
    assert fit_memory(plan, training_bytes(share)) != plan
    less = fit_memory(plan, below(share), processes)
    assert (less.batch_size, less.accumulate) == (32, fit_memory(share, below(share)).accumulate)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1.2), st.sampled_from([4, 6, 8, 16, 18, 32]), st.integers(1, 2))
def test_a_plan_fits_with_as_few_parts_and_as_many_channels_as_it_can_or_is_refused(share, batch_size, accumulate):
    plan = plan_of((64, 48), ((2, 2),) * 2, batch_size=batch_size, accumulate=accumulate)
    budget = int(share * training_bytes(plan))
    widths = [plan.channels, *((128, 96, finest) for finest in (36, 24, 16))]
    widths += [*((128, middle, 16) for middle in (72, 48, 32)), (96, 32, 16), (64, 32, 16)]
    parts = [p for p in (accumulate * 2**n for n in range(6)) if p == accumulate or batch_size % p == 0]
    wanted = [plan.model_copy(update={"channels": w, "accumulate": p}) for w in widths for p in parts]
    fitting = [other for other in wanted if training_bytes(other) <= budget]
    if not fitting:
        with pytest.raises(UserError, match=r"needs about .* GiB, .* GiB are free.*--patch-size 32,24"):
            fit_memory(plan, budget)
        return
    found = fit_memory(plan, budget)
    assert (found.channels, found.accumulate) == (fitting[0].channels, fitting[0].accumulate)
    changed = {key for key in ("channels", "accumulate") if getattr(found, key) != getattr(plan, key)}
    assert set(found.reasons) - set(plan.reasons) == changed
    assert all("GiB are free" in found.reasons[key] for key in changed)


def test_channels_shrink_to_half_the_finest_first_and_coarse_stages_keep_128():
    plan = plan_of((128, 128), ((2, 2),) * 5, batch_size=1)
    plan, widths = plan.model_copy(update={"channels": (512, 512, 256, 128, 64, 24)}), []
    while plan is not None:
        widths.append(plan.channels)
        plan = next_smaller(plan)
    assert widths[-1] == (128, 128, 128, 64, 32, 16)
    for before, after in itertools.pairwise(widths):
        changed = [stage for stage in range(6) if after[stage] != before[stage]]
        assert len(changed) == 1
        assert before[: changed[0]] == widths[0][: changed[0]]
        assert after[changed[0] + 1 :] == widths[-1][changed[0] + 1 :]


@pytest.mark.parametrize("gib", [24, 11])
def test_a_common_gpu_keeps_the_channels_of_large_volumes(gib):
    """A brain of four channels at 128³; what the free memory is of what the card has is guessed from above."""
    channels = choose_channels((128,) * 3, 6)
    codec = Codec(low=(0.0,) * 4, high=(1.0,) * 4, labels=tuple(range(5)))
    plan = tiny_plan(
        dims=3, patch_size=(128,) * 3, factors=((2, 2, 2),) * 5, channels=channels, codec=codec, batch_size=8
    )
    plan = plan.model_copy(update={"precision": "bfloat16", "latent_dim": 128, "style_dim": 128})
    budget = int(0.9 * gib * 2**30)
    fitted = fit_memory(plan, budget // TRIED["cuda"], device="cuda")
    assert fitted.channels == channels
    assert fitted.batch_size // fitted.accumulate >= 2
    assert training_bytes(fitted, "cuda") <= budget


def test_a_gpu_tries_plans_that_may_be_too_large_and_a_cpu_does_not():
    plan = plan_of((64, 64), batch_size=16)
    for device in ("cpu", "cuda"):
        tried = fit_memory(plan, int(training_bytes(plan, device) / 1.9), device=device)
        assert (tried == plan) == (device == "cuda")


def test_the_next_smaller_plan_always_holds_fewer_activations_until_there_is_none():
    plan, held = plan_of((64, 64), batch_size=16), []
    while plan is not None:
        held.append((activations_at_once(plan), training_bytes(plan)))
        plan = next_smaller(plan)
    assert len(held) > 4
    for (more, most), (fewer, least) in itertools.pairwise(held):
        assert fewer < more
        assert least <= most


@pytest.mark.parametrize("key", ["channels", "accumulate"])
def test_what_was_set_by_hand_is_not_changed_to_fit(key):
    plan = plan_of((64, 64), batch_size=16, reasons={key: BY_HAND})
    assert getattr(fit_memory(plan, below(plan)), key) == getattr(plan, key)
    both = plan.model_copy(update={"reasons": {"channels": BY_HAND, "accumulate": BY_HAND}})
    with pytest.raises(UserError, match="--patch-size"):
        fit_memory(both, below(both))


# --- memory that is there


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GiB available, and a job's control group below that of a cluster's."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    write(tmp_path / "meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {8 * 2**20} kB\n")
    write(tmp_path / "cgroup", "1:name=systemd:/other\n0::/cluster/job\n")

    def limit(group, most, used=0, cache=0):
        for name, content in (("max", most), ("current", used), ("stat", f"anon 1\ninactive_file {cache}")):
            write(tmp_path / "groups" / group / f"memory.{name}", f"{content}\n")

    return limit


def test_what_the_machine_has_available_may_be_taken(system):
    assert available_bytes() == 8 * 2**30
    system("cluster/job", "max")
    assert available_bytes() == 8 * 2**30


def test_a_job_may_take_what_its_limit_and_those_above_leave(system):
    system("cluster/job", 4 * 2**30, used=2**30, cache=2**28)
    assert available_bytes() == 3 * 2**30 + 2**28
    system("cluster", 2 * 2**30, used=2**30)
    assert available_bytes() == 2**30
    system("cluster", 2**30, used=2**31)
    assert available_bytes() == 0
    system("other", 1)
    assert available_bytes() == 0


def test_a_part_of_a_gpus_memory_is_kept_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 2**30, 24 * 2**30))
    assert 15 * 2**30 < free_bytes(torch.device("cuda")) < 19 * 2**30


def test_where_nobody_tells_nothing_is_known(monkeypatch, tmp_path):
    for name in ("MEMINFO", "OWN_CGROUP", "CGROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / "missing")
    assert available_bytes() is None


# --- choices about training


def inputs(**changes):
    settings = {"variant": "pair", "patch_size": (64, 64), "patches": 5000, "device": torch.device("cpu")}
    return PlanInputs(**(settings | {"batch_size": 16} | changes))


def chosen(key, **changes):
    return training_settings(inputs(**changes))[key].value


def test_r1_grows_with_voxels_and_falls_with_the_batch_as_in_the_paper_but_never_vanishes():
    assert chosen("r1_weight", patch_size=(512, 512), batch_size=16) == pytest.approx(0.0002 * 512**2 / 16, rel=0.05)
    assert chosen("r1_weight", patch_size=(32, 64, 64), batch_size=8) == pytest.approx(0.0002 * 131072 / 8, rel=0.05)
    assert chosen("r1_weight", patch_size=(16, 16)) == heuristics.MIN_R1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_more_patches_take_longer_to_learn_and_to_know_by_heart_and_need_less_help(few, more):
    for key in ("kimg", "augment_kimg"):
        assert chosen(key, patches=few) <= chosen(key, patches=few + more)
    for key in ("feature_weight", "l1_weight"):
        weights = [chosen(key, variant="image", patches=count) for count in (few, few + more)]
        assert weights[0] >= weights[1] > 0


@pytest.mark.parametrize("variant", ["pair", "mask"])
def test_without_a_given_mask_there_are_no_paired_losses(variant):
    assert chosen("feature_weight", variant=variant) == chosen("l1_weight", variant=variant) == 0


@pytest.mark.parametrize(
    ("bfloat16", "capability", "precision"),
    [(True, (8, 0), "bfloat16"), (False, (8, 6), "tf32"), (False, (7, 5), "float32"), (True, (7, 5), "bfloat16")],
)
def test_precision_is_what_the_device_has(monkeypatch, bfloat16, capability, precision):
    asked = []

    def supported(including_emulation=True):
        return bfloat16 or including_emulation

    class Device:
        def __init__(self, device):
            asked.append(device)

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "device", Device)
    assert chosen("precision", device=torch.device("cuda:1")) == precision
    assert asked == [torch.device("cuda:1")]
    assert chosen("precision") == "float32"


# --- keys that are set


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("r1_weight=0.5", "r1_weight", 0.5),
        ("channels=[64,32]", "channels", [64, 32]),
        ("channels=64, 32", "channels", [64, 32]),
        ("precision = tf32", "precision", "tf32"),
        ("augment_target=none", "augment_target", None),
        ("learning_rate=1e-3", "learning_rate", 0.001),
    ],
)
def test_keys_are_read_as_they_are_typed(text, key, value):
    assert parse_overrides([text]) == {key: value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("r1_wait=1", "no key 'r1_wait'. Did you mean 'r1_weight'?"),
        ("batchsize=1", "Did you mean 'batch_size'?"),
        ("lr=0.1", "Did you mean 'learning_rate'?"),
        ("gamma=0.1", "Did you mean 'r1_weight'?"),
        ("Batch-Size=4", "Did you mean 'batch_size'?"),
        ("xyzzy=1", "A plan has no key 'xyzzy'. Keys that can be set: "),
        ("kimg=5", "'kimg' has an option of its own: --kimg"),
        ("patch_size=8,8", "--patch-size"),
        ("source=x", "'source' is derived from the data and can't be set"),
        ("batch_size", "--set batch_size is not key=value. Type for example --set batch_size=8"),
    ],
)
def test_a_wrong_key_is_answered_with_the_right_one(text, words):
    with pytest.raises(UserError) as caught:
        parse_overrides([text])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size=0", "greater than or equal to 1, got 0"),
        ("batch_size=2.5", "valid integer"),
        ("batch_size=many", "valid integer, got many"),
        ("r1_weight=Infinity", "valid number"),
        ("learning_rate=NaN", "valid number"),
        ("precision=bf16", "'float32', 'tf32' or 'bfloat16', got bf16"),
        ("channels=8,8,8", "the pyramid has 2 stages"),
        ("channels=8,0", "greater than or equal to 1, got 0"),
        ("learning_rate=1e999", "finite"),
        ("batch_size=" + "[" * 3000, "valid integer"),
        ("batch_size=" + "9" * 5000, "valid integer"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_may_be(text, words):
    with pytest.raises(UserError) as caught:
        check_overrides(parse_overrides([text]), 2)
    message = str(caught.value)
    assert message.startswith("--set")
    assert text.partition("=")[0] in message
    assert words in message


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(UserError, match=r"batch_size.*learning_rate"):
        check_overrides({"batch_size": 0, "learning_rate": -1.0}, 2)


def test_values_come_back_as_a_plan_has_them():
    assert check_overrides({"channels": [8, 4], "r1_weight": 1}, 2) == {"channels": (8, 4), "r1_weight": 1.0}


# --- a whole plan


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "CONDITION_PATCHES", 40)
    return own_folders(tmp_path, monkeypatch)


def planned(preprocessed, budget=None, processes=1, **options):
    asked = run_options(preprocessed, **options)
    return make_plan(asked, preprocessed, preprocessed.fold("all"), budget=budget, processes=processes)


@pytest.mark.parametrize("variant", ["pair", "mask", "image"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_key_of_a_plan_has_its_reason(folders, variant, dims):
    plan = planned(preprocess(folders, cohort(5), LABELS, dims=dims), variant=variant)
    assert set(plan.reasons) == set(Plan.model_fields) - {"format_version", "reasons", "hours"}
    assert all(plan.reasons.values())
    assert Plan.model_validate_json(plan.model_dump_json(), strict=True) == plan


@pytest.mark.parametrize(("dims", "patch_size", "patches"), [(2, (16, 14), 20), (2, (8, 8), 80), (3, (4, 16, 14), 5)])
def test_patches_are_counted_that_do_not_overlap(folders, dims, patch_size, patches):
    assert SHAPE == (4, 20, 18)
    preprocessed = preprocess(folders, cohort(5), LABELS, dims=dims)
    seen = read_fingerprint(preprocessed, preprocessed.case_names())
    assert seen.patches(patch_size) == patches
    assert seen.bytes == 5 * 4 * 20 * 18 * (2 * 4 + 2)
    assert f"{patches} patches" in planned(preprocessed, patch_size=patch_size).reasons["source"]


def test_the_survey_counts_cases_that_show_a_class_and_finds_constant_channels(folders):
    cases = {f"case_{number}": brain(number, labels=2 if number == 3 else 1) for number in range(5)}
    for image, _ in cases.values():
        image[0] = 3
    preprocessed = preprocess(folders, cases, LABELS)
    seen = read_fingerprint(preprocessed, preprocessed.case_names())
    assert seen.shown == {1: 5, 2: 1}
    assert seen.constant == (True, False)


def test_the_fingerprint_of_many_cases_takes_no_more_memory_than_that_of_some_hundred():
    image = np.random.default_rng(0).normal(size=(1, 1, 240, 240)).astype(np.float32)
    case = SimpleNamespace(name="case", image=image, label=np.zeros((1, 1, 240, 240), np.int16))
    labels = SimpleNamespace(all_labels=[0, 1], ignore_label=None)
    preprocessed = SimpleNamespace(
        patch_size=(64, 64), label_manager=labels, channel_names=("MRI",), load=lambda name: case
    )

    def peak(cases):
        tracemalloc.start()
        seen = read_fingerprint(preprocessed, ["case"] * cases)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (seen.low[0], seen.high[0]) == pytest.approx(np.quantile(image, (0.005, 0.995)), abs=0.05)
        return peak

    assert peak(400) < 1.3 * peak(130)


def test_conditions_are_measured_on_patches_as_training_draws_them(folders):
    preprocessed = preprocess(folders, cohort(5), LABELS)
    plan = planned(preprocessed, overrides={"foreground_share": 1.0}, seed=3)
    names = plan.source.training_cases
    stream = PatchSampler(preprocessed, names, plan.patch_size, foreground_share=1.0, seed=3)
    patches = stream.batch(0, planner.CONDITION_PATCHES)
    shown = (patches.label == 1).any(axis=(1, 2)).mean()
    measured = plan.conditions.measure(torch.from_numpy(patches.label), torch.from_numpy(patches.position))
    assert measured[:, 0].mean() == pytest.approx(shown)
    weights = np.array([row[0] for row in plan.conditions.rows])
    with_class = np.array([row[1] is not None for row in plan.conditions.rows])
    assert weights[with_class].sum() / weights.sum() == pytest.approx(shown)


def test_large_patches_are_measured_on_fewer_so_that_memory_holds_them(folders, monkeypatch):
    monkeypatch.setattr(planner, "CONDITION_BYTES", 2 * 16 * 14 * 10)
    monkeypatch.setattr(planner, "MIN_CONDITION_PATCHES", 5)
    plan = planned(preprocess(folders, cohort(5), LABELS))
    assert sum(row[0] for row in plan.conditions.rows) == 10


def test_what_is_asked_for_is_taken_and_what_follows_from_it_follows(folders):
    preprocessed = preprocess(folders, cohort(5), LABELS)
    plan = planned(preprocessed, kimg=7.0, seed=5, patch_size=(8, 8), overrides={"batch_size": 4, "channels": [16, 8]})
    assert (plan.kimg, plan.seed, plan.patch_size, plan.batch_size, plan.channels) == (7.0, 5, (8, 8), 4, (16, 8))
    assert {plan.reasons[key] for key in ("kimg", "seed", "patch_size")} == {planner.REQUESTED}
    assert {plan.reasons[key] for key in ("batch_size", "channels")} == {BY_HAND}
    settings = {"variant": "pair", "patch_size": (8, 8), "patches": 80, "device": torch.device("cpu")}
    assert plan.r1_weight == training_settings(PlanInputs(**settings, batch_size=4))["r1_weight"].value


def test_parts_that_a_batch_can_not_be_divided_into_are_refused(folders):
    preprocessed = preprocess(folders, cohort(5), LABELS)
    with pytest.raises(UserError, match=r"batch_size of 10 .* 4 equal parts"):
        planned(preprocessed, overrides={"batch_size": 10, "accumulate": 4})


def test_cases_that_are_kept_in_memory_take_their_part_of_it(folders, monkeypatch):
    preprocessed = preprocess(folders, cohort(5), LABELS)
    plan = planned(preprocessed)
    kept = read_fingerprint(preprocessed, preprocessed.case_names()).bytes
    assert planned(preprocessed, budget=training_bytes(plan) + kept).accumulate == 1
    assert planned(preprocessed, budget=training_bytes(plan) + kept - 1).accumulate == 2
    monkeypatch.setattr(planner, "cache_bytes", lambda free: min(1000, free))
    assert planned(preprocessed, budget=training_bytes(plan) + 1000).accumulate == 1
    share = training_bytes(plan.model_copy(update={"batch_size": plan.batch_size // 2}))
    assert planned(preprocessed, budget=2 * (share + 1000), processes=2).accumulate == 1
    assert planned(preprocessed, budget=2 * (share + 1000) - 2, processes=2).accumulate == 2


# --- as people read it


def test_the_table_has_a_line_for_each_key_that_counts_with_value_and_reason():
    reasons = {"r1_weight": "some reason that is told in a few words", "patch_size": "another " * 30}
    text = table(tiny_plan(batch_size=12, reasons=reasons), width=100)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split()[:2] == ["batch_size", "12"] for line in lines)
    assert any(line.startswith("r1_weight") and line.endswith("in a few words") for line in lines)
    assert text.count("another") == 30
    told = {line.split()[0] for line in lines if not line.startswith(" ")}
    idle = {"feature_weight", "l1_weight", "augment_kimg", "trust_masks", "hours", "cuda_graphs"}
    assert told == set(Plan.model_fields) - {"format_version", "source", "reasons"} - idle


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "image", "feature_weight": 1.0, "l1_weight": 1.0},
        {"augment_target": 0.5},
    ],
)
def test_keys_are_told_where_they_count(changes):
    told = {line.split()[0] for line in table(tiny_plan(**changes), 200).splitlines()}
    assert {"image": {"feature_weight", "l1_weight"}}.get(changes.get("variant"), set()) <= told
    assert ("augment_kimg" in told) == ("augment_target" in changes)
    assert "r1_interval" not in {line.split()[0] for line in table(tiny_plan(r1_weight=0.0)).splitlines()}


@pytest.mark.parametrize("key", ["apart_share", "channels", "precision", "augment_target", "ema_share"])
def test_values_are_told_as_they_may_be_set(key):
    plan = tiny_plan()
    line = next(line for line in table(plan, 300).splitlines() if line.startswith(f"{key} "))
    found = check_overrides(parse_overrides([f"{key}={line.split()[1]}"]), 2)
    assert found[key] == getattr(plan, key)


# --- a plan as a file


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path):
    plan = plan_of((12, 20))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


# --- a patch size that was asked for


@pytest.mark.parametrize("patch_size", [(48, 32), [4, 4], (48, 4)])
def test_a_patch_size_within_the_limits_is_taken(patch_size):
    assert check_patch_size(patch_size, (48, 32)) == tuple(patch_size)


@pytest.mark.parametrize("patch_size", [(32,), (16, 32, 32)])
def test_a_patch_size_of_other_dimensions_is_refused_with_both_numbers(patch_size):
    with pytest.raises(UserError, match=rf"--patch-size has {len(patch_size)} sizes.* 2 dimensions.*48, 32"):
        check_patch_size(patch_size, (48, 32))


@pytest.mark.parametrize("patch_size", [(49, 32), (48, 33), (3, 32), (48, 0), (-8, 8)])
def test_a_patch_size_beyond_the_limits_or_too_small_is_refused_with_the_limits(patch_size):
    with pytest.raises(UserError) as caught:
        check_patch_size(patch_size, (48, 32))
    message = str(caught.value)
    assert "--patch-size" in message
    for part in (str(list(patch_size)), "4", "[48, 32]"):
        assert part in message


def test_the_derived_patch_size_may_be_typed_even_if_one_axis_is_thin():
    patch = (3, 48, 32)
    derived = choose_patch_size(patch, np.array([[3, 50, 50]] * 4))
    assert check_patch_size(derived, patch) == derived


# --- a plan file that was edited


def test_a_tiny_plan_can_be_written_and_read(tmp_path):
    tiny_plan().save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == tiny_plan()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", [8]),
        ("patch_size", [8, -6]),
        ("spacing", [1.0]),
        ("spacing", [1.0, 0.0]),
        ("factors", [[2]]),
        ("factors", [[2, 0]]),
        ("channels", [8]),
        ("channels", [8, 10**30]),
        ("batch_size", 10**30),
        ("accumulate", 3),
        ("kimg", 1e308),
        ("learning_rate", "inf"),
        ("codec.high", [1.0]),
        ("codec.outside", [1.0]),
        ("codec.labels", []),
        ("codec.labels", [1, 1]),
    ],
)
def test_a_plan_that_no_network_could_follow_is_refused_with_its_key(tmp_path, key, value):
    path = tmp_path / "plan.json"
    tiny_plan().save(path)
    content = json.loads(path.read_text())
    *inside, last = key.split(".")
    part = content[inside[0]] if inside else content
    assert part[last] != value
    part[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"plan\.json.*{key}"):
        Plan.load(path)


@pytest.mark.parametrize("kimg", [math.inf, math.nan, 0.0, -1.0, 1e308])
def test_a_length_that_no_training_reaches_is_refused(kimg):
    with pytest.raises(UserError, match="--kimg"):
        RunOptions("950", "2d", "0", kimg=kimg)
