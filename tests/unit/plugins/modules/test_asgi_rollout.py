"""What the module says of a way back that there is not, before it asks systemd for anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import RolloutError
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout, append_history
from ansible_collections.steadfast.asgi.plugins.modules import asgi_rollout

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(asgi_rollout, "Layout", lambda app: Layout(app, str(tmp_path)))
    found = Layout("shop", str(tmp_path))
    os.makedirs(found.slots)
    for name in ("1.3.2-77ab0c12ef45", "1.4.0-9f2c1b7a3d10"):
        release = Path(found.releases, name)
        release.mkdir(parents=True)
        (release / "release.json").write_text("{}", encoding="utf-8")
    return found


@pytest.mark.parametrize("check", [False, True])
def test_a_release_that_is_not_there_is_answered_with_those_that_are(run_module: RunModule, layout: Layout, check: bool) -> None:
    told = run_module(asgi_rollout.main, check=check, app="shop", rollback=True, release=f"{layout.releases}/1.9")
    assert told["failed"] is True
    assert told["msg"].startswith("there is no release 1.9 of shop on this host.")
    assert [line.split()[0] for line in told["msg"].splitlines()[1:]] == ["1.3.2-77ab0c12ef45", "1.4.0-9f2c1b7a3d10"]


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("check", [False, True])
def test_an_application_that_is_not_there_is_answered_with_those_that_are(run_module: RunModule, check: bool) -> None:
    told = run_module(asgi_rollout.main, check=check, app="shpo", rollback=True)
    assert told["failed"] is True
    assert told["msg"] == "there is no application shpo (asgi_app) on this host; it has shop. Correct the name, or deploy it first."


def test_the_beginning_of_an_id_becomes_the_whole_one(layout: Layout) -> None:
    params = {"release": f"{layout.releases}/1.4"}
    asgi_rollout.find_way_back(params, layout)
    assert params["release"] == f"{layout.releases}/1.4.0-9f2c1b7a3d10"
    params = {"release": "/srv/elsewhere"}
    asgi_rollout.find_way_back(params, layout)
    assert params["release"] == "/srv/elsewhere"


PROOF = {"action": "commands", "commands": [["alembic", "upgrade", "head"]], "release": "1.4.0-9f2c1b7a3d10", "result": "ok"}
LIVED = {"action": "rollout", "release": "1.4.0-9f2c1b7a3d10", "result": "ok"}
# What the history says, what the run brings along, whether it is a rollback; and whether the release may go live.
PROOFS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], bool, bool]] = {
    "nothing": ([], {}, False, False),
    "its own history": ([PROOF], {}, False, True),
    "from the host that migrated": ([], PROOF, False, True),
    "of another release": ([], PROOF | {"release": "1.3.2-77ab0c12ef45"}, False, False),
    "of other commands": ([], PROOF | {"commands": [["alembic", "upgrade", "1"]]}, False, False),
    "they failed": ([], PROOF | {"result": "it ended with 1"}, False, False),
    "they failed here": ([PROOF | {"result": "it ended with 1"}], {}, False, False),
    "not of commands": ([], PROOF | {"action": "rollout"}, False, False),
    "a rollback to what was live": ([LIVED], {}, True, True),
    "a rollback to what was replaced": ([LIVED | {"release": "x", "previous": LIVED["release"]}], {}, True, True),
    "a rollback to what never was live": ([], {}, True, False),
    "a rollback to what failed": ([LIVED | {"result": "it did not become ready"}], {}, True, False),
    "a rollback to what has migrated": ([PROOF], {}, True, True),
    "a rollout of what was live": ([LIVED], {}, False, False),
}


@pytest.mark.parametrize("row", PROOFS)
def test_a_release_needs_proof_that_its_migrations_have_run(layout: Layout, row: str) -> None:
    history, migrated, rollback, goes = PROOFS[row]
    for entry in history:
        append_history(layout.history, entry)
    release = f"{layout.releases}/1.4.0-9f2c1b7a3d10"
    params = {"migrations": ["alembic upgrade head"], "migrated": migrated, "release": release, "rollback": rollback}
    if goes:
        assert asgi_rollout.find_proof(params, layout) == (migrated or None)
        return
    with pytest.raises(RolloutError, match=r"the migrations of release 1.4.0-9f2c1b7a3d10 \(asgi_rollout_migrate\) have not run"):
        asgi_rollout.find_proof(params, layout)


def test_without_proof_nothing_is_touched(run_module: RunModule, layout: Layout) -> None:
    before = sorted(Path(layout.root).rglob("*"))
    release = f"{layout.releases}/1.4.0-9f2c1b7a3d10"
    told = run_module(asgi_rollout.main, app="shop", release=release, migrations=[["alembic", "upgrade", "head"]])
    assert told["failed"] is True
    assert "does not go live" in told["msg"]
    assert sorted(Path(layout.root).rglob("*")) == before
