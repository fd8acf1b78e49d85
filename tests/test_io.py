"""JSON documents: every mistake in a file is named with its remedy; a file is written whole or not at all."""

import errno
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from stylegan2_cond.errors import UserError
from stylegan2_cond.io import Document, Record, checksum, read_json, write_atomically


class Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    momentum: float = 0.9


class Settings(Document):
    remedy: ClassVar[str] = "Type settings --new."
    batch_size: int = 16
    name: str = "grün"
    patch_size: tuple[int, ...] = (4, 4)
    optimizer: Optimizer = Optimizer()


def write_settings(folder, **changes):
    path = folder / "settings.json"
    path.write_text(json.dumps({"format_version": 1, **changes}))
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        Settings.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "Type settings --new." in message
    return message


# --- reading


def test_a_document_comes_back_as_it_was_saved(tmp_path):
    settings = Settings(batch_size=3, patch_size=(48, 32), optimizer=Optimizer(momentum=0.1))
    settings.save(tmp_path / "new" / "folder" / "settings.json")
    assert Settings.load(tmp_path / "new" / "folder" / "settings.json") == settings


def test_an_unknown_key_is_named_with_the_nearest_one_that_exists(tmp_path):
    message = refusal(write_settings(tmp_path, bacth_size=3))
    assert "unknown key 'bacth_size'" in message
    assert "did you mean 'batch_size'" in message


def test_an_unknown_key_that_resembles_none_is_named_without_a_guess(tmp_path):
    message = refusal(write_settings(tmp_path, zzz=3))
    assert "unknown key 'zzz'" in message
    assert "did you mean" not in message


def test_an_unknown_key_within_a_part_is_compared_with_the_keys_of_that_part(tmp_path):
    message = refusal(write_settings(tmp_path, optimizer={"momentun": 0.5}))
    assert "unknown key 'optimizer.momentun'" in message
    assert "momentum'?" in message


def test_every_problem_is_named_at_once(tmp_path):
    message = refusal(write_settings(tmp_path, bacth_size=3, patch_size="large"))
    assert "'bacth_size'" in message
    assert "'patch_size'" in message


@pytest.mark.parametrize("value", ["many", None, 1.5, [16], "16", True])
def test_a_value_of_the_wrong_type_is_named_with_its_key(tmp_path, value):
    message = refusal(write_settings(tmp_path, batch_size=value))
    assert "key 'batch_size'" in message
    assert str(value) in message


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_format_version_is_refused_and_both_are_named(tmp_path, version):
    message = refusal(write_settings(tmp_path, format_version=version))
    assert repr(version) in message
    assert "reads 1" in message


@pytest.mark.parametrize("content", ["[]", "3", "{}"])
def test_a_file_without_a_format_version_is_refused(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    assert "format_version" in refusal(tmp_path / "settings.json")


@pytest.mark.parametrize("length", [0, 1, 20])
def test_a_file_that_was_cut_off_is_refused(tmp_path, length):
    path = write_settings(tmp_path, batch_size=3)
    path.write_text(path.read_text()[:length])
    assert "not valid JSON" in refusal(path)


def test_a_file_of_bytes_that_are_no_text_is_refused(tmp_path):
    (tmp_path / "settings.json").write_bytes(b"\xff\xfe\x80")
    assert "not valid JSON" in refusal(tmp_path / "settings.json")


def test_a_missing_file_is_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "settings.json")


def folder_in_place(path):
    path.mkdir()


def loop_of_links(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    "make",
    [
        folder_in_place,
        loop_of_links,
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"format_version": 1, "batch_size": ' + "9" * 6_000 + "}"),
        lambda path: path.write_text('{"format_version": 1, "batch_size": ' + "[" * 150 + "]" * 150 + "}"),
        lambda path: path.write_bytes(b"\0" * 40),
        lambda path: path.write_text("\ufeff{}"),
    ],
    ids=["folder", "loop", "nested", "digits", "list", "zeros", "mark"],
)
def test_whatever_lies_in_place_of_a_document_is_refused(tmp_path, make):
    make(tmp_path / "settings.json")
    assert "\n" not in refusal(tmp_path / "settings.json")


def test_a_name_that_no_file_can_have_is_refused():
    for name in ("a\0b", "a" * 300, "/dev/null/settings.json"):
        with pytest.raises(UserError, match="a file of mine"):
            read_json(name, "Choose a file of mine.")


def test_nan_is_read_where_another_program_wrote_it(tmp_path):
    (tmp_path / "summary.json").write_text('{"Dice": NaN}')
    assert math.isnan(read_json(tmp_path / "summary.json", "")["Dice"])


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(tmp_path, number):
    path = tmp_path / "settings.json"
    path.write_text('{"format_version": 1, "optimizer": {"momentum": %s}}' % number)  # noqa: UP031
    assert "optimizer.momentum" in refusal(path)


@pytest.mark.parametrize(
    "change", [{"optimizer": Optimizer(momentum=math.inf)}, {"batch_size": "many"}, {"patch_size": (4, math.nan)}]
)
def test_a_copy_that_could_not_be_read_again_is_not_saved(tmp_path, change):
    Settings(batch_size=3).save(tmp_path / "settings.json")
    with pytest.raises(UserError, match=next(iter(change))):
        Settings().model_copy(update=change).save(tmp_path / "settings.json")
    assert Settings.load(tmp_path / "settings.json").batch_size == 3


