"""The log survives a stop; TensorBoard, the progress plot and previews show what it has."""

import errno
import json
import math
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_plan
from torch.utils.tensorboard import SummaryWriter

from stylegan2_cond.data.patch_sampler import PatchBatch
from stylegan2_cond.data.sample_set import SampleSet
from stylegan2_cond.errors import UserError
from stylegan2_cond.training import progress_plot
from stylegan2_cond.training.log_file import Log, read_log, take_means
from stylegan2_cond.training.model_selection import link_best
from stylegan2_cond.training.progress_plot import MOST_POINTS, PANELS, find_curve, save_progress
from stylegan2_cond.training.run_logger import PREVIEW_SAMPLES, Board, make_preview, tag
from stylegan2_cond.training.snapshot_evaluation import SNAPSHOT_METRICS
from stylegan2_cond.visualization import GAP, overlay_grid

# --- the log


def test_a_line_is_json_with_the_images_seen(tmp_path):
    log = Log(tmp_path, 0)
    log.write(1000, {"loss_generator": 0.5})
    log.write(2000, {"kid": 1e-3, "kid error": 2e-4})
    expected = [{"images": 1000, "loss_generator": 0.5}, {"images": 2000, "kid": 1e-3, "kid error": 2e-4}]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == expected
    assert read_log(tmp_path) == expected
    assert read_log(tmp_path / "elsewhere") == []


def test_a_folder_in_place_of_the_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    for read in (lambda: read_log(tmp_path), lambda: Log(tmp_path, 0)):
        with pytest.raises(UserError, match=r"log\.jsonl"):
            read()


def test_a_link_to_itself_in_place_of_the_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("log.jsonl")
    with pytest.raises(UserError, match=r"log\.jsonl"):
        Log(tmp_path, 0).write(1000, {})


def test_going_on_drops_what_came_after_the_checkpoint_and_what_was_cut_off(tmp_path):
    log = Log(tmp_path, 0)
    for images in (1000, 2000, 3000):
        log.write(images, {"r1": 1.0})
    with log.path.open("a") as file:
        file.write('{"images": 1500, "r1"')
    log = Log(tmp_path, 2000)
    log.write(2500, {"r1": 2.0})
    assert [line["images"] for line in read_log(tmp_path)] == [1000, 2000, 2500]
    assert len(log.path.read_text().splitlines()) == 3


broken = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=20).map(lambda raw: raw.decode("latin-1")),
    st.sampled_from(["[]", "null", "7", '{"images": null}', '{"images": "9"}', '{"kid": 1}', "{", "[" * 5000]),
)


