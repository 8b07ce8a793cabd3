"""Which releases stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout
from ansible_collections.steadfast.asgi.plugins.modules import asgi_prune

Prune = Callable[..., dict[str, Any]]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Six releases, 1 the oldest; 1 was live before 3, which is live; 2 was withdrawn."""
    layout = Layout("shop", str(tmp_path))
    monkeypatch.setattr(asgi_prune, "Layout", lambda app: Layout(app, str(tmp_path)))
    (tmp_path / "run").mkdir()
    for number in range(1, 7):
        release = Path(layout.releases, str(number))
        (release / "app").mkdir(parents=True)
        (release / "release.json").write_text(json.dumps({"built": f"2026-01-0{number}"}))
    (tmp_path / "opt/shop/slots/blue").mkdir(parents=True)
    (tmp_path / "opt/shop/slots/live").symlink_to("blue")
    (tmp_path / "opt/shop/slots/blue/release").symlink_to("../../releases/3")
    events = [("1", "rollout"), ("2", "rollout"), ("1", "rollback"), ("3", "rollout")]
    before = ["", "1", "2", "1"]
    lines = [
        {"release": name, "action": action, "previous": old, "result": "ok"} for (name, action), old in zip(events, before, strict=True)
    ]
    Path(layout.history).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return layout


@pytest.fixture
def prune(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> Prune:
    def run(**arguments: Any) -> dict[str, Any]:
        return run_module(asgi_prune.main, **{"app": "shop", "cache": str(tmp_path / "cache"), **arguments})

    return run


def left(layout: Layout) -> list[str]:
    return sorted(path.name for path in Path(layout.releases).iterdir())


def test_the_newest_the_live_one_and_the_way_back_stay(prune: Prune, layout: Layout) -> None:
    assert prune(keep=2, check=True)["removed"] == ["2", "4"]
    assert len(left(layout)) == 6
    result = prune(keep=2)
    assert (result["changed"], result["removed"], result["kept"]) == (True, ["2", "4"], ["1", "3", "5", "6"])
    assert result["diff"]["prepared"] == "- release 2\n- release 4\n"
    assert left(layout) == ["1", "3", "5", "6"]
    assert prune(keep=2)["changed"] is False


def test_what_never_stayed_live_goes_first(prune: Prune, layout: Layout) -> None:
    """Several attempts in a row must not push out what could be gone back to."""
    failed = [
        {"release": "4", "action": "rollout", "previous": "3", "result": "slot green did not make it"},
        {"release": "5", "action": "flip back", "previous": "3", "result": "slot green did not make it"},
        # At the second attempt.
        {"release": "6", "action": "rollout", "previous": "3", "result": "slot green did not make it"},
        {"release": "6", "action": "rollout", "previous": "3", "result": "ok"},
        # The way to one that was live once.
        {"release": "2", "action": "rollback", "previous": "6", "result": "slot green did not make it"},
    ]
    with open(layout.history, "a", encoding="utf-8") as stream:
        stream.writelines(f"{json.dumps(line)}\n" for line in failed)
    assert prune(keep=3)["kept"] == ["2", "3", "6"]


def test_a_slot_that_drains_keeps_its_release(prune: Prune, layout: Layout) -> None:
    green = Path(layout.slots, "green")
    green.mkdir()
    (green / "release").symlink_to("../../releases/2")
    assert prune(keep=1)["removed"] == ["4", "5"]


def test_what_is_not_complete_is_not_touched(prune: Prune, layout: Layout) -> None:
    Path(layout.releases, "4/release.json").unlink()
    assert prune(keep=1)["removed"] == ["2", "5"]
    assert "4" in left(layout)


def test_an_application_that_is_not_there_has_nothing_to_prune(prune: Prune, layout: Layout) -> None:
    assert layout.app == "shop"
    assert prune(app="other")["changed"] is False


def test_at_least_one_is_kept(prune: Prune, layout: Layout) -> None:
    assert "asgi_release_keep" in prune(keep=0)["msg"]
    assert len(left(layout)) == 6


def test_static_files_of_releases_that_are_gone_go_too(prune: Prune, layout: Layout, tmp_path: Path) -> None:
    union = tmp_path / "opt/shop/static"
    for name, text in (("1", "one"), ("2", "two"), ("6", "six")):
        release = Path(layout.releases, name)
        (release / "app/assets").mkdir()
        (release / f"app/assets/{text}.css").write_text(text)
        (release / "app/assets/logo.svg").write_text(text)
        (release / "release.json").write_text(json.dumps({"built": f"2026-01-0{name}", "static": ["assets"]}))
    (union / "assets/img").mkdir(parents=True)
    for name, text in (("one.css", "one"), ("two.css", "two"), ("six.css", "six"), ("img/two.png", "two"), ("logo.svg", "withdrawn")):
        (union / "assets" / name).write_text(text)
    assert prune(keep=2, check=True)["diff"]["prepared"].endswith("- 2 static files of no release\n")
    assert (union / "assets/two.css").exists()
    prune(keep=2)
    assert {path.name: path.read_text() for path in (union / "assets").iterdir()} == {"one.css": "one", "six.css": "six", "logo.svg": "six"}
    assert prune(keep=2)["changed"] is False
