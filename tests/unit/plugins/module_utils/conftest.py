"""A host for the tests of rollouts, and of what they look at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import memory as memory_module
from ansible_collections.steadfast.asgi.plugins.module_utils import rollout as rollout_module
from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import Rollout
from ansible_collections.steadfast.asgi.tests.unit.fake_host import APP, DEFAULTS, Clock, FakeSystemd, Host, Roll


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(short_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(short_path, clock)
    real = os.replace

    def replace(old: str, new: str) -> None:
        name = f"rename to {os.path.relpath(new, short_path)}"
        host.event(f"before {name}")
        real(old, new)
        host.event(f"after {name}")

    def first(pids: Iterable[int], adjustment: int = 1000) -> None:
        # What runs in the slots is this process.
        host.oom_score.append((sorted(pids), adjustment))

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(memory_module, "first_to_be_killed", first)
    monkeypatch.setattr(rollout_module, "first_to_be_killed", first)
    # On a busy disk the tests would wait for little else.
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    yield host
    host.close()


@pytest.fixture
def roll(host: Host, clock: Clock) -> Roll:
    """Make a rollout of the release with this name; no name is a slot without a release."""

    def make(name: str = "", **params: Any) -> Rollout:
        given = {
            **DEFAULTS,
            "app": APP,
            "check_memory": False,
            "release": host.release(name) if name else None,
            **params,
        }
        return Rollout(given, host.layout, FakeSystemd(host), clock, clock.sleep)

    return make


@pytest.fixture
def at_rest(host: Host, roll: Roll) -> Host:
    """A host that serves release A from slot blue, and nothing else happens on it."""
    roll("A").run()
    host.events.clear()
    return host
