"""An application's files on its host: the lock, the links and the history."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.slots import (
    append_history,
    copy_file,
    failed_releases,
    previous_release,
    read_history,
    replace_link,
)


class Clock:
    """Time that passes only while somebody sleeps. `while_asleep` is what happens meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.while_asleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_asleep()


@pytest.fixture
def clock() -> Clock:
    return Clock()


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


def deployed(*releases: str) -> list[dict[str, Any]]:
    """The history of these releases, deployed one after the other.

    `-X` is a rollback to X, `!X` one that failed, `?X` one whose run was killed before it wrote its line.
    """
    history: list[dict[str, Any]] = []
    live = ""
    for word in releases:
        name = word.lstrip("-!?")
        result = "it did not come up" if word.startswith("!") else "ok"
        action = "rollback" if word.startswith("-") else "rollout"
        if not word.startswith("?"):
            history.append({"action": action, "release": name, "previous": live, "result": result})
        live = name if result == "ok" else live
    return history


@pytest.mark.parametrize(
    ("history", "current", "expected"),
    [
        (["A", "B"], "B", "A"),
        (["A", "B", "C"], "C", "B"),
        (["A"], "A", ""),
        ([], "", ""),
        # What never went live is nothing to go back to.
        (["A", "!B", "C"], "C", "A"),
        # Not forth again to what was rolled back, however often it is asked for ...
        (["A", "B", "-A"], "A", ""),
        (["A", "B", "C", "-B"], "B", "A"),
        # ... until it is deployed anew.
        (["A", "B", "-A", "B", "C"], "C", "B"),
        # The same release once more (another environment) is no other release.
        (["A", "B", "B"], "B", "A"),
        # Whoever made B live was killed, as in its bake time, or the host went down.
        (["A", "?B", "C"], "C", "B"),
        (["A", "?B", "-A"], "A", ""),
    ],
)
def test_the_release_to_go_back_to(history: list[str], current: str, expected: str) -> None:
    assert previous_release(deployed(*history), current, lambda _: True) == expected


def test_a_release_that_is_gone_or_was_flipped_back_is_passed_over() -> None:
    history = deployed("A", "B", "C", "D")
    assert previous_release(history, "D", lambda name: name != "C") == "B"
    history.insert(3, {"action": "flip back", "release": "C", "previous": "B", "result": "the ready check failed"})
    assert previous_release(history, "D", lambda _: True) == "B"


def test_a_release_that_failed_first_and_then_left_no_line_has_not_failed() -> None:
    assert failed_releases(deployed("A", "!B", "!C", "?B", "D")) == {"C"}


def test_a_reload_is_no_release() -> None:
    history = [*deployed("A", "B"), {"action": "reload", "release": "X", "previous": "B", "result": "ok"}]
    assert previous_release(history, "B", lambda _: True) == "A"