# --- records


class Seen(Record):
    remedy: ClassVar[str] = "Count again."
    cases: tuple[str, ...] = ("first", "grün")
    share: float = 0.1


def test_a_record_comes_back_as_it_was_saved_and_in_any_order_of_keys(tmp_path):
    path = tmp_path / "seen.json"
    Seen(share=1e-7).save(path)
    assert Seen.load(path) == Seen(share=1e-7)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert Seen.load(path) == Seen(share=1e-7)


def test_no_flipped_bit_of_a_record_passes_unless_it_changes_nothing(tmp_path):
    path = tmp_path / "seen.json"
    Seen().save(path)
    written, refused = path.read_bytes(), 0
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert Seen.load(path) == Seen()
        except UserError:
            refused += 1
    assert refused > 0.9 * len(written)


def test_a_record_that_was_edited_is_refused_and_one_whose_checksum_was_renewed_is_read(tmp_path):
    path = tmp_path / "seen.json"
    Seen().save(path)
    content = json.loads(path.read_text()) | {"cases": []}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"seen\.json.*checksum.*Count again"):
        Seen.load(path)
    path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    assert Seen.load(path).cases == ()


def test_a_record_without_a_checksum_is_refused(tmp_path):
    (tmp_path / "seen.json").write_text('{"format_version": 1}')
    with pytest.raises(UserError, match="checksum"):
        Seen.load(tmp_path / "seen.json")


# --- writing


class Cut(Exception):
    """Something that goes wrong in the middle of writing."""


def test_the_old_content_stands_until_the_block_ends_and_the_new_one_after(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        with write_atomically(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"  # who was reading goes on with the old file, not with a mixture
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [Cut, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_content_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half():
        with write_atomically(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_full_disk_or_a_forbidden_folder_is_an_error_to_read_that_names_the_file(tmp_path, monkeypatch, code):
    path = tmp_path / "settings.json"
    Settings(batch_size=3).save(path)

    def fail(temporary, text, *args, **kwargs):
        temporary.write_bytes(text.encode()[:5])
        raise OSError(code, "simulated")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(UserError, match=r"settings\.json"):
        Settings(batch_size=4).save(path)
    assert Settings.load(path).batch_size == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_disk_is_an_error_to_read_though_nothing_can_be_removed_there(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # Linux refuses this too, even for a file that is not there
    with pytest.raises(UserError, match=r"settings\.json"):
        Settings().save(tmp_path / "settings.json")


def test_an_error_that_a_user_cannot_mend_comes_back_unchanged(tmp_path):
    error = OSError(errno.EIO, "simulated")
    with pytest.raises(OSError, match="simulated") as caught, write_atomically(tmp_path / "file"):
        raise error
    assert caught.value is error


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_of_a_file_is_removed_when_the_file_is_written_again(tmp_path):
    host, dead = socket.gethostname(), ended_process()
    gone = [tmp_path / f".file.{dead}.{host}.tmp", tmp_path / f".file.{dead}.elsewhere.tmp"]
    stays = [
        tmp_path / f".file.{os.getppid()}.{host}.tmp",  # being written
        tmp_path / f".file.{dead}.another.tmp",  # a process of another machine may be alive
        tmp_path / f".file.more.{dead}.{host}.tmp",  # of another file
        tmp_path / ".file.mine.tmp",
    ]
    for path in gone + stays:
        path.write_text("half")
    os.utime(gone[1], (time.time() - 2 * 24 * 3600,) * 2)
    Settings().save(tmp_path / "file")
    assert sorted(tmp_path.iterdir()) == sorted([*stays, tmp_path / "file"])


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_after_the_next_write(tmp_path):
    code = (
        "import os, signal, sys\nfrom stylegan2_cond.io import write_atomically\n"
        "with write_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "file"], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    Settings().save(tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_file_and_folder_are_on_the_disk_before_and_after_the_new_name(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.fstat(number).st_ino), sync(number)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("renamed"), replace(old, new)))
    Settings().save(tmp_path / "file")
    assert done == [(tmp_path / "file").stat().st_ino, "renamed", tmp_path.stat().st_ino]


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "folder", "a" * 300, "/dev/null/x", "/proc/nothing/x"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / place))):
        Settings().save(tmp_path / place)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_moved_while_a_file_is_written_is_named(tmp_path):
    def write():
        with write_atomically(tmp_path / "folder" / "file") as temporary:
            temporary.write_text("new")
            (tmp_path / "folder").rename(tmp_path / "moved")

    with pytest.raises(UserError, match=str(tmp_path / "folder")):
        write()
    assert not (tmp_path / "folder").exists()


def test_a_key_with_a_line_break_is_told_in_one_line(tmp_path):
    assert "\n" not in refusal(write_settings(tmp_path, **{"a\nb": 1}))


def test_a_list_of_numbers_takes_one_line_of_a_file_and_texts_stay_as_they_are(tmp_path):
    class Table(Document):
        rows: tuple[tuple[float | None, ...], ...]
        note: str

    table = Table(rows=((1.0, None, -0.5), (2e-9, 3.0, None)), note="[ 1, 2 ]")
    table.save(tmp_path / "table.json")
    text = (tmp_path / "table.json").read_text()
    assert "[1.0,null,-0.5]" in text
    assert '"[ 1, 2 ]"' in text
    assert Table.load(tmp_path / "table.json") == table
