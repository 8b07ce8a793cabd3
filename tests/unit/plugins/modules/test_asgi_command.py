"""Commands that run once: whether they run is decided by this host's history and lock."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import locked
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout, append_history
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd
from ansible_collections.steadfast.asgi.plugins.modules import asgi_command

RunModule = Callable[..., dict[str, Any]]
DONE = {"action": "commands", "commands": [["alembic", "upgrade", "head"]], "release": "1.4", "result": "ok", "time": "then", "user": "ada"}


class Host:
    """A host with one release, and what was started on it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout("shop", str(root))
        self.release = Path(self.layout.releases, "1.4")
        for path in (self.release, Path(self.layout.slots), root / "run/systemd/system"):
            path.mkdir(parents=True)
        (self.release / "release.json").write_text("{}", encoding="utf-8")
        self.ran: list[list[str]] = []
        self.error = ""
        self.active: set[str] = set()

    def run_in_unit(self, _systemd: Any, _layout: Any, _around: Any, command: list[str], _timeout: int, kind: str = "") -> str:
        assert kind == "once"
        self.ran.append(command)
        if self.error:
            raise CommandError(self.error, "no such table")
        return "upgraded"

    def history(self) -> list[dict[str, Any]]:
        path = Path(self.layout.history)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setattr(asgi_command, "Layout", lambda _app: found.layout)
    monkeypatch.setattr(asgi_command, "run_in_unit", found.run_in_unit)
    monkeypatch.setattr(asgi_command, "survive_disconnect", lambda: None)
    monkeypatch.setattr(Systemd, "show", lambda _self, unit, _name: {"ActiveState": "activating" if unit in found.active else "inactive"})
    return found


@pytest.fixture
def migrate(host: Host, run_module: RunModule) -> RunModule:
    def run(check: bool = False, **more: Any) -> dict[str, Any]:
        given = {"app": "shop", "commands": ["alembic upgrade head"], "release": str(host.release), "once": True, "user": "ada"}
        return run_module(asgi_command.main, check=check, **(given | more))

    return run


def test_the_proof_is_the_line_in_the_history(host: Host, migrate: RunModule) -> None:
    told = migrate()
    assert told["changed"] is True
    assert told["ran"] == host.history()[0]
    again = migrate()
    assert again["changed"] is False
    assert again["ran"] == told["ran"]
    assert host.ran == [["alembic", "upgrade", "head"]]


def test_commands_that_failed_are_no_proof(host: Host, migrate: RunModule) -> None:
    host.error = "'alembic upgrade head' failed: it ended with 1"
    assert "ran" not in migrate()
    told = migrate(expected=True)
    assert told["failed"] is True
    assert "They failed there: 'alembic upgrade head' failed: it ended with 1" in told["msg"]
    assert len(host.ran) == 1


@pytest.mark.parametrize("check", [False, True])
def test_a_host_that_is_only_asked_runs_nothing(host: Host, migrate: RunModule, check: bool) -> None:
    told = migrate(check, expected=True)
    assert told["failed"] is True
    for part in ("It has not run them", "1.4", "asgi_rollout_migrate_host", "--limit"):
        assert part in told["msg"]
    append_history(host.layout.history, DONE)
    assert migrate(check, expected=True)["ran"] == DONE
    assert host.ran == []


@pytest.mark.parametrize(
    "other",
    [
        {"release": "1.3"},
        {"result": "it ended with 1"},
        {"commands": [["alembic", "upgrade", "1"]]},
        {"action": "rollout"},
        {"commands": []},
    ],
    ids=str,
)
def test_another_line_is_no_proof(host: Host, migrate: RunModule, other: dict[str, Any]) -> None:
    append_history(host.layout.history, DONE | other)
    assert migrate()["changed"] is True
    assert len(host.ran) == 1


def test_who_waited_for_the_lock_does_not_run_them_again(host: Host, migrate: RunModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> Any:
        # Somebody else has the lock, and uses it.
        append_history(host.layout.history, DONE)
        return locked(*arguments)

    monkeypatch.setattr(asgi_command, "locked", slow)
    told = migrate()
    assert told["changed"] is False
    assert told["ran"] == DONE
    assert host.ran == []


def test_the_holder_of_the_lock_is_named(host: Host, migrate: RunModule) -> None:
    with open(os.open(host.layout.lock, os.O_RDWR | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
        stream.write('{"user": "grace"}')
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        told = migrate()
    assert told["failed"] is True
    assert "grace" in told["msg"]
    assert host.ran == []


def test_a_command_that_outlived_its_run_is_waited_for_by_people(host: Host, migrate: RunModule) -> None:
    units = Path(f"{host.layout.root}/run/systemd/system")
    for name in ("shop-command-once-7-1.service", "shop-command-8-1.service"):
        (units / name).touch()
        host.active.add(name)
    told = migrate()
    assert told["failed"] is True
    assert "systemctl stop shop-command-once-7-1.service" in told["msg"]
    assert host.ran == []
    # One that somebody runs by hand is not in the way.
    host.active.remove("shop-command-once-7-1.service")
    assert migrate()["changed"] is True
