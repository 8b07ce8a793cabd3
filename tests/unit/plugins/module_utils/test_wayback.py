"""What was live before, by the history, and the settings that are kept for it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import wayback
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout
from ansible_collections.steadfast.asgi.plugins.module_utils.wayback import (
    Host,
    State,
    WayBackError,
    Withdrawn,
    failed_releases,
    find_settings,
    forget_settings,
    keep_settings,
    last_state,
    needed_settings,
    previous_state,
    replaced_by,
    run_in_effect,
    settings_fingerprint,
)

ALL = Host(complete=lambda _: True, kept=lambda _: True)


def deployed(*events: str) -> list[dict[str, Any]]:
    """The history of these releases, deployed one after the other.

    `X1` is release X with settings 1, `X` has settings that are not known; `-X` is a rollback to X, `!X` one that failed, `?X` one whose
    run was killed before it wrote its line, `<X` one that failed in its bake time, `~X` a reload, `@r` makes what follows run r.
    """
    history: list[dict[str, Any]] = []
    live, run = "", ""
    for word in events:
        if word.startswith("@"):
            run = word[1:]
            continue
        name = word.lstrip("-!?<~")
        result = "it did not come up" if word[0] in "!<" else "ok"
        action = {"-": "rollback", "<": "flip back", "~": "reload"}.get(word[0], "rollout")
        entry = {"action": action, "release": name[:1], "previous": live[:1], "result": result, "time": f"time {len(history)}"}
        if name[1:]:
            entry |= {"settings": name[1:], "previous_settings": live[1:]}
        if run:
            entry["run"] = run
        if not word.startswith("?"):
            history.append(entry)
        live = name if result == "ok" else live
    return history


def state(word: str) -> State:
    return State(word[:1], word[1:])


@pytest.mark.parametrize(
    ("history", "current", "expected"),
    [
        ("A B", "B", "A"),
        ("A B C", "C", "B"),
        ("A", "A", None),
        ("", "", None),
        # What never went live is nothing to go back to.
        ("A !B C", "C", "A"),
        # Not forth again to what was rolled back, however often it is asked for ...
        ("A B -A", "A", None),
        ("A B C -B", "B", "A"),
        # ... until it is deployed anew.
        ("A B -A B C", "C", "B"),
        # The same release once more, with settings that an older version did not note, is no other release.
        ("A B B", "B", "A"),
        # Whoever made B live was killed, as in its bake time, or the host went down.
        ("A ?B C", "C", "B"),
        ("A ?B -A", "A", None),
        # Settings are something to go back from, and to.
        ("A1 A2", "A2", "A1"),
        ("A1 A2 A3", "A3", "A2"),
        ("A1 A2 -A1", "A1", None),
        ("A1 A2 A3 -A2", "A2", "A1"),
        ("A1 A2 A3 -A2 -A1", "A1", None),
        ("A1 A2 -A1 A2", "A2", "A1"),
        ("A1 A2 -A1 A3", "A3", "A1"),
        ("A1 B1 B2", "B2", "B1"),
        ("A1 B1 B2 -B1", "B1", "A1"),
        ("A1 B1 B2 -B1 -A1", "A1", None),
        ("A1 B2", "B2", "A1"),
        # By a reload, or with the certificate alone.
        ("A1 ~A2", "A2", "A1"),
        ("A1 B1 ~B1", "B1", "A1"),
        ("A1 ~A1", "A1", None),
        # Away from a release is away from all of it.
        ("A1 B1 B2 -A1", "A1", None),
        # And what fails in its bake time with other settings was not a bad release.
        ("A1 B1 <B2 C1", "C1", "B1"),
        ("A1 B1 <C1", "B1", "A1"),
        ("A1 A2 <A3", "A2", "A1"),
        ("A1 !A2", "A1", None),
        # After an update of the collection: the first line with settings knows those of before too.
        ("A B", "B1", "A"),
        ("A B B1", "B1", "A"),
    ],
)
def test_what_to_go_back_to(history: str, current: str, expected: str | None) -> None:
    found = previous_state(deployed(*history.split()), state(current), ALL)
    assert found == (expected and state(expected))


def test_without_releases_settings_alone_are_gone_back_to() -> None:
    history = [
        {"action": "rollout", "release": "", "settings": "1", "previous": "", "previous_settings": "", "result": "ok"},
        {"action": "rollout", "release": "", "settings": "2", "previous": "", "previous_settings": "1", "result": "ok"},
    ]
    assert previous_state(history, State("", "2"), ALL) == State("", "1")
    assert previous_state(history, State("", "1"), ALL) == State("", "2")
    history.append({"action": "rollback", "release": "", "settings": "1", "previous": "", "previous_settings": "2", "result": "ok"})
    assert previous_state(history, State("", "1"), ALL) is None


@pytest.mark.parametrize(
    ("history", "current", "gone", "expected"),
    [
        ("A B C D", "D", "C", "B"),
        ("A1 B2", "B2", "A", None),
        # Without its settings there still is the release.
        ("A1 B2", "B2", "1", "A"),
        # But not where it is the same.
        ("A1 A2", "A2", "1", None),
        ("A1 B1 B2 B3", "B3", "2", "B1"),
        ("A1 B2 B3", "B3", "2", "A1"),
    ],
)
def test_what_is_gone_is_passed_over(history: str, current: str, gone: str, expected: str | None) -> None:
    host = Host(complete=lambda name: name != gone, kept=lambda value: value != gone)
    found = previous_state(deployed(*history.split()), state(current), host)
    assert found == (expected and state(expected))


@pytest.mark.parametrize(
    ("history", "named", "expected"),
    [
        ("A1 B2 C3", "A", "A1"),
        ("A1 A2 B3", "A", "A2"),
        ("A1 A2 -A1 B3", "A", "A1"),
        # Rolled back from as a release: whoever names it wants it all the same.
        ("A1 B2 -A1", "B", "B2"),
        ("A B C3", "A", "A"),
        # Never live.
        ("A1 !B2", "B", "B"),
        ("A1 B2", "B", "B2"),
    ],
)
def test_a_release_by_name_comes_with_the_settings_that_it_last_ran_with(history: str, named: str, expected: str) -> None:
    told = deployed(*history.split())
    current = [word.lstrip("-") for word in history.split() if not word.startswith("!")][-1]
    assert last_state(told, named, state(current), ALL) == state(expected)


def test_a_release_that_is_gone_or_was_flipped_back_is_passed_over() -> None:
    history = deployed("A", "B", "C", "D")
    history.insert(3, {"action": "flip back", "release": "C", "previous": "B", "result": "the ready check failed"})
    assert previous_state(history, State("D"), ALL) == State("B")
    assert Withdrawn.by(history).releases == {"C"}


def test_a_release_that_failed_first_and_then_left_no_line_has_not_failed() -> None:
    assert failed_releases(deployed("A", "!B", "!C", "?B", "D")) == {"C"}


def test_a_reload_is_no_release() -> None:
    history = [*deployed("A", "B"), {"action": "reload", "release": "X", "previous": "B", "result": "ok"}]
    assert previous_state(history, State("B"), ALL) == State("A")


# What a run replaced


@pytest.mark.parametrize(
    ("history", "run", "current", "expected", "why"),
    [
        ("@1 A1 @2 B1 @3 C1", "3", "C1", "B1", ""),
        # It failed here, or came to nothing else than there was.
        ("@1 A1 @2 B1 @3 !C1", "3", "B1", None, "replaced nothing"),
        ("@1 A1 @2 B1 @3 <C1", "3", "B1", None, "replaced nothing"),
        ("@1 A1 @2 B1 @3 ~B1", "3", "B1", None, "replaced nothing"),
        ("@1 A1 @2 B1", "3", "B1", None, "replaced nothing"),
        ("A B", "3", "B", None, "replaced nothing"),
        # It was rolled back already, once, or twice.
        ("@1 A1 @2 B1 @3 C1 @4 -B1", "3", "B1", None, "was rolled back"),
        ("@1 A1 @2 B1 @3 C1 @4 -B1 @5 -A1", "3", "A1", None, "was rolled back"),
        ("@1 A1 @2 B1 @3 C1 @4 -B1", "2", "B1", "A1", ""),
        # Twice in one run.
        ("@1 A1 @2 B1 B2", "2", "B2", "A1", ""),
        ("@1 A1 @2 B1 ~B2 ~B2", "2", "B2", "A1", ""),
        # Settings alone.
        ("@1 A1 @2 A2", "2", "A2", "A1", ""),
        # A failed attempt afterwards is none.
        ("@1 A1 @2 B1 @3 !C1", "2", "B1", "A1", ""),
        # By a playbook that gives no run.
        ("@1 A1 @2 B1 -A1", "2", "A1", None, "was rolled back"),
    ],
)
def test_what_a_run_replaced(history: str, run: str, current: str, expected: str | None, why: str) -> None:
    found, told = replaced_by(deployed(*history.split()), run, state(current), ALL)
    assert found == (expected and state(expected))
    assert why in told
    assert bool(told) == (found is None)


@pytest.mark.parametrize(
    ("history", "run", "current", "host", "message"),
    [
        ("@1 A1 @2 B1 @3 C1", "2", "C1", ALL, "run 3 has replaced it"),
        ("@1 A1 @2 B1 C1", "1", "C1", ALL, "run 2 has replaced it"),
        ("@1 A1", "1", "A1", ALL, "nothing was live before it"),
        ("@1 A1 @2 B1", "2", "B1", Host(lambda _: False, lambda _: True), "A or its settings are not there any more"),
        ("@1 A1 @2 A2", "2", "A2", Host(lambda _: True, lambda _: False), "A or its settings are not there any more"),
    ],
)
def test_what_a_run_replaced_is_refused_by_name_where_it_is_not_to_be_had(
    history: str, run: str, current: str, host: Host, message: str
) -> None:
    with pytest.raises(WayBackError, match=message):
        replaced_by(deployed(*history.split()), run, state(current), host)


@pytest.mark.parametrize(
    ("history", "current", "run"),
    [
        ("@1 A1 @2 B1", "B1", "2"),
        ("@1 A1 @2 B1 @3 !C1", "B1", "2"),
        ("@1 A1 @2 B1 @3 C1 @4 -B1", "B1", "2"),
        ("@1 A1 @2 B1 @3 C1 @4 -B1 @5 -A1", "A1", "1"),
        ("@1 A1 @2 A2 @3 ~A2", "A2", "2"),
        ("@1 A1 @2 B1 @3 A1", "A1", "3"),
        # By name, forth again.
        ("@1 A1 @2 B1 @3 -A1 @4 -B1", "B1", "4"),
        ("A B", "B", ""),
        # Killed before it wrote its line.
        ("@1 A1 @2 ?B1", "B1", ""),
        ("", "", ""),
    ],
)
def test_the_run_in_effect(history: str, current: str, run: str) -> None:
    assert (run_in_effect(deployed(*history.split()), state(current)) or {}).get("run", "") == run


# What is kept


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout("shop", str(tmp_path))
    for slot in ("blue", "green"):
        os.makedirs(layout.settings(slot))
        os.chmod(layout.settings(slot), 0o710)  # noqa: S103
    return layout


def write(layout: Layout, slot: str, text: str) -> str:
    path = Path(layout.settings(slot)) / "env"
    path.write_text(text)
    path.chmod(0o640)
    return layout.settings(slot)


def test_settings_are_kept_for_root_alone_and_as_they_were(layout: Layout) -> None:
    value = keep_settings(layout, write(layout, "blue", "SECRET=1"))
    found = find_settings(layout, value)
    assert settings_fingerprint(found) == settings_fingerprint(layout.settings("blue")) == value
    assert stat.S_IMODE(os.stat(layout.old_settings).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(found).st_mode) == 0o710
    assert stat.S_IMODE(os.stat(f"{found}/env").st_mode) == 0o640
    before = os.stat(found).st_ctime_ns
    assert keep_settings(layout, layout.settings("blue")) == value
    assert os.stat(found).st_ctime_ns == before


def test_what_was_changed_among_what_is_kept_is_not_used(layout: Layout) -> None:
    value = keep_settings(layout, write(layout, "blue", "a"))
    (Path(layout.old_settings) / value / "env").write_text("b")
    assert find_settings(layout, value) == layout.settings("blue")
    write(layout, "blue", "c")
    assert find_settings(layout, value) == ""
    assert keep_settings(layout, write(layout, "blue", "a")) == value
    assert find_settings(layout, value) == f"{layout.old_settings}/{value}"
    assert find_settings(layout, "") == find_settings(layout, "0" * 64) == ""


def test_nothing_is_left_of_a_copy_that_failed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        keep_settings(layout, write(layout, "blue", "a"))
    assert not os.path.exists(layout.old_settings)
    assert keep_settings(layout, layout.settings("green")) == "", "there are none"


@pytest.mark.parametrize(
    ("history", "complete", "expected"),
    [
        ("A1 A2 A3", "A", "1 2 3"),
        ("A1 A2 A3 A4 A5 A6 A7", "A", "3 4 5 6 7"),
        # The last of each release that is there.
        ("A1 B2 B3 B4 B5 B6 B7", "AB", "1 3 4 5 6 7"),
        ("A1 B2 B3 B4 B5 B6 B7", "B", "3 4 5 6 7"),
        ("A1 B1 C1", "ABC", "1"),
        ("A B C", "ABC", ""),
    ],
)
def test_which_settings_are_kept(history: str, complete: str, expected: str) -> None:
    assert needed_settings(deployed(*history.split()), lambda name: name in complete) == set(expected.split())
    assert wayback.KEPT == 5


def test_settings_that_nothing_needs_are_removed(layout: Layout) -> None:
    one, two = (keep_settings(layout, write(layout, "blue", text)) for text in "ab")
    (Path(layout.old_settings) / "half.new").mkdir()
    forget_settings(layout, {two})
    assert os.listdir(layout.old_settings) == [two]
    assert one != two
    shutil.rmtree(layout.old_settings)
    forget_settings(layout, set())
