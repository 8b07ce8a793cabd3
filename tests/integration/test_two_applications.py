"""Several applications in one run: what is known of one must not be taken for what is known of the next."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("found", "left"),
    [("/opt/data/releases/1.0-x", ""), ("/opt/shop/releases/1.0-x", "/opt/shop/releases/1.0-x"), ("/opt/shop/releases-of-data/x", "")],
)
def test_the_release_of_another_application_is_forgotten(tmp_path: Path, found: str, left: str) -> None:
    """It was refused by the next one's rollout. The checks change nothing, so they can run here."""
    checks: list[dict[str, Any]] = [
        {"ansible.builtin.include_role": {"name": f"steadfast.asgi.{role}", "tasks_from": "validate"}}
        for role in ("asgi_release", "asgi_rollout")
    ]
    fact = {"ansible.builtin.set_fact": {"asgi_release_path": found}}
    seen = {"ansible.builtin.assert": {"that": f"asgi_release_path == '{left}'"}}
    variables = {"asgi_app": "shop", "asgi_source": str(ROOT / "tests/apps/plain"), "asgi_import_path": "plain:app"}
    play = {"hosts": "all", "connection": "local", "gather_facts": False, "vars": variables, "tasks": [fact, *checks, seen]}
    (tmp_path / "play.json").write_text(json.dumps([play]), encoding="utf-8")
    command = ["ansible-playbook", "--check", "--inventory=localhost,", str(tmp_path / "play.json")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
