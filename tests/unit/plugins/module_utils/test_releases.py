"""Which release a few letters mean, and what is told of releases and history."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.releases import (
    ReleaseError,
    find_release,
    history_lines,
    no_such_application,
    release_lines,
    releases_of,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout, append_history

IDS = ["1.3.2-77ab0c12ef45", "1.4.0-9f2c1b7a3d10", "1.4.0-9f00000000aa", "1.4.0.1-0123456789ab", "2.0-aaaaaaaaaaaa", "2.0.1-bbbbbbbbbbbb"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An application whose releases were built one an hour, in the order above, and one that was not built to its end."""
    found = Layout("shop", str(tmp_path))
    os.makedirs(found.slots)
    for hour, name in enumerate(IDS):
        release = Path(found.releases, name)
        release.mkdir(parents=True)
        (release / "release.json").write_text(json.dumps({"built": f"2026-11-21T0{hour}:00:00Z"}), encoding="utf-8")
    Path(found.releases, "3.0-cccccccccccc").mkdir()
    return found


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        (IDS[0], IDS[0]),
        ("1.3.2", IDS[0]),
        ("1.3", IDS[0]),
        ("1.4.0-9f2", IDS[1]),
        ("1.4.0.1", IDS[3]),
        ("2.0", IDS[4]),
    ],
)
def test_the_one_that_begins_so_is_meant(layout: Layout, named: str, meant: str) -> None:
    assert find_release(layout, named) == f"{layout.releases}/{meant}"


@pytest.mark.parametrize(
    ("named", "said", "listed"),
    [
        ("1.4.0", "1.4.0 is the beginning of 3 releases of shop", IDS[1:4]),
        ("2", "2 is the beginning of 2 releases of shop", IDS[4:]),
        ("1.9", "there is no release 1.9 of shop", IDS),
        ("3.0", "there is no release 3.0 of shop", IDS),
    ],
)
def test_what_does_not_mean_one_is_refused_with_those_that_there_are(layout: Layout, named: str, said: str, listed: list[str]) -> None:
    with pytest.raises(ReleaseError) as refused:
        find_release(layout, named)
    first, *lines = str(refused.value).splitlines()
    assert first.startswith(said)
    assert sorted(line.split()[0] for line in lines) == sorted(listed)


def test_of_a_release_its_times_are_told(layout: Layout) -> None:
    happened(layout, time="2026-11-21T01:30:00Z", release=IDS[1])
    happened(layout, time="2026-11-21T02:30:00Z", release=IDS[2])
    happened(layout, time="2026-11-21T03:30:00Z", release=IDS[1], action="rollback")
    happened(layout, time="2026-11-21T04:30:00Z", release=IDS[2], result="it ended")
    happened(layout, time="2026-11-21T05:30:00Z", release=IDS[3], action="commands")
    assert release_lines(releases_of(layout), live=IDS[1])[:4] == [
        "1.3.2-77ab0c12ef45    built 2026-11-21T00:00:00Z  never live",
        "1.4.0-9f2c1b7a3d10    built 2026-11-21T01:00:00Z  went live 2026-11-21T03:30:00Z  live",
        "1.4.0-9f00000000aa    built 2026-11-21T02:00:00Z  went live 2026-11-21T02:30:00Z",
        "1.4.0.1-0123456789ab  built 2026-11-21T03:00:00Z  never live",
    ]


def happened(layout: Layout, **entry: Any) -> None:
    append_history(layout.history, {"user": "ada", "action": "rollout", "result": "ok", **entry})


def test_the_history_is_a_table_without_the_ends_of_long_messages() -> None:
    entries = [
        {"time": "2026-11-21T10:30:12Z", "user": "ada", "action": "rollout", "release": "1.3.2-77ab0c12ef45", "result": "ok"},
        {"time": "2026-11-21T11:30:12Z", "user": "grace", "action": "flip back", "release": "1.4", "result": "x" * 100 + "\nmore"},
    ]
    assert history_lines(entries) == [
        "2026-11-21T10:30:12Z  ada    rollout    1.3.2-77ab0c12ef45  ok",
        f"2026-11-21T11:30:12Z  grace  flip back  1.4                 {'x' * 60} ...",
    ]
    assert history_lines([]) == []


def test_an_application_that_is_not_there_is_told_with_those_that_are(layout: Layout) -> None:
    os.makedirs(Layout("ledger", layout.root).slots)
    assert no_such_application(layout) == ""
    said = no_such_application(Layout("legder", layout.root))
    assert said == "there is no application legder (asgi_app) on this host; it has ledger, shop"
