"""What is reported of an application: real files and links, and a systemd and a ready check that are played."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Answer, Target
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout, append_history
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd
from ansible_collections.steadfast.asgi.plugins.module_utils.wayback import settings_fingerprint
from ansible_collections.steadfast.asgi.plugins.modules import asgi_info

RETURNED = set(yaml.safe_load(asgi_info.RETURN))


class Played:
    """A host with the units of one application. What runs in its live slot is this process."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout("shop", str(root))
        self.units: dict[str, dict[str, str]] = {}
        self.answer = Answer(200, "ready")
        self.asked: list[tuple[str, str, str, list[int]]] = []

    def release(self, name: str, complete: bool = True) -> None:
        path = Path(self.layout.releases) / name
        path.mkdir(parents=True)
        if complete:
            (path / "release.json").write_text("{}")

    def put(self, slot: str, release: str = "") -> None:
        directory = Path(self.layout.slots) / slot
        directory.mkdir(parents=True, exist_ok=True)
        if release:
            (directory / "release").symlink_to(f"../../releases/{release}")

    def live(self, slot: str) -> None:
        Path(self.layout.live).symlink_to(slot)
        self.units[f"shop@{slot}.service"] = {"ActiveState": "active", "MainPID": str(os.getpid())}

    def happened(self, action: str, release: str, previous: str, result: str = "ok") -> None:
        append_history(self.layout.history, {"action": action, "release": release, "previous": previous, "result": result})

    def systemctl(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = list(command)
        assert words[:2] == ["systemctl", "show"], "nothing else is needed to tell"
        state = {"ActiveState": "inactive", "MainPID": "0", "ControlGroup": "", **self.units.get(words[-1], {})}
        names = words[2].removeprefix("--property=").split(",")
        return subprocess.CompletedProcess(words, 0, "".join(f"{name}={state.get(name, '')}\n" for name in names), "")


class PlayedSystemd(Systemd):
    def processes(self, unit: str) -> list[int]:
        return [os.getpid()] if self.show(unit, "ActiveState")["ActiveState"] == "active" else []


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played(tmp_path)

    def ask(target: Target, _timeout: float, pids: Iterable[int]) -> Answer:
        played.asked.append((target.socket, target.path, target.host, list(pids)))
        return played.answer

    monkeypatch.setattr(Target, "ask", ask)
    return played


Gather = Callable[..., dict[str, Any]]


@pytest.fixture
def gather(played: Played) -> Gather:
    def run(**params: Any) -> dict[str, Any]:
        given = {"app": "shop", "ready_path": "/ready", "ready_host": "localhost", "ready_status": [200], "history": 10, **params}
        found = asgi_info.gather(given, played.layout, PlayedSystemd(played.systemctl))
        assert set(found) == RETURNED, "what is documented is returned, and nothing else"
        return found

    return run


def test_of_a_clean_host_there_is_nothing_to_tell(gather: Gather, played: Played) -> None:
    found = gather()
    assert (found["slot"], found["release"], found["state"], found["ready"]) == ("", "", "", False)
    assert (found["releases"], found["history"], found["previous"]) == ([], [], "")
    assert found["problem"] == "there is no application shop (asgi_app) on this host; it has none"
    assert played.asked == []


def test_what_is_live_is_told(gather: Gather, played: Played) -> None:
    for name in ("A", "B"):
        played.release(name)
    played.release("C", complete=False)
    played.put("blue", "A")
    played.put("green", "B")
    played.live("green")
    played.happened("rollout", "A", "")
    played.happened("rollout", "B", "A")
    with subprocess.Popen(["sleep", "60"]) as worker:
        found = gather(ready_path="/healthz", ready_host="example.org")
        worker.kill()
    assert (found["slot"], found["release"], found["state"], found["previous"]) == ("green", "B", "active", "A")
    assert [release["id"] for release in found["releases"]] == ["A", "B"], "what is complete"
    assert [line.split()[0] for line in found["release_lines"]] == ["A", "B"]
    assert found["release_lines"][1].endswith("  live")
    assert found["problem"] == ""
    assert worker.pid in found["workers"]
    assert found["memory"] > 1 << 20
    assert 0 <= found["uptime"] <= time.monotonic()
    assert (found["answer"], found["ready"], found["draining"]) == ("200 ready", True, False)
    assert played.asked == [(played.layout.socket("green"), "/healthz", "example.org", [os.getpid()])]


def test_a_slot_need_not_run_a_release(gather: Gather, played: Played) -> None:
    played.put("blue")
    played.live("blue")
    found = gather()
    assert (found["slot"], found["release"], found["ready"]) == ("blue", "", True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(503, "migrations are missing"), "503 migrations are missing"),
        (Answer(error="ConnectionRefusedError"), "ConnectionRefusedError"),
    ],
)
def test_what_is_not_ready_is_told_with_its_words(gather: Gather, played: Played, answer: Answer, said: str) -> None:
    played.put("blue")
    played.live("blue")
    played.answer = answer
    found = gather()
    assert (found["answer"], found["ready"]) == (said, False)


