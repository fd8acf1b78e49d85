"""JSON documents: every mistake in a file is named with its remedy; a file is written whole or not at all."""

import errno
import json
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from stylegan2_cond.documents import Document, write_atomically
from stylegan2_cond.errors import UserError


class Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    momentum: float = 0.9


class Settings(Document):
    remedy: ClassVar[str] = "Type settings --new."
    batch_size: int = 16
    name: str = "grün"
    canvas: tuple[int, ...] = (4, 4)
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
    settings = Settings(batch_size=3, canvas=(48, 32), optimizer=Optimizer(momentum=0.1))
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
    message = refusal(write_settings(tmp_path, bacth_size=3, canvas="large"))
    assert "'bacth_size'" in message
    assert "'canvas'" in message


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