@given(st.lists(broken, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_lines_that_can_not_be_read_are_passed_over(tmp_path, lines):
    whole = json.dumps({"images": 5, "kid": 1.0})
    (tmp_path / "log.jsonl").write_text("\n".join([whole, *lines, whole]) + "\n", encoding="utf-8", newline="")
    read = read_log(tmp_path)
    assert read[0] == read[-1] == {"images": 5, "kid": 1.0}
    assert all(isinstance(line["images"], int) for line in read)


def test_logged_scalars_are_means_since_the_last_time():
    scalars = {"loss": [1.0, 2.0], "r1": [4.0]}
    assert take_means(scalars) == {"loss": 1.5, "r1": 4.0}
    assert take_means(scalars) == {}


# --- TensorBoard


def read_board(folder):
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def points(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_curves_stand_in_sections_over_the_images_seen(tmp_path):
    board = Board(tmp_path)
    board.write(1000, {"loss_generator": 1.0, "score_real": 0.5, "r1": 2.0})
    board.write(1000, {"kid": 0.25, "kid error": 0.125, "diversity-nearest": 1.0})
    board.write(2000, {"kid": 0.5})
    board.close()
    events = read_board(tmp_path)
    assert points(events, "evaluation/kid") == [(1000, 0.25), (2000, 0.5)]
    names = {"loss/generator", "score/real", "training/r1", "evaluation/kid", "evaluation/diversity-nearest"}
    assert set(events.Tags()["scalars"]) == names | {"standard error/kid"}


def test_every_scalar_has_a_curve_of_its_own():
    names = [name for panel in PANELS for name in panel.curves]
    names += [f"{name}{word}" for name in SNAPSHOT_METRICS for word in (" error", " real", " real error")]
    assert len({tag(name) for name in names}) == len(set(names))


def test_the_preview_is_shown_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    board = Board(tmp_path)
    board.add_preview(2000, picture)
    (event,) = read_board(tmp_path).Images("preview")  # nothing is held back
    board.close()
    path = tmp_path / "preview.png"
    path.write_bytes(event.encoded_image_string)
    assert event.step == 2000
    assert np.array_equal((imread(path)[..., :3] * 255).round().astype(np.uint8), picture)


def test_going_on_hides_what_came_after_the_checkpoint(tmp_path):
    first = Board(tmp_path, 0)
    for images in (1000, 2000, 3000):
        first.write(images, {"r1": images})
    first.close()
    time.sleep(1.1)  # the reader orders event files by their names, which hold whole seconds
    second = Board(tmp_path, 2000)
    second.write(4000, {"r1": 7.0})
    second.close()
    assert points(read_board(tmp_path), "training/r1") == [(1000, 1000), (2000, 2000), (4000, 7.0)]


# --- the picture of the course


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def course(snapshots=5):
    """A training's log, with everything that it may tell."""
    names = [name for panel in PANELS for name in panel.curves]
    lines = []
    for images in range(1000, 1000 * snapshots * 2 + 1, 1000):
        lines.append({"images": images} | {name: 1000 / images + 0.1 for name in names if name not in SNAPSHOT_METRICS})
        if images % 2000 == 0:
            lines.append({"images": images} | {name: 1000 / images for name in SNAPSHOT_METRICS})
            lines[-1] |= {f"{name} error": 0.01 for name in SNAPSHOT_METRICS}
    return lines


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last."""
    figures = []

    def keep(self, *arguments, save=Figure.savefig, **options):
        figures.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_every_kind_of_scalar_has_a_panel(tmp_path, drawn):
    write_lines(tmp_path, course())
    save_progress(tmp_path)
    assert [axis.get_title("left") for axis in drawn[-1].axes] == [panel.title for panel in PANELS]
    assert set(SNAPSHOT_METRICS) <= {name for panel in PANELS for name in panel.curves}
    picture = imread(tmp_path / "progress.png")
    assert min(picture.shape[:2]) > 700
    assert not plt.get_fignums()  # pyplot keeps none of it


def test_panels_without_data_are_left_out(tmp_path, drawn):
    write_lines(tmp_path, [{"images": 1000, "loss_generator": 1.0, "kid": math.nan}])
    save_progress(tmp_path)
    assert [axis.get_title("left") for axis in drawn[-1].axes] == ["losses"]
    write_lines(tmp_path / "empty", [])
    save_progress(tmp_path / "empty")
    save_progress(tmp_path / "nothing")
    assert not (tmp_path / "empty" / "progress.png").exists()


def test_curves_go_through_the_values_with_a_band_of_one_standard_error(tmp_path, drawn):
    lines = [{"images": 1000 * n, "copies": float(n), "copies error": 0.5} for n in (1, 2, 3)]
    write_lines(tmp_path, lines)
    save_progress(tmp_path)
    (axis,) = drawn[-1].axes
    (curve,) = [line for line in axis.lines if line.get_label() == "copies"]
    assert np.array_equal(curve.get_xydata(), [[1000, 1], [2000, 2], [3000, 3]])
    band = axis.collections[0].get_paths()[0].vertices
    assert {(x, y) for x, y in band} >= {(1000 * n, n + side) for n in (1, 2, 3) for side in (-0.5, 0.5)}


def test_a_kid_around_zero_stays_on_its_logarithmic_axis(tmp_path, drawn):
    values = [20.0, 0.1, -0.004, 0.0, 0.02]
    write_lines(tmp_path, [{"images": n, "kid": kid, "kid error": 0.01} for n, kid in enumerate(values, start=1)])
    save_progress(tmp_path)
    (axis,) = drawn[-1].axes
    assert axis.get_yscale() == "log"
    shown = axis.lines[0].get_ydata()
    assert shown[[0, 1, 4]].tolist() == [20.0, 0.1, 0.02]
    assert (shown[[2, 3]] > 0).all()
    assert axis.get_ylim()[0] <= shown.min()


def test_the_score_of_real_data_is_a_line_in_the_colour_of_the_curve(tmp_path, drawn):
    real = {"kid real": -0.004, "kid real error": 0.01, "precision real": 0.9, "precision real error": 0.02}
    write_lines(tmp_path, [{"images": n, "kid": 20.0 / n, "precision": 0.1 * n} | real for n in (1, 2, 3)])
    save_progress(tmp_path)
    for axis, name, level in zip(drawn[-1].axes, ("KID", "precision"), (0.01, 0.9), strict=True):
        (curve,) = [line for line in axis.lines if line.get_label() == name]
        (line,) = [line for line in axis.lines if line.get_label() == "real data"]
        assert set(line.get_ydata()) == {level}  # a KID of less than its error can't be told from that
        assert line.get_color() == curve.get_color()
        assert axis.get_ylim()[0] <= level <= axis.get_ylim()[1]


def test_snapshots_are_marked_and_the_best_one_is_named(tmp_path, drawn):
    write_lines(tmp_path, course())
    (tmp_path / "snapshots" / "000004000").mkdir(parents=True)
    link_best(tmp_path, tmp_path / "snapshots" / "000004000")
    save_progress(tmp_path)
    assert "best: snapshots/000004000" in [text.get_text() for text in drawn[-1].texts]
    for axis in drawn[-1].axes:
        (best,) = [line for line in axis.lines if line.get_color() == progress_plot.BEST_COLOUR]
        assert set(best.get_xdata()) == {4000}
        marks = {segment[0][0] for segment in axis.collections[-1].get_segments()}
        assert marks == {2000, 4000, 6000, 8000, 10000}


def test_a_long_curve_shows_means_of_neighbours():
    lines = [{"images": n, "r1": float(n % 2)} for n in range(6 * MOST_POINTS)]
    curve = find_curve(lines, "r1")
    assert len(curve.images) == MOST_POINTS
    np.testing.assert_allclose(curve.value, 0.5)
    np.testing.assert_allclose(curve.images, np.arange(6 * MOST_POINTS).reshape(MOST_POINTS, 6).mean(axis=1))


junk = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.just(10**400), st.lists(st.none())
)
names = st.sampled_from(
    [n for panel in PANELS for n in panel.curves]
    + [f"{n}{word}" for n in SNAPSHOT_METRICS for word in (" error", " real")]
)
strange = st.fixed_dictionaries({"images": st.one_of(st.integers(-5, 10**5), st.just(10**400), st.booleans())}).flatmap(
    lambda start: st.dictionaries(names, junk, max_size=4).map(lambda rest: start | rest)
)


@given(st.lists(st.one_of(strange.map(json.dumps), broken), max_size=6))
@settings(suppress_health_check=list(HealthCheck), max_examples=25, deadline=None)
@pytest.mark.filterwarnings("error")
def test_no_log_whatever_is_in_it_fails_a_training(tmp_path, lines):
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_progress(tmp_path)


# --- previews


class Canned:
    """Stands for a generator and for a stream of patches: counts up, and draws what it is told to."""

    def __init__(self, channels, patch_size, seed):
        self.channels, self.patch_size, self.seed, self.asked = channels, patch_size, seed, []

    def batch(self, first, count):
        rng = np.random.default_rng(self.seed)
        image = rng.uniform(-1, 1, (first + count, self.channels, *self.patch_size)).astype(np.float32)
        label = rng.integers(-1, 3, (first + count, *self.patch_size))[first:]
        return PatchBatch(image[first:], label, np.full(count, "a"), np.full(count, 0.5), np.full(count, True))

    def sample(self, n, *, seed, masks=None):
        self.asked.append((n, seed))
        batch = self.batch(0, n)
        return SampleSet(batch.image, batch.label)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("variant", "channels"), [("pair", 2), ("mask", 0), ("image", 2)])
def test_a_preview_shows_real_patches_above_generated_ones(variant, channels, dims):
    plan = tiny_plan(variant, dims, seed=5)
    generator, real = Canned(channels, plan.patch_size, 1), Canned(2, plan.patch_size, 2)
    picture = make_preview(generator, real, plan)
    count = PREVIEW_SAMPLES[dims]
    assert generator.asked == [(count, 5)]
    style = {"low": plan.codec.low, "high": plan.codec.high, "labels": plan.codec.labels}
    patches, drawn = real.batch(0, count // 2), generator.batch(0, count)
    above = overlay_grid(patches.image[:, :channels], patches.label, **style)
    below = overlay_grid(drawn.image, drawn.label, **style)
    assert np.array_equal(picture[: len(above)], above)
    assert np.array_equal(picture[-len(below) :], below)
    assert (picture[len(above) : -len(below)] == 255).all()
    assert len(picture) == len(above) + len(below) + 4 * GAP


def test_a_disk_that_is_full_at_the_last_curves_is_reported(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    board = Board(tmp_path)
    monkeypatch.setattr(SummaryWriter, "close", full)
    with pytest.raises(UserError, match="tensorboard"):
        board.close()
