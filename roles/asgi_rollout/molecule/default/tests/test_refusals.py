"""Bad input is refused before anything is changed, by a message that names the variable or the remedy."""

from __future__ import annotations

from typing import Any

import pytest

GOOD = {"asgi_rollout_app": "plain"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"asgi_rollout_app": "a/b"}, "asgi_rollout_app"),
    "name_missing": ({"asgi_rollout_app": ""}, "asgi_app"),
    "unknown_app": ({"asgi_rollout_app": "nowhere"}, "asgi_service"),
    "incomplete_release": ({"asgi_rollout_release": "/opt/plain/releases/none"}, "not a complete release"),
    "release_elsewhere": ({"asgi_rollout_release": "/srv/plain"}, "asgi_rollout_release"),
    "release_up": ({"asgi_rollout_release": "/opt/plain/releases/../slots"}, "asgi_rollout_release"),
    "strategy": ({"asgi_rollout_strategy": "hope"}, "asgi_rollout_strategy"),
    "reload_of_another_release": (
        {"asgi_rollout_strategy": "reload", "asgi_rollout_release": "/opt/plain/releases/none"},
        "not a complete release",
    ),
    "bake_time": ({"asgi_rollout_bake_time": -1}, "asgi_rollout_bake_time"),
    "ready_path": ({"asgi_rollout_ready_path": "ready"}, "asgi_rollout_ready_path"),
    "ready_path_newline": ({"asgi_rollout_ready_path": "/ready\r\nX: y"}, "asgi_rollout_ready_path"),
    "ready_host": ({"asgi_rollout_ready_host": "a b"}, "asgi_rollout_ready_host"),
    "ready_status": ({"asgi_rollout_ready_status": []}, "asgi_rollout_ready_status"),
    "ready_status_text": ({"asgi_rollout_ready_status": ["ok"]}, "asgi_rollout_ready_status"),
    "workers": ({"asgi_rollout_workers": -1}, "asgi_rollout_workers"),
    "migrate_text": ({"asgi_rollout_migrate": "alembic upgrade head"}, "asgi_rollout_migrate"),
    "migrate_empty": ({"asgi_rollout_migrate": [""]}, "asgi_rollout_migrate"),
    "before_mapping": ({"asgi_rollout_before_activate": [{"cmd": "true"}]}, "asgi_rollout_before_activate"),
    "after_number": ({"asgi_rollout_after_activate": [5]}, "asgi_rollout_after_activate"),
    "after_open_quote": ({"asgi_rollout_after_activate": ["echo 'open"]}, "Close the quote"),
    "command_timeout": ({"asgi_rollout_command_timeout": 0}, "asgi_rollout_command_timeout"),
    "boot_timeout": ({"asgi_rollout_boot_timeout": "soon"}, "asgi_rollout_boot_timeout"),
    "drain_timeout": ({"asgi_rollout_drain_timeout": -1}, "asgi_rollout_drain_timeout"),
}


@pytest.fixture(scope="module")
def refusals(refusals_of: Any) -> dict[str, dict[str, str]]:
    return refusals_of("asgi_rollout", {name: GOOD | variables for name, (variables, _) in BAD.items()})


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(refusals: dict[str, dict[str, str]], case: str) -> None:
    for host, said in refusals.items():
        assert BAD[case][1] in said.get(case, "(not refused)"), f"{host}: {said.get(case)}"
