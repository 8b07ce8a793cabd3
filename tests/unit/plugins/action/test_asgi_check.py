"""The action plugin in a play: what the roles refuse is tested with the rules, which are functions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PLAY: dict[str, Any] = {
    "hosts": "all",
    "gather_facts": False,
    "tasks": [
        {"ansible.builtin.import_role": {"name": "steadfast.asgi.asgi_uv", "tasks_from": "validate"}},
        {"steadfast.asgi.asgi_check": {}},
    ],
}


def run(folder: Path, **variables: Any) -> str:
    """Return what Ansible says when two hosts without anything on them are asked for these variables twice."""
    hosts = {"all": {"hosts": {"one": {}, "two": {}}, "vars": {"ansible_connection": "local", **variables}}}
    (folder / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    (folder / "play.json").write_text(json.dumps([PLAY]), encoding="utf-8")
    argv = ["ansible-playbook", "--inventory", str(folder / "hosts.json"), str(folder / "play.json")]
    environment = os.environ | {"ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_misspelt_variable_is_told_once_in_a_run(tmp_path: Path) -> None:
    said = " ".join(run(tmp_path, asgi_service_worker=4, asgi_uv_version="0.13.8", asgi_release_path="").split())
    assert said.count("Did you mean asgi_service_workers?") == 1
    assert said.count("[WARNING]") == 1
