"""`stylegan2-cond generate`: files hold the generator's samples; continuing equals not having stopped."""

import errno
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import run
from matplotlib.image import imread
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from stylegan2_cond.cli import main, parse_areas, stop_on_sigterm
from stylegan2_cond.data.conditioning import Conditions
from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.networks import build_generator
from stylegan2_cond.sampling import MANIFEST_FILE, Manifest, generate, summary
from stylegan2_cond.snapshot import PairGenerator, SampleRequest, load_generator, open_masks, save_snapshot
from stylegan2_cond.visualization import GAP

SPACING = (1.25, 0.5)


@pytest.fixture(scope="module")
def make_snapshot(tmp_path_factory):
    """Saves an untrained generator of a plan."""

    def make(plan, seed=0):
        folder = tmp_path_factory.mktemp("snapshots") / f"{plan.variant}_{seed}"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_snapshot(folder, build_generator(plan), plan, 0)
        return folder

    return make


@pytest.fixture(scope="module")
def pair_plan(plan):
    small = {"patch_size": (20, 12), "factors": ((2, 2), (2, 2)), "channels": (16, 16, 16)}
    return plan.model_copy(update={"spacing": SPACING, **small})


@pytest.fixture(scope="module")
def mask_plan(pair_plan):
    codec = pair_plan.codec.model_copy(update={"low": (), "high": (), "outside": None})
    return pair_plan.model_copy(update={"variant": "mask", "codec": codec})


@pytest.fixture(scope="module")
def pair_snapshot(make_snapshot, pair_plan):
    return make_snapshot(pair_plan)


@pytest.fixture(scope="module")
def mask_snapshot(make_snapshot, mask_plan):
    return make_snapshot(mask_plan)


@pytest.fixture(scope="module")
def image_snapshot(make_snapshot, pair_plan):
    return make_snapshot(pair_plan.model_copy(update={"variant": "image"}))


@pytest.fixture(scope="module")
def drawn(pair_snapshot, tmp_path_factory):
    """A folder of 20 samples."""
    folder = tmp_path_factory.mktemp("generated") / "drawn"
    generate(pair_snapshot, folder, samples=20, seed=3, truncation=0.9)
    return folder


