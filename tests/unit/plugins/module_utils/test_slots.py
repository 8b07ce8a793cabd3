"""An application's files on its host: the lock, the links and the history."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.slots import (
    append_history,
    copy_file,
    read_history,
    replace_link,
)

# The link


def test_a_link_is_replaced_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "live"
    replace_link(str(link), "blue")
    replace_link(str(link), "green")
    assert os.readlink(link) == "green"
    # What an interrupted run left in the way is no hindrance, and neither is a target that does not exist.
    for name in os.listdir(tmp_path):
        assert name == "live"

    def fails(_old: str, _new: str) -> None:
        assert os.readlink(link) == "green", "there must be no moment without the link"
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="no space"):
            replace_link(str(link), "blue")
    assert os.readlink(link) == "green"
    replace_link(str(link), "blue")
    assert os.readlink(link) == "blue"


def test_a_directory_is_never_replaced_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "live/kept").write_text("")
    with pytest.raises(OSError, match="directory"):
        replace_link(str(tmp_path / "live"), "blue")
    assert (tmp_path / "live/kept").exists()


# Copies


def test_a_copy_that_is_one_already_is_not_touched(tmp_path: Path) -> None:
    """The time of its last change tells asgi_reload whether the server was started with it."""
    source, target = tmp_path / "next", tmp_path / "blue"
    source.write_text("a")
    assert copy_file(str(source), str(target)) is True
    before = target.stat()
    # The kernel's clock for files goes in steps of a few milliseconds.
    time.sleep(0.05)
    assert copy_file(str(source), str(target)) is False
    assert target.stat().st_ctime_ns == before.st_ctime_ns
    source.chmod(0o640)
    assert copy_file(str(source), str(target)) is False
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_ctime_ns > before.st_ctime_ns


# The history


def test_what_is_appended_is_read_and_a_broken_line_is_passed_over(tmp_path: Path) -> None:
    path = str(tmp_path / "history.jsonl")
    assert read_history(path) == []
    append_history(path, {"release": "A", "result": "ok"})
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"release": "cut o\n[1]\n')
    append_history(path, {"release": "B", "result": "line\nbreak"})
    assert [entry["release"] for entry in read_history(path)] == ["A", "B"]


def test_the_history_is_root_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    # As earlier versions have made it.
    path.write_text('{"release": "A"}\n')
    path.chmod(0o644)
    append_history(str(path), {"release": "B"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    append_history(str(path), {"release": "C"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_was_cut_off_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "history.jsonl")
    append_history(path, {"release": "A", "result": "ok"})
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"release": "B", "res')
    append_history(path, {"release": "C", "result": "ok"})
    assert [entry["release"] for entry in read_history(path)] == ["A", "C"]


def test_a_line_that_the_disk_has_no_room_for_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = str(tmp_path / "history.jsonl"), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:9]))
    with pytest.raises(OSError, match="No space left"):
        append_history(path, {"release": "A", "result": "ok"})
    monkeypatch.undo()
    append_history(path, {"release": "B", "result": "ok"})
    assert [entry["release"] for entry in read_history(path)] == ["B"]
