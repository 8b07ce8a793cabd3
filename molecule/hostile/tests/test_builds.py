"""What became of builds that tried what they must not be able to do. The attempts are in tests/apps/hostile/attempts.py."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import name_of

HOSTILE = Path(__file__).parents[3] / "tests/apps/hostile"


def _attempts() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("hostile_attempts", HOSTILE / "attempts.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return dict(module.ATTEMPTS)


ATTEMPTS = _attempts()
# What a terminal would take for something else than text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def results(host: Host) -> dict[str, Any]:
    path = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"hostile-{name_of(host)}.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def judged(results: dict[str, Any]) -> dict[str, Any]:
    return results["judged"]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_is_refused_or_has_no_effect(results: dict[str, Any], name: str) -> None:
    attempt = ATTEMPTS[name]
    built = results["builds"][attempt.group]
    message = str(built.get("msg", ""))
    assert results["judged"]["targets"][name] == []
    assert "timedout" not in built, "nobody ended it"
    # All of a group are one build.
    assert built["seconds"] <= 2 * max(each.seconds for each in ATTEMPTS.values() if each.group == attempt.group)
    assert not CONTROL.search(message), ascii(message)
    assert not CONTROL.search(str(built.get("diff", {}).get("prepared", "")))
    assert len(message) <= 20_000
    if attempt.expected == "refused":
        assert built.get("failed"), "it was built"
        assert re.search(attempt.message, message, re.IGNORECASE), message
    if built.get("failed"):
        # The controller refuses to look for an application where the source has none.
        assert message.startswith(("The release was not built, and nothing is left of it.", "asgi_release_import_path")), message
    else:
        assert results["judged"]["releases"][built["path"]] == []


def test_the_live_applications_were_left_alone(judged: dict[str, Any]) -> None:
    assert judged["changed"] == []
    assert set(judged["answers"]) == {"200"}


def test_no_build_ran_anything_as_root(judged: dict[str, Any]) -> None:
    assert judged["canary"] == []


def test_nothing_forged_reached_another_application_or_the_host(judged: dict[str, Any]) -> None:
    assert judged["forged"] == []


def test_nothing_was_changed_once_it_was_sealed(judged: dict[str, Any]) -> None:
    assert judged["tampered"] == []


def test_no_file_of_the_host_came_into_a_release(judged: dict[str, Any]) -> None:
    assert (judged["published"], judged["leaked"]) == ([], [])


def test_nothing_of_a_build_is_left_outside_of_releases(judged: dict[str, Any]) -> None:
    assert judged["traces"] == []
    assert judged["survivors"] == []
    assert judged["locks"] == []
    assert judged["incomplete"] == []


def test_every_sealed_release_is_what_a_release_may_be(judged: dict[str, Any]) -> None:
    assert {path: wrong for path, wrong in judged["releases"].items() if wrong} == {}


def test_no_build_reached_what_listens_on_the_host(judged: dict[str, Any]) -> None:
    if judged["filters"] != "works":
        # Where systemd cannot filter addresses the role says so; what it then cannot close is for a host that can to show.
        judged["listener"] = [line for line in judged["listener"] if "127.0.0.1" not in line and "169.254" not in line]
    assert judged["listener"] == []