def contents(folder):
    """Every file below a folder, and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def image_files(folder, number, channels):
    return [str(folder / "images" / f"sample_{number:05d}_{channel:04d}.nii.gz") for channel in range(channels)]


def read_labels(folder):
    return np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("labels/*"))])


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["stylegan2-cond", "generate", "--device", "cpu", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


# --- files


def test_files_hold_the_generators_samples_for_nnunets_own_reader(drawn, pair_snapshot):
    pairs = load_generator(pair_snapshot).sample(20, seed=3, truncation=0.9)
    for number in (0, 7, 8, 19):
        image, geometry = SimpleITKIO().read_images(image_files(drawn, number, pairs.image.shape[1]))
        label, _ = SimpleITKIO().read_seg(str(drawn / "labels" / f"sample_{number:05d}.nii.gz"))
        assert np.array_equal(image[:, 0], pairs.image[number])
        assert np.array_equal(label[0, 0], pairs.label[number])
        assert geometry["spacing"][1:] == list(SPACING)


def test_files_are_of_the_patch_in_float32_and_int16_with_the_spacing_of_the_cases(drawn, pair_plan):
    image = sitk.ReadImage(image_files(drawn, 0, 1)[0])
    label = sitk.ReadImage(str(drawn / "labels" / "sample_00000.nii.gz"))
    assert (image.GetPixelIDTypeAsString(), label.GetPixelIDTypeAsString()) == (
        "32-bit float", "16-bit signed integer",
    )  # fmt: skip
    for file in (image, label):
        assert file.GetSize() == pair_plan.patch_size[::-1]
        assert file.GetSpacing() == SPACING[::-1]
    assert len(list(drawn.glob("images/*"))) == 20 * pair_plan.codec.image_channels
    assert len(list(drawn.glob("labels/*"))) == 20


def test_volumes_become_volumes(make_snapshot, pair_plan, tmp_path):
    changes = {"patch_size": (4, 8, 12), "spacing": (3.0, 1.0, 0.5), "factors": ((1, 2, 2),), "channels": (16, 16)}
    snapshot = make_snapshot(pair_plan.model_copy(update=changes))
    generate(snapshot, tmp_path / "drawn", samples=2)
    pairs = load_generator(snapshot).sample(2)
    image, geometry = SimpleITKIO().read_images(image_files(tmp_path / "drawn", 1, pairs.image.shape[1]))
    assert np.array_equal(image, pairs.image[1])
    assert geometry["spacing"] == [3.0, 1.0, 0.5]
    assert np.array_equal(read_labels(tmp_path / "drawn"), pairs.label)


def test_the_picture_shows_the_first_samples(drawn, pair_plan):
    picture, columns = imread(drawn / "preview.png"), 8
    tile = (picture.shape[0] / 3 - 2 * GAP, picture.shape[1] / columns - 2 * GAP)  # 20 samples: 3 rows
    channels = pair_plan.codec.image_channels
    assert tile[1] / tile[0] == pytest.approx((channels + 1) * pair_plan.patch_size[1] / pair_plan.patch_size[0])
    assert np.ptp(picture[..., :3], axis=-1).max() > 0.1


# --- the manifest


def test_the_manifest_lists_the_condition_and_content_of_each_sample(drawn, pair_snapshot, pair_plan):
    record, conditions = Manifest.load(drawn / MANIFEST_FILE), pair_plan.conditions
    vectors = load_generator(pair_snapshot).sample(20, seed=3).condition
    labels, count = read_labels(drawn), len(conditions.classes)
    assert [sample.name for sample in record.samples] == [f"sample_{number:05d}" for number in range(20)]
    for sample, vector, label in zip(record.samples, vectors, labels, strict=True):
        assert sample.shows.classes == tuple(value for value in conditions.classes if (label == value).any())
        for value, area in sample.shows.areas.items():
            assert area == pytest.approx((label == value).mean(), rel=1e-3)
        assert sample.condition.classes == tuple(np.array(conditions.classes)[vector[:count] == 1])
        logs = vector[count : 2 * count] * conditions.log_area_sd + np.array(conditions.log_area_mean)
        for column, value in enumerate(conditions.classes):
            if value in sample.condition.areas:
                assert sample.condition.areas[value] == pytest.approx(np.exp(logs[column]), rel=1e-3)
        assert sample.condition.position == pytest.approx((vector[-1] + 1) / 2, abs=1e-4)


def test_the_manifest_names_the_origin_of_samples_and_no_training_case(drawn, pair_snapshot, pair_plan):
    text = (drawn / MANIFEST_FILE).read_text()
    record = Manifest.load(drawn / MANIFEST_FILE)
    assert (record.snapshot, record.seed, record.truncation) == (str(pair_snapshot), 3, 0.9)
    assert record.weights_sha256 == json.loads((pair_snapshot / "card.json").read_text())["weights_sha256"]
    assert set(record.label_values) == set(pair_plan.codec.labels)
    assert not any(case in text for case in pair_plan.source.training_cases)


# --- continuing


def stop_at(monkeypatch, number, error):
    """Writing sample `number` is stopped after its first file."""
    write = sitk.WriteImage

    def stopping(image, path):
        if path.endswith(f"sample_{number:05d}_0001.nii.gz"):
            raise error
        write(image, path)

    monkeypatch.setattr(sitk, "WriteImage", stopping)


@pytest.mark.parametrize("number", [3, 8, 18])
def test_stopped_and_started_again_equals_uninterrupted(drawn, pair_snapshot, tmp_path, monkeypatch, number):
    folder, settings = tmp_path / "drawn", {"samples": 20, "seed": 3, "truncation": 0.9}
    stop_at(monkeypatch, number, KeyboardInterrupt)
    with pytest.raises(Stopped, match="same command"):
        generate(pair_snapshot, folder, **settings)
    monkeypatch.undo()
    assert len(Manifest.load(folder / MANIFEST_FILE).samples) == number
    assert not list(folder.glob(".*"))
    before = (folder / "labels" / "sample_00000.nii.gz").stat().st_mtime_ns
    generate(pair_snapshot, folder, **settings)
    assert contents(folder) == contents(drawn)
    assert (folder / "labels" / "sample_00000.nii.gz").stat().st_mtime_ns == before


def test_a_folder_is_continued_after_a_kill_as_well(drawn, pair_snapshot, tmp_path, monkeypatch):
    folder = tmp_path / "drawn"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # no cleaning up after a kill
        stop_at(patched, 9, KeyboardInterrupt)
        with pytest.raises(Stopped):
            generate(pair_snapshot, folder, samples=20, seed=3, truncation=0.9)
    content = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(content | {"samples": content["samples"][:2]}))
    (folder / "labels" / "sample_00001.nii.gz").unlink()
    assert list(folder.glob(".generating_*"))
    generate(pair_snapshot, folder, samples=20, seed=3, truncation=0.9)
    assert contents(folder) == contents(drawn)
    assert not list(folder.glob(".*"))


def test_a_complete_folder_is_not_generated_again_and_can_be_extended(pair_snapshot, tmp_path, monkeypatch):
    folder = tmp_path / "drawn"
    generate(pair_snapshot, folder, samples=10)
    before = contents(folder)
    with monkeypatch.context() as patched:
        patched.setattr(PairGenerator, "sample", lambda *_, **__: pytest.fail("drawn again"))
        assert len(generate(pair_snapshot, folder, samples=10).samples) == 10
        assert len(generate(pair_snapshot, folder, samples=4).samples) == 10
    assert contents(folder) == before
    generate(pair_snapshot, folder, samples=12)
    generate(pair_snapshot, tmp_path / "at once", samples=12)
    assert np.array_equal(read_labels(folder), read_labels(tmp_path / "at once"))
    assert all(contents(folder)[name] == before[name] for name in before if name.startswith("images"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 4}, r"--seed 3 \(now 4\)"),
        ({"truncation": 1.0}, r"--truncation 0.9 \(now 1\)"),
        ({"request": SampleRequest(classes=[2, 1])}, r"--with-class not given \(now 1 2\)"),
        ({"seed": 5, "request": SampleRequest(position=0.25)}, r"--seed 3 .* --position not given \(now 0.25\)"),
        ({"request": SampleRequest(areas={1: 0.05})}, r"--area not given \(now 1=0.05\)"),
    ],
)
def test_a_folder_of_other_settings_is_left_alone(drawn, pair_snapshot, changes, told):
    before = contents(drawn)
    with pytest.raises(UserError, match=f"other settings: {told}.*-o"):
        generate(pair_snapshot, drawn, **({"samples": 20, "seed": 3, "truncation": 0.9} | changes))
    assert contents(drawn) == before


def test_a_folder_of_another_snapshot_is_left_alone(drawn, make_snapshot, pair_plan, pair_snapshot):
    other = make_snapshot(pair_plan, seed=1)
    with pytest.raises(UserError, match=rf"settings: SNAPSHOT {pair_snapshot} \(now {other}\)\. "):
        generate(other, drawn, samples=20, seed=3, truncation=0.9)


def test_a_snapshot_that_was_moved_is_still_the_same(drawn, pair_snapshot, tmp_path):
    moved = shutil.copytree(pair_snapshot, tmp_path / "moved")
    assert len(generate(moved, drawn, samples=20, seed=3, truncation=0.9).samples) == 20


def test_a_folder_of_something_else_is_left_alone(pair_snapshot, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine .*-o"):
        generate(pair_snapshot, tmp_path / "mine", samples=1)
    for path in ("mine/notes.txt", "mine/notes.txt/below"):
        with pytest.raises(UserError, match=r"samples\.json .*notes\.txt.* is not a folder"):
            generate(pair_snapshot, tmp_path / path, samples=1)
    assert contents(tmp_path) == {"mine/notes.txt": b"mine"}


def test_a_folder_that_is_empty_is_taken(pair_snapshot, tmp_path):
    assert len(generate(pair_snapshot, tmp_path, samples=1).samples) == 1


def test_a_full_disk_leaves_whole_samples_and_can_be_continued(drawn, pair_snapshot, tmp_path, monkeypatch):
    stop_at(monkeypatch, 9, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(UserError, match=r"No space left while writing .*sample_00009_0001"):
        generate(pair_snapshot, tmp_path, samples=20, seed=3, truncation=0.9)
    monkeypatch.undo()
    assert len(Manifest.load(tmp_path / MANIFEST_FILE).samples) == 9
    generate(pair_snapshot, tmp_path, samples=20, seed=3, truncation=0.9)
    assert contents(tmp_path) == contents(drawn)


@pytest.mark.parametrize("remains", [0.0, 0.5])
def test_a_file_that_was_stored_wrongly_gets_no_name(pair_snapshot, tmp_path, monkeypatch, remains):
    write = sitk.WriteImage

    def forgetful(image, path):
        write(image * remains if remains else image, path)
        if not remains:
            os.truncate(path, 40)

    monkeypatch.setattr(sitk, "WriteImage", forgetful)
    with pytest.raises(UserError, match=r"sample_00000_0000.nii.gz was not stored as it was written"):
        generate(pair_snapshot, tmp_path, samples=2)
    assert set(contents(tmp_path)) == {MANIFEST_FILE}


def test_a_folder_without_write_permission_is_named(pair_snapshot, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match=r"No permission to write .*/drawn"):
        generate(pair_snapshot, tmp_path / "drawn", samples=2)


# --- requests


def test_a_request_holds_for_every_sample(pair_snapshot, pair_plan, tmp_path):
    request = SampleRequest(classes=[1, 2], areas={2: 0.07}, position=0.4)
    record = generate(pair_snapshot, tmp_path, samples=9, request=request)
    assert {sample.condition.classes for sample in record.samples} == {(1, 2)}
    assert {sample.condition.position for sample in record.samples} == {0.4}
    assert {round(sample.condition.areas[2], 4) for sample in record.samples} == {0.07}
    assert np.array_equal(read_labels(tmp_path), load_generator(pair_snapshot).sample(9, request=request).label)


def test_a_combination_of_classes_that_no_training_patch_shows_is_named(make_snapshot, pair_plan, tmp_path, capsys):
    label = np.zeros((10, 4, 4), np.int16)
    label[:, 0], label[:8, 1] = 1, 2
    conditions = Conditions.from_patches((1, 2), label, None)
    assert conditions.combinations() == pytest.approx({(1, 2): 0.8, (1,): 0.2})
    snapshot = make_snapshot(pair_plan.model_copy(update={"conditions": conditions}))
    generate(snapshot, tmp_path / "seen", samples=1, request=SampleRequest(classes=[2, 1]))
    assert capsys.readouterr().out == ""
    generate(snapshot, tmp_path / "unseen", samples=1, request=SampleRequest(classes=[2]))
    told = capsys.readouterr().out
    assert "class 2," in told
    assert "class 1 + 2 (80%), class 1 (20%)" in told


def test_the_summary_counts_how_often_the_request_is_met(pair_snapshot, tmp_path, monkeypatch):
    labels = np.zeros((4, 10, 10), np.int16)
    labels[:, :2] = 1  # 20 % each
    labels[0, 5:, 0] = 2
    labels[3, 0] = 0  # 10 %
    draw = PairGenerator.sample

    def as_told(self, n, **keywords):
        pairs = draw(self, n, **keywords)
        return SampleSet(pairs.image[:, :, :10, :10], labels, condition=pairs.condition)

    monkeypatch.setattr(PairGenerator, "sample", as_told)
    record = generate(pair_snapshot, tmp_path / "classes", samples=4, request=SampleRequest(classes=[1]))
    assert summary(record, tmp_path).endswith(f"4 samples: {tmp_path}; 3 of 4 show exactly the requested classes")
    record = generate(pair_snapshot, tmp_path / "areas", samples=4, request=SampleRequest(areas={1: 0.15, 2: 0.01}))
    assert summary(record, tmp_path) == (
        f"4 samples: {tmp_path}; class 1 covers a median of 20 % (requested: 15 %); "
        "class 2 covers a median of 0 % (requested: 1 %)"
    )
    record = generate(pair_snapshot, tmp_path / "nothing", samples=4)
    assert summary(record, tmp_path) == f"4 samples: {tmp_path}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--with-class", "7"], "Error: --with-class 7: class 7 is not one that this generator knows: [1, 2]"),
        (["--position", "2", "--with-class", "1"], "Error: --position 2: position 2 is not between"),
        (["--position", "nan"], "Error: --position nan: position nan is not between"),
        (["--area", "1=1.5"], "Error: --area 1=1.5: area 1.5 of class 1 "),
        (["--area", "1=0.6", "--area", "2=0.6"], "Error: --area 1=0.6 --area 2=0.6: the requested areas add up to 1.2"),
        (["--area", "1=1", "--with-class", "2"], "Error: --with-class 2 --area 1=1: "),
        (["--area", "1"], "Error: --area 1 "),
        (["--area", "one=0.1"], "Error: --area one=0.1 "),
        (["--area", "1=0.1=2"], "Error: --area 1=0.1=2 "),
        (["--area", "1=0.1", "--area", "1=0.2"], "Error: --area 1=0.2: class 1 "),
        (["--masks", "real"], "Error: --masks real: a snapshot of the variant pair "),
        (["--truncation", "-1"], "'--truncation'"),
        (["-n", "0"], "'-n'"),
    ],
)
def test_bad_input_ends_with_code_2_and_writes_nothing(pair_snapshot, tmp_path, arguments, said, monkeypatch, capsys):
    folder = tmp_path / "drawn"
    assert call(monkeypatch, pair_snapshot, "-o", folder, "-n", "2", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_areas_are_read_by_class():
    assert parse_areas(["1=0.05", "2=1e-3"]) == {1: 0.05, 2: 0.001}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "-n .*0"),
        ({"truncation": float("nan")}, "--truncation .*nan"),
        ({"truncation": float("inf")}, "--truncation .*inf"),
        ({"truncation": -0.5}, "--truncation .*-0.5"),
    ],
)
def test_numbers_that_are_none_are_refused_from_python_too(pair_snapshot, tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        generate(pair_snapshot, tmp_path / "drawn", **({"samples": 2} | settings))
    assert not (tmp_path / "drawn").exists()


# --- masks alone, and images for masks


def test_a_mask_snapshot_generates_masks_without_images(mask_snapshot, tmp_path):
    generate(mask_snapshot, tmp_path, samples=3, seed=1)
    assert np.array_equal(read_labels(tmp_path), load_generator(mask_snapshot).sample(3, seed=1).label)
    assert not (tmp_path / "images").exists()
    picture = imread(tmp_path / "preview.png")[..., :3]
    assert (np.ptp(picture, axis=-1) > 0.1).any() == (read_labels(tmp_path) > 0).any()


@pytest.mark.parametrize("masks", ["real", "deformed"])
def test_images_are_generated_for_the_chosen_masks(image_snapshot, tmp_path, masks):
    record = generate(image_snapshot, tmp_path, samples=3, seed=2, masks=masks, request=SampleRequest(classes=[1, 2]))
    generator = load_generator(image_snapshot)
    source = open_masks(masks, generator.plan)
    pairs = generator.sample(3, seed=2, masks=source, request=SampleRequest(classes=[1, 2]))
    assert np.array_equal(read_labels(tmp_path), pairs.label)
    assert summary(record, tmp_path).endswith("3 of 3 show exactly the requested classes")
    assert record.masks == masks


def test_masks_read_their_cases_once(image_snapshot, monkeypatch):
    generator, load, read = load_generator(image_snapshot), Preprocessed.load, []
    monkeypatch.setattr(Preprocessed, "load", lambda self, name: read.append(name) or load(self, name))
    masks = open_masks("deformed", generator.plan)
    first = generator.sample(4, masks=masks)
    before = len(read)
    assert before
    assert np.array_equal(generator.sample(4, masks=masks).image, first.image)
    assert len(read) == before


def test_masks_are_deformed_by_default(image_snapshot, tmp_path):
    assert generate(image_snapshot, tmp_path / "drawn", samples=2).masks == "deformed"
    generate(image_snapshot, tmp_path / "deformed", samples=2, masks="deformed")
    assert contents(tmp_path / "drawn") == contents(tmp_path / "deformed")
    with pytest.raises(UserError, match=r"settings: --masks deformed \(now real\)"):
        generate(image_snapshot, tmp_path / "drawn", samples=2, masks="real")


def test_images_are_generated_for_masks_of_a_mask_snapshot(
    image_snapshot, mask_snapshot, mask_plan, make_snapshot, tmp_path
):
    request = SampleRequest(position=0.3)
    record = generate(image_snapshot, tmp_path / "drawn", samples=3, seed=2, masks=str(mask_snapshot), request=request)
    assert np.array_equal(
        read_labels(tmp_path / "drawn"), load_generator(mask_snapshot).sample(3, seed=2, request=request).label
    )
    assert record.masks == str(mask_snapshot)
    moved = shutil.copytree(mask_snapshot, tmp_path / "moved")
    generate(image_snapshot, tmp_path / "drawn", samples=3, seed=2, masks=str(moved), request=request)
    other = make_snapshot(mask_plan, seed=1)
    with pytest.raises(UserError, match=rf"settings: --masks {mask_snapshot} \(now {other}\)"):
        generate(image_snapshot, tmp_path / "drawn", samples=3, seed=2, masks=str(other), request=request)


def test_what_real_masks_cannot_be_is_led_back_to_the_options(image_snapshot, tmp_path):
    with pytest.raises(UserError, match=r"--area 1=0\.1: .*real masks"):
        generate(image_snapshot, tmp_path / "drawn", samples=2, request=SampleRequest(areas={1: 0.1}))
    assert not (tmp_path / "drawn").exists()


# --- the command


def test_the_command_says_how_many_where_and_how_well(pair_snapshot, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "drawn"
    asks = ("--with-class", 2, "--with-class", 1, "--area", "1=0.05", "--seed", 4, "--truncation", 0.5)
    assert call(monkeypatch, pair_snapshot, "-n", 3, "-o", folder, *asks) == 0
    record = Manifest.load(folder / MANIFEST_FILE)
    first, last = capsys.readouterr().out.splitlines()
    assert first == summary(record, folder)
    assert last.startswith("Next: nnunet-synth bank ")
    assert last.endswith(f" --snapshot {pair_snapshot}")
    assert (record.with_classes, record.areas, record.seed, record.truncation) == ((1, 2), {1: 0.05}, 4, 0.5)


def test_ctrl_c_ends_with_code_130_and_says_how_to_go_on(pair_snapshot, tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 1, KeyboardInterrupt)
    assert call(monkeypatch, pair_snapshot, "-n", 2, "-o", tmp_path) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path) in said
    assert "same command" in said


def test_a_scheduler_that_ends_the_job_stops_it_as_ctrl_c_does(pair_snapshot, tmp_path, monkeypatch, capsys):
    write = sitk.WriteImage

    def ended(image, path):
        if "sample_00001" in path:
            signal.raise_signal(signal.SIGTERM)
        write(image, path)

    monkeypatch.setattr(sitk, "WriteImage", ended)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # were it not for the command
    try:
        assert call(monkeypatch, pair_snapshot, "-n", 2, "-o", tmp_path) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert f"whole samples in {tmp_path} are kept" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_ends_by_sigterm_even_where_exceptions_get_lost():
    with stop_on_sigterm():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            except BaseException:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_help_fits_on_a_screen():
    lines = run("stylegan2-cond", "generate", "--help", COLUMNS="80").stdout.splitlines()
    assert len(lines) <= 24
    assert lines[-1].startswith("  Example: stylegan2-cond generate")