def test_a_stopped_slot_is_not_asked_since_that_would_start_it(gather: Gather, played: Played) -> None:
    played.put("blue")
    played.live("blue")
    played.units["shop@blue.service"] = {"ActiveState": "failed", "MainPID": "0"}
    found = gather()
    assert (found["slot"], found["state"], found["ready"], found["answer"]) == ("blue", "failed", False, "")
    assert (found["workers"], found["memory"], found["uptime"]) == ([], 0, 0)
    assert played.asked == []


def test_a_slot_that_drains_is_told(gather: Gather, played: Played) -> None:
    played.put("blue")
    played.put("green")
    played.live("blue")
    played.units["shop-drain-blue.service"] = {"ActiveState": "active"}
    assert gather()["draining"] is False, "that is not the other one"
    played.units["shop-drain-green.service"] = {"ActiveState": "active"}
    assert gather()["draining"] is True


@pytest.mark.parametrize(
    ("directive", "told"),
    [("LoadCredentialEncrypted=a:/etc/a", "encrypted"), ("LoadCredential=a:/etc/a", "plain"), ("User=shop", "")],
)
def test_how_credentials_are_kept_is_told(gather: Gather, played: Played, directive: str, told: str) -> None:
    played.put("blue")
    played.live("blue")
    unit = Path(played.layout.unit_file("blue", "service"))
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\n{directive}\n")
    assert gather()["credentials"] == told


def test_a_release_that_was_rolled_back_is_withdrawn(gather: Gather, played: Played) -> None:
    for name in ("A", "B"):
        played.release(name)
    played.put("blue", "A")
    played.live("blue")
    played.happened("rollout", "A", "")
    played.happened("rollout", "B", "A")
    played.happened("rollout", "gone", "B")
    played.happened("rollback", "B", "gone")
    played.happened("rollback", "A", "B")
    found = gather()
    assert (found["withdrawn"], found["previous"]) == (["B"], ""), "and what is gone is not worth telling"


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (2, ["2", "3"]), (10, ["1", "2", "3"])])
def test_as_much_of_the_history_is_told_as_was_asked_for(gather: Gather, played: Played, limit: int, expected: list[str]) -> None:
    os.makedirs(played.layout.slots)
    for name in ("1", "2", "3"):
        played.happened("rollout", name, "")
    assert [entry["release"] for entry in gather(history=limit)["history"]] == expected


def test_the_module_changes_nothing_and_names_what_it_cannot_read(
    run_module: Gather, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_info, "Layout", lambda _app: played.layout)
    monkeypatch.setattr(asgi_info, "Systemd", lambda: PlayedSystemd(played.systemctl))
    played.put("blue")
    played.live("blue")
    for check in (False, True):
        assert run_module(asgi_info.main, check=check, app="shop")["changed"] is False
    os.unlink(played.layout.live)
    os.symlink("elsewhere", played.layout.live)
    failed = run_module(asgi_info.main, app="shop")
    assert failed["failed"] is True
    assert "make it a link to blue or green" in failed["msg"]


def test_what_is_wrong_and_who_changes_the_units_is_told(played: Played, gather: Gather, tmp_path: Path) -> None:
    played.release("A")
    played.put("blue", "A")
    played.put("green")
    played.live("blue")
    drop_in = tmp_path / "override.conf"
    drop_in.write_text("[Service]\nEnvironment=A=1\n")
    played.units["shop@blue.service"]["DropInPaths"] = str(drop_in)
    found = gather()
    assert any("blue/socket is missing, and has to be a link to" in what for what in found["wrong"])
    assert found["drop_ins"] == {str(drop_in): ["Environment"]}


def test_the_way_back_is_told_with_its_settings(played: Played, gather: Gather) -> None:
    """Both are of one release, so that only the settings tell them apart."""
    played.release("A")
    for slot, text in (("blue", "a"), ("green", "b")):
        played.put(slot, "A")
        settings = Path(played.layout.settings(slot))
        settings.mkdir(parents=True)
        (settings / "env").write_text(text)
    old, new = (settings_fingerprint(played.layout.settings(slot)) for slot in ("blue", "green"))
    lines: list[dict[str, str]] = [
        {"time": "1", "action": "rollout", "release": "A", "settings": old, "previous": "", "previous_settings": "", "run": "first"},
        {"time": "2", "action": "rollout", "release": "A", "settings": new, "previous": "A", "previous_settings": old, "run": "second"},
    ]
    for line in lines:
        append_history(played.layout.history, line | {"result": "ok"})
    played.live("green")
    found = gather()
    assert (found["previous"], found["previous_settings"], found["way_back"]) == ("A", old, "A with the settings of 1")
    assert found["live_run"] == {"run": "second", "time": "2"}
